from __future__ import annotations

from pathlib import Path

import torch
from small import SPEC, STUDENT, TASKS, squares
from torch import Tensor, nn

from foveola.runtime.bundle import open_bundle
from foveola.runtime.predict import open_predictor
from foveola.runtime.selftest import self_test
from foveola.toolkit.knobs import Plan
from foveola.toolkit.parity.evidence import decode_evidence
from foveola.toolkit.road import compress_teacher
from foveola.toolkit.teachers.external import GivenTeacher

CLASSES = tuple(task for task in TASKS if task.name in ("bright", "corner", "side"))


class Mine(nn.Module):
    """A teacher as a user would write one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 5, 5, stride=4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pooled = self.body(x).relu().mean((2, 3))
        return {"bright": pooled[:, :1], "corner": pooled[:, 1:4], "side": pooled[:, 4:]}


def test_any_module_goes_the_whole_road_with_one_call(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = squares(tmp_path / "data", CLASSES)

    evidence = compress_teacher(
        GivenTeacher(Mine(), CLASSES, SPEC).eval(),
        data,
        tmp_path / "out",
        name="mine",
        precisions=("int8",),  # so small a network is faster in float
        student=STUDENT,
        plan=Plan(epochs=1, batch_size=4, learning_rate=1e-3),
        calibration_split="calibration",
        min_images=2,
        resamples=100,
    )

    bundle = open_bundle(tmp_path / "out/mine.foveola")
    shipped = decode_evidence(bundle.members["parity.json"])
    assert shipped.endpoints == evidence.endpoints
    assert [flip.severity for flip in shipped.flips] == [flip.severity for flip in evidence.flips]
    assert {what.what for what in shipped.changes} >= {
        "architecture",
        "precision on onnxruntime",
        "thresholds of bright",
    }
    assert evidence.bundle_digest == bundle.core_digest
    assert bundle.manifest.calibration.images == 2
    assert all(self_test(bundle, engine).ok for engine in ("onnxruntime", "openvino"))
    prediction = open_predictor(tmp_path / "out/mine.foveola").predict(data.samples[0].path)
    assert [one.task for one in prediction.findings] == ["bright"]
    assert [one.unit for one in prediction.measurements] == ["px"]


def test_no_name_of_a_case_or_patient_travels_with_the_bundle(tmp_path: Path) -> None:
    data = squares(tmp_path / "data", CLASSES)

    compress_teacher(
        GivenTeacher(Mine(), CLASSES, SPEC).eval(), data, tmp_path / "out", name="mine", student=STUDENT,
        plan=Plan(epochs=1, batch_size=4, learning_rate=1e-3), calibration_split="calibration", min_images=2,
        resamples=100,
    )  # fmt: skip

    kept = (tmp_path / "out/flips.csv").read_bytes()
    names = [sample.key.encode() for sample in data.samples]
    members = open_bundle(tmp_path / "out/mine.foveola").members
    flips = decode_evidence(members["parity.json"]).flips
    assert any(name in kept for name in names)  # the search would find them
    assert not any(name in b"".join(members.values()) for name in names)
    assert flips
    assert all(flip.patient.startswith("patient-") for flip in flips)
