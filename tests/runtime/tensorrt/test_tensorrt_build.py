from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveola.runtime.__main__ import main
from foveola.runtime.bundle import Bundle, write_bundle
from foveola.runtime.errors import FoveolaError, MissingPartError
from foveola.runtime.predict import Predictor
from foveola.runtime.tensorrt.build import build_engine
from foveola.runtime.tensorrt.plan import ENGINE, RECORD, TIMING, decode_record, engines_folder

Machine = Callable[..., Any]
Capture = pytest.CaptureFixture[str]


def test_an_engine_is_built_strongly_typed_without_tf32_and_without_precision_flags(
    machine: Machine, bundle: Bundle, tmp_path: Path
) -> None:
    here = machine()

    built = build_engine(bundle, engines=tmp_path)

    assert built.state == "built"
    assert here.builds == [{"typed": True, "flags": set(), "level": 3}]


def test_a_built_engine_answers_as_the_typed_graph_does(
    machine: Machine, bundle: Bundle, tmp_path: Path, tiny_image: bytes
) -> None:
    build_engine(bundle, engines=tmp_path)

    engine, graph = Predictor(bundle, "tensorrt", tmp_path), Predictor(bundle, "onnxruntime")

    for ours, theirs in zip(engine.predict(tiny_image).findings, graph.predict(tiny_image).findings, strict=True):
        assert ours.positive == theirs.positive
        assert ours.probability == pytest.approx(theirs.probability, abs=2e-3)


def test_the_record_names_engine_graph_plan_timings_gpu_and_release(
    machine: Machine, bundle: Bundle, tmp_path: Path
) -> None:
    import hashlib

    here = machine()
    built = build_engine(bundle, engines=tmp_path)
    files = {name: (built.folder / name).read_bytes() for name in (ENGINE, TIMING)}

    record = decode_record((built.folder / RECORD).read_bytes())

    assert record == built.record
    assert record.engine_sha256 == hashlib.sha256(files[ENGINE]).hexdigest()
    assert record.timing_sha256 == hashlib.sha256(files[TIMING]).hexdigest()
    assert record.graph_sha256 == hashlib.sha256(bundle.members["tensorrt.onnx"]).hexdigest()
    assert record.plan_sha256 == hashlib.sha256(bundle.members["tensorrt.json"]).hexdigest()
    assert (record.target.gpu, record.target.compute_capability, record.target.cuda) == ("Orin", "8.7", "12.6")
    assert record.target.tensorrt == here.tensorrt
    assert (record.tested.images, record.tested.flips) == (1, 0)
    assert built.folder.name.endswith(f"-sm87-trt{here.tensorrt}")


def test_a_good_engine_is_found_and_tested_again_not_built_again(
    machine: Machine, bundle: Bundle, tmp_path: Path
) -> None:
    here = machine()
    first = build_engine(bundle, engines=tmp_path)

    second = build_engine(bundle, engines=tmp_path)

    assert (second.state, second.record, len(here.builds)) == ("found", first.record, 1)
    assert second.test.ok


