from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from foveola.runtime.bundle import Bundle, write_bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.predict import Predictor
from foveola.runtime.tensorrt.build import build_engine
from foveola.runtime.tensorrt.plan import ENGINE, RECORD, decode_record, encode_record

Machine = Callable[..., Any]


def test_a_session_without_an_engine_says_how_one_is_built_and_builds_none(
    machine: Machine, bundle: Bundle, tmp_path: Path
) -> None:
    here = machine()

    with pytest.raises(FoveolaError) as refused:
        Predictor(bundle, "tensorrt", tmp_path)

    assert f"no engine has been built for Orin (compute capability 8.7) and TensorRT {here.tensorrt}" in str(
        refused.value
    )
    assert "run `foveola build-engine BUNDLE` on this machine" in str(refused.value)
    assert here.builds == []


@pytest.mark.parametrize(
    "other",
    [{"gpu": "NVIDIA L4", "capability": (8, 9)}, {"tensorrt": "10.7.0"}],
    ids=["another GPU", "another release"],
)
def test_an_engine_for_something_else_is_told_with_what_is_here(
    machine: Machine, bundle: Bundle, tmp_path: Path, other: dict[str, Any]
) -> None:
    before = machine()
    words = f"was built for Orin (compute capability 8.7) and TensorRT {before.tensorrt}; here is "
    build_engine(bundle, engines=tmp_path)
    here = machine(**other)

    with pytest.raises(FoveolaError) as refused:
        Predictor(bundle, "tensorrt", tmp_path)

    major, minor = here.capability
    assert words + f"{here.gpu} (compute capability {major}.{minor}) and TensorRT {here.tensorrt}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_that_was_renamed_for_another_gpu_is_refused_by_its_record(
    machine: Machine, bundle: Bundle, tmp_path: Path
) -> None:
    built = build_engine(bundle, engines=tmp_path)
    machine(gpu="NVIDIA L4", capability=(8, 9))
    built.folder.rename(built.folder.with_name(built.folder.name.replace("sm87", "sm89")))

    with pytest.raises(FoveolaError, match=r"was built for Orin \(compute capability 8\.7\).*; here is NVIDIA L4"):
        Predictor(bundle, "tensorrt", tmp_path)


