from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small import PLAN, STUDENT, TEACHER, silent, squares

from foveola.export.onnx_graph import export_onnx
from foveola.export.quantize import quantize_onnx
from foveola.runtime.errors import FoveolaError
from foveola.toolkit.compress.lessons import read_taught
from foveola.toolkit.compress.rehearse import REHEARSED, Rehearsal, Rehearsed, rehearse_student
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset
from foveola.toolkit.finished import finish
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Lessons
from foveola.toolkit.models.dense_teacher import as_graph
from foveola.toolkit.models.network import load_network
from foveola.toolkit.models.outputs import graph_outputs

STEP = msgspec.structs.replace(PLAN, epochs=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """A teacher and a student of other weights, each finished, and the data, whose test images are gone."""
    root = tmp_path_factory.mktemp("rehearse")
    data = squares(root / "data")
    for role, shape in (("teacher", TEACHER), ("student", STUDENT)):
        (root / role).mkdir()
        finish(new_network(role, data, shape, seed=1), data, [], root / role, root / "cache")  # type: ignore[arg-type]
    for sample in data.subset("test", "calibration").samples:
        sample.path.unlink()
    quantise(data)(root / "student", root / "int8")
    return root, data


def quantise(data: Dataset) -> Callable[[Path, Path], None]:
    def write(student: Path, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        network = load_network(student)
        export_onnx(as_graph(network), network.input, graph_outputs(network), folder / "float.onnx", opset=18)
        images = prepare_arrays(data.subset("val"), network.input).images
        quantize_onnx(folder / "float.onnx", folder / "model.onnx", [np.array(x[None]) for x in images], min_images=1)
        shutil.copyfile(student / "model.safetensors", folder / "model.safetensors")

    return write


def rehearse(made: tuple[Path, Dataset], out: Path, said: list[str], **changed: Path | Rehearsal) -> Rehearsed:
    root, data = made
    given: dict[str, Path | Rehearsal] = {
        "student": root / "student",
        "int8": root / "int8",
        "teacher": root / "teacher",
    }
    given |= changed
    student, int8, teacher = given["student"], given["int8"], given["teacher"]
    assert isinstance(student, Path)
    assert isinstance(int8, Path)
    assert isinstance(teacher, Path)
    digest = ("c" if "teacher" not in changed else "d") * 64  # answers are kept by it
    how = given.get("how", Rehearsal())
    assert isinstance(how, Rehearsal)
    out.mkdir()
    return rehearse_student(
        student, int8, teacher, digest, data, STEP, Lessons(), how, requantise=quantise(data),
        folder=out, cache=root / "cache", seed=0, report=silent, say=said.append,
    )  # fmt: skip


def test_what_was_forgotten_is_found_drawn_more_often_and_counted_again(
    made: tuple[Path, Dataset], tmp_path: Path
) -> None:
    said: list[str] = []

    record = rehearse(made, tmp_path / "out", said)

    assert record.images == 8
    assert 0 < record.flipped <= 8  # two random networks decide otherwise
    assert record.drawn_more > 0
    assert 1 < record.largest <= 6
    assert record.rare
    assert record.after is not None
    assert record.before.forgotten("train") >= record.flipped
    assert set(record.before.scores) == set(record.after.scores)
    assert msgspec.json.decode((tmp_path / "out" / REHEARSED).read_bytes(), type=Rehearsed) == record
    assert read_taught(tmp_path / "out") == "c" * 64
    assert f"{record.flipped} of 8 training images flipped" in said[0]
    assert f"val {record.before.forgotten('val')} -> {record.after.forgotten('val')}" in said[1]
    old, new = (load_network(folder).state_dict() for folder in (made[0] / "student", tmp_path / "out"))
    assert any(not (old[name] == new[name]).all() for name in old)


def test_a_student_that_forgot_nothing_stays_as_it_is(made: tuple[Path, Dataset], tmp_path: Path) -> None:
    root, said = made[0], list[str]()
    own = tmp_path / "own"  # a student that is its own teacher, and whose artefact is its float graph
    shutil.copytree(root / "student", own)
    (own / "history.json").write_text("[]")
    shutil.copytree(root / "int8", tmp_path / "float")
    shutil.copyfile(root / "int8/float.onnx", tmp_path / "float/model.onnx")

    record = rehearse(
        made, tmp_path / "out", said, student=own, teacher=own, int8=tmp_path / "float", how=Rehearsal(rare=False)
    )

    assert record.flipped == record.drawn_more == 0
    assert "the student stays as it is" in said[0]
    assert (tmp_path / "out/model.safetensors").read_bytes() == (own / "model.safetensors").read_bytes()


def test_the_int8_graph_of_another_student_is_refused(made: tuple[Path, Dataset], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    finish(new_network("student", made[1], STUDENT, seed=2), made[1], [], other, made[0] / "cache")

    with pytest.raises(FoveolaError, match="name the quantize step of the same student"):
        rehearse(made, tmp_path / "out", [], student=other)