def test_a_second_build_starts_from_the_timings_of_the_first(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    first = build_engine(bundle, engines=tmp_path)

    second = build_engine(bundle, engines=tmp_path, force=True)

    assert (first.record.timing_reused, second.record.timing_reused) == (False, True)
    assert len((second.folder / TIMING).read_bytes()) > 0


def test_timings_that_are_not_those_of_their_record_are_not_used(
    machine: Machine, bundle: Bundle, tmp_path: Path
) -> None:
    first = build_engine(bundle, engines=tmp_path)
    (first.folder / TIMING).write_bytes(b"of somebody else")

    assert not build_engine(bundle, engines=tmp_path, force=True).record.timing_reused


def test_an_engine_that_was_changed_is_built_anew(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    first = build_engine(bundle, engines=tmp_path)
    (first.folder / ENGINE).write_bytes(b"another")
    told: list[str] = []

    second = build_engine(bundle, engines=tmp_path, progress=told.append)

    assert second.state == "built"
    assert any("of no use" in line and "is not the engine" in line for line in told)


def test_an_engine_that_fails_the_self_test_is_not_kept(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    machine().shift = 3.0

    with pytest.raises(FoveolaError, match=r"self-test of the engine: .*drifted.*do not use this engine"):
        build_engine(bundle, engines=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_the_older_engine_in_its_place(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    here = machine()
    first = build_engine(bundle, engines=tmp_path)
    here.faults["build"] = "out of workspace"

    with pytest.raises(FoveolaError, match=r"builds no engine \(out of workspace\)"):
        build_engine(bundle, engines=tmp_path, force=True)

    assert decode_record((first.folder / RECORD).read_bytes()) == first.record
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


def test_a_graph_that_the_parser_refuses_is_told_in_its_words(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    here = machine()
    here.faults["parse"] = "In node 3: UNSUPPORTED_NODE"

    with pytest.raises(FoveolaError, match=rf"TensorRT {here.tensorrt} does not read it \(In node 3: UNSUPPORTED"):
        build_engine(bundle, engines=tmp_path)


@pytest.mark.parametrize("version", ["8.6.2", "10.2.0", "12.0.1"])
def test_a_release_that_the_kit_is_not_for_is_refused(
    machine: Machine, bundle: Bundle, tmp_path: Path, version: str
) -> None:
    machine(version)

    with pytest.raises(FoveolaError, match=f"TensorRT {version} is here; the kit is for >=10.3,<12"):
        build_engine(bundle, engines=tmp_path)


def test_without_a_gpu_the_error_says_so(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    machine().gpus = 0

    with pytest.raises(FoveolaError, match="cudaErrorNoDevice"):
        build_engine(bundle, engines=tmp_path)


def test_a_bundle_without_a_kit_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(FoveolaError, match="holds no build kit for TensorRT"):
        build_engine(tiny_bundle)


def test_without_tensorrt_the_install_line_is_given(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foveola.runtime.tensorrt.build.is_installed", lambda engine: False)

    with pytest.raises(MissingPartError, match=r"tensorrt: is not installed; pip install 'foveola\[tensorrt\]'"):
        build_engine(bundle, engines=tmp_path)


def test_a_kit_whose_plan_is_of_another_graph_is_refused(
    machine: Machine, kit_members: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    other = kit_members(findings=([9.0, -9.0], [-2.0, 2.0]))
    mixed = write_bundle(tmp_path / "mixed.foveola", {**kit_members(), "tensorrt.onnx": other["tensorrt.onnx"]})

    with pytest.raises(FoveolaError, match=r"tensorrt\.json: is the plan of graph"):
        build_engine(mixed)


def test_engines_lie_beside_the_bundle_unless_named_otherwise(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path("/srv/chest.foveola")

    assert engines_folder(bundle) == Path("/srv/chest.foveola.engines")
    monkeypatch.setenv("FOVEOLA_ENGINES", "/var/engines")
    assert engines_folder(bundle) == Path("/var/engines")
    assert engines_folder(bundle, Path("here")) == Path("here")
    assert engines_folder(None) == Path("/var/engines")


def test_the_verb_builds_and_the_device_then_predicts(
    machine: Machine,
    kit_path: Path,
    tmp_path: Path,
    tiny_image: bytes,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOVEOLA_ENGINES", str(tmp_path / "engines"))
    picture = tmp_path / "image.png"
    picture.write_bytes(tiny_image)

    assert main(["predict", str(kit_path), str(picture), "--engine", "tensorrt"]) == 1
    assert "run `foveola build-engine BUNDLE`" in capsys.readouterr().err

    assert main(["build-engine", str(kit_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == "built"
    assert "Building Engine: 3 steps" in err
    assert "Timing" not in err

    assert main(["predict", str(kit_path), str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "tensorrt"
    assert main(["selftest", str(kit_path), "--engine", "tensorrt"]) == 0


def test_the_verb_asks_first_who_vouches_for_the_bundle(
    machine: Machine, kit_members: Callable[..., dict[str, bytes]], tmp_path: Path, capsys: Capture
) -> None:
    here = machine()
    unsigned = tmp_path / "unsigned.foveola"
    write_bundle(unsigned, kit_members())

    assert main(["build-engine", str(unsigned), "--key", str(tmp_path / "no.pub")]) == 5
    assert here.builds == []
    assert capsys.readouterr().out == ""


def test_the_same_numbers_come_out_whatever_thread_asks(machine: Machine, bundle: Bundle, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    build_engine(bundle, engines=tmp_path)
    predictor = Predictor(bundle, "tensorrt", tmp_path)
    images = [np.full((1, 1, 32, 32), i / 8, np.float32) for i in range(8)]
    alone = [predictor.run(image)["findings"] for image in images]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: predictor.run(image)["findings"], images * 4))

    for i, answer in enumerate(together):
        assert np.array_equal(answer, alone[i % 8])