def test_an_engine_of_another_graph_is_refused(
    machine: Machine, bundle: Bundle, kit_members: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    build_engine(bundle, engines=tmp_path)
    other = write_bundle(tmp_path / "o.foveola", kit_members(findings=([9.0, -9.0], [-2.0, 2.0])))

    with pytest.raises(FoveolaError, match="engines are of another graph"):
        Predictor(other, "tensorrt", tmp_path)


def test_a_record_that_names_another_graph_is_refused(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    built = build_engine(bundle, engines=tmp_path)
    wrong = msgspec.structs.replace(built.record, graph_sha256="0" * 64)
    (built.folder / RECORD).write_bytes(encode_record(wrong))

    with pytest.raises(FoveolaError, match="was built from graph 000000000000, the bundle's is"):
        Predictor(bundle, "tensorrt", tmp_path)


@pytest.mark.parametrize("change", ["longer", "other bytes", "gone"])
def test_an_engine_file_that_is_not_the_tested_one_is_never_loaded(
    machine: Machine, bundle: Bundle, tmp_path: Path, change: str
) -> None:
    path = build_engine(bundle, engines=tmp_path).folder / ENGINE
    data = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(data + b"x" if change == "longer" else data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(FoveolaError, match=r"foveola build-engine"):
        Predictor(bundle, "tensorrt", tmp_path)


def test_an_engine_that_everybody_may_exchange_is_refused(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    folder = build_engine(bundle, engines=tmp_path).folder
    folder.chmod(0o777)

    with pytest.raises(FoveolaError, match="everybody may write there, and an engine is native code"):
        Predictor(bundle, "tensorrt", tmp_path)


def test_an_engine_below_a_folder_of_everybody_is_refused_unless_we_were_the_first_there(
    machine: Machine, bundle: Bundle, tmp_path: Path
) -> None:
    everybodys = tmp_path / "tmp"
    everybodys.mkdir()
    build_engine(bundle, engines=everybodys / "chest.engines")
    everybodys.chmod(0o777)

    with pytest.raises(FoveolaError, match="tmp: everybody may write there"):
        Predictor(bundle, "tensorrt", everybodys / "chest.engines")

    everybodys.chmod(0o1777)  # as /tmp is
    assert Predictor(bundle, "tensorrt", everybodys / "chest.engines").engine == "tensorrt"


def test_an_engine_that_a_stranger_put_into_a_folder_of_everybody_is_never_loaded(
    machine: Machine, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybodys = tmp_path / "tmp"
    everybodys.mkdir()
    build_engine(bundle, engines=tmp_path / "mine")
    (everybodys / "chest.engines").symlink_to(tmp_path / "mine")
    everybodys.chmod(0o1777)
    stranger = everybodys.stat().st_uid + 1
    real = Path.lstat
    monkeypatch.setattr(
        Path, "lstat", lambda self: _of(stranger, real(self)) if self.name == "chest.engines" else real(self)
    )

    with pytest.raises(FoveolaError, match="tmp: everybody may write there"):
        Predictor(bundle, "tensorrt", everybodys / "chest.engines")


def _of(owner: int, found: os.stat_result) -> os.stat_result:
    return os.stat_result((*found[:4], owner, *found[5:]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "cannot be read"),
        (b'{"format": 1, "colour": 2}', "unknown field"),
    ],
)
def test_a_record_that_is_none_is_refused(
    machine: Machine, bundle: Bundle, tmp_path: Path, data: bytes, words: str
) -> None:
    folder = build_engine(bundle, engines=tmp_path).folder
    (folder / RECORD).write_bytes(data)

    with pytest.raises(FoveolaError, match=words):
        Predictor(bundle, "tensorrt", tmp_path)


def test_a_record_of_a_later_format_is_refused(machine: Machine, bundle: Bundle) -> None:
    with pytest.raises(FoveolaError, match="unknown field|format 2 is unknown|cannot be read"):
        decode_record(b'{"format": 2}')


def test_memory_on_the_gpu_is_taken_once_and_given_back(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    here = machine()
    build_engine(bundle, engines=tmp_path)
    gc.collect()
    assert here.allocated == {}

    predictor = Predictor(bundle, "tensorrt", tmp_path)
    taken = set(here.allocated)
    for _ in range(3):
        predictor.run(np.zeros((1, 1, 32, 32), np.float32))

    assert len(taken) == 7  # the image and six outputs
    assert set(here.allocated) == taken
    del predictor
    gc.collect()
    assert here.allocated == {}


def test_too_little_memory_on_the_gpu_is_one_line(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    here = machine()
    build_engine(bundle, engines=tmp_path)
    here.faults["memory"] = "full"

    with pytest.raises(FoveolaError, match="cudaMalloc says cudaErrorMemoryAllocation; free memory on the GPU"):
        Predictor(bundle, "tensorrt", tmp_path)


def test_a_run_that_fails_on_the_gpu_gives_no_answer(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    here = machine()
    build_engine(bundle, engines=tmp_path)
    predictor = Predictor(bundle, "tensorrt", tmp_path)
    here.faults["run"] = "sticky error"

    with pytest.raises(FoveolaError, match="the engine failed"):
        predictor.run(np.zeros((1, 1, 32, 32), np.float32))


def test_what_was_returned_does_not_change_with_the_next_image(
    machine: Machine, bundle: Bundle, tmp_path: Path
) -> None:
    build_engine(bundle, engines=tmp_path)
    predictor = Predictor(bundle, "tensorrt", tmp_path)
    first = predictor.run(np.zeros((1, 1, 32, 32), np.float32))["findings"]
    kept = first.copy()

    predictor.run(np.ones((1, 1, 32, 32), np.float32))

    assert np.array_equal(first, kept)
