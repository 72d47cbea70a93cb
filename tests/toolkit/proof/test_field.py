"""Laws of the proof in the field: the shipped bundle on the cases at hand, one command, three files, an exit code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from foveola.runtime.bundle import read_unverified, write_bundle
from foveola.runtime.errors import ExitCode
from foveola.runtime.manifest import encode_manifest
from foveola.runtime.predict import Predictor
from foveola.toolkit import cli
from foveola.toolkit.data.dataset import read_dataset
from foveola.toolkit.data.samples import Columns
from foveola.toolkit.parity.evidence import Evidence, decode_evidence
from foveola.toolkit.parity.protocol import Biomarker, Rule, TaskRules, usual_protocol
from foveola.toolkit.proof.cases import read_cases
from foveola.toolkit.proof.collect import collect, gather
from foveola.toolkit.proof.kept_answers import store_answers
from foveola.toolkit.proof.predictions import bundle_predictions
from foveola.toolkit.proof.stored_answers import read_answers, write_answers

BASE = ("parity", "tiny.foveola", "--data", "cases", "--teacher", "answers.npz")
PROVE = (*BASE, "--protocol", "protocol.yaml")


def prove(*words: str, out: str = "out") -> tuple[int, Evidence]:
    code = cli.main([*words, "--out", out])
    return code, decode_evidence(Path(out, "evidence.json").read_bytes())


def change_column(manifest: Path, *dropped: str, **renamed: str) -> None:
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    kept = [{renamed.get(name, name): cell for name, cell in row.items() if name not in dropped} for row in rows]
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)


def test_one_command_leaves_report_evidence_and_flips(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, evidence = prove(*PROVE, "--json")

    said = json.loads(capfd.readouterr().out)
    assert {path.name for path in (place / "out").iterdir()} == {"report.html", "evidence.json", "flips.csv"}
    assert said["exit_code"] == code
    assert (said["verdict"], said["cases"], said["patients"]) == (evidence.verdict, 60, 30)
    assert evidence.bundle_digest == read_unverified(place / "tiny.foveola").core_digest
    assert {one.engine for one in evidence.endpoints} == {"onnxruntime", "openvino"}
    assert {one.task for one in evidence.endpoints} == {"findings", "age", "lungs", "spots"}
    assert evidence.teacher_digest == "e" * 64


def test_the_bundle_answers_as_the_runtime_does(place: Path) -> None:
    _, evidence = prove(*PROVE, "--engine", "onnxruntime")
    bundle = read_unverified(place / "tiny.foveola")
    tasks = tuple(output.task for output in bundle.manifest.outputs)
    dataset = read_dataset(place / "cases", tasks)

    alone = collect(tasks, dataset, bundle_predictions(Predictor(bundle, "onnxruntime"), dataset), {})

    (dice,) = (one for one in evidence.endpoints if one.metric == "dice" and not one.label)
    (mae,) = (one for one in evidence.endpoints if one.metric == "mae")
    assert dice.student == pytest.approx(float(alone.dice["lungs"].mean()))
    assert mae.student == pytest.approx(float(np.abs(alone.scores["age"] - dataset.scalars["age"]).mean()))
    assert dice.difference == 0  # the teacher of these tests is the bundle itself


def test_equal_inputs_give_equal_bytes(place: Path) -> None:
    prove(*PROVE)
    prove(*PROVE, out="again")

    for name in ("report.html", "evidence.json", "flips.csv"):
        assert (place / "out" / name).read_bytes() == (place / "again" / name).read_bytes()


@pytest.mark.parametrize(("spoilt", "code"), [(False, ExitCode.UNDERPOWERED), (True, ExitCode.PROOF_FAILED)])
def test_the_verdict_is_the_exit_code(place: Path, spoilt: bool, code: int) -> None:
    if spoilt:  # a teacher that is right, and a student that says yes far too seldom
        stored = read_answers(place / "answers.npz")
        dataset = read_dataset(place / "cases", stored.meta.tasks)
        row = {one.sha256: n for n, one in enumerate(dataset.samples)}
        right = np.array([dataset.scalars["findings"][row[image]] for image in stored.images], np.float64)
        right = 0.25 + 0.5 * right
        write_answers(
            place / "answers.npz", msgspec.structs.replace(stored, scores={**stored.scores, "findings": right})
        )
        spoil_thresholds(place / "tiny.foveola")

    got, evidence = prove(*PROVE, "--engine", "onnxruntime", "--allow-unsigned")

    assert got == code
    assert {ExitCode.PROOF_FAILED: "fail", ExitCode.UNDERPOWERED: "underpowered"}[ExitCode(got)] == evidence.verdict


def spoil_thresholds(path: Path) -> None:
    bundle = read_unverified(path)
    first = msgspec.structs.replace(bundle.manifest.outputs[0], thresholds=(0.999, 0.999))
    manifest = msgspec.structs.replace(bundle.manifest, outputs=(first, *bundle.manifest.outputs[1:]))
    parts = {name: data for name, data in bundle.members.items() if name != "model.sig"}
    write_bundle(path, {**parts, "manifest.json": encode_manifest(manifest)})


def test_a_student_equal_to_its_teacher_passes(place: Path) -> None:
    stored = read_answers(place / "answers.npz")
    bundle = read_unverified(place / "tiny.foveola")
    dataset = read_dataset(place / "cases", stored.meta.tasks)

    same = store_answers(
        stored.meta.tasks,
        [one.sha256 for one in dataset.samples],
        bundle_predictions(Predictor(bundle, "onnxruntime"), dataset),
        thresholds=stored.meta.thresholds,
        teacher="e" * 64,
    )
    write_answers(place / "answers.npz", same)

    code, evidence = prove(*BASE, "--usual", "--engine", "onnxruntime")

    assert all(one.difference == 0 for one in evidence.endpoints if one.difference is not None)
    assert code == ExitCode.DONE, [one.reason for one in evidence.endpoints if one.verdict != "pass"]


def test_without_a_locked_protocol_the_evidence_says_so(place: Path) -> None:
    _, evidence = prove(*BASE, "--usual")

    assert any("no protocol was locked" in note for note in evidence.notes)


def test_the_evidence_names_the_protocol_that_was_locked(place: Path) -> None:
    _, evidence = prove(*PROVE)

    assert evidence.protocol_digest == json.loads((place / "protocol.lock.json").read_text())["digest"]


# --- columns, rows, reference ---


def test_without_a_reference_standard_nothing_is_proved_but_flips_are_told(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change_column(place / "cases/manifest.csv", "bright", "dark", "age", "lungs", "spots")

    code, evidence = prove(*BASE, "--usual")

    assert code == ExitCode.UNDERPOWERED
    assert all(one.cases == 0 for one in evidence.endpoints)
    assert any("no reference standard for findings, age, lungs, spots" in note for note in evidence.notes)
    assert "no reference standard" in capfd.readouterr().err
    kinds = {row["kind"] for row in csv.DictReader(io.StringIO((place / "out/flips.csv").read_text()))}
    assert kinds <= {"unknown"}
    assert kinds


def test_a_task_without_its_columns_leaves_the_others_provable(place: Path) -> None:
    change_column(place / "cases/manifest.csv", "age")

    _, evidence = prove(*BASE, "--usual", "--engine", "onnxruntime")

    cases = {one.task: one.cases for one in evidence.endpoints if one.primary}
    assert cases["age"] == 0
    assert cases["lungs"] == 60


def test_columns_of_other_names_are_named(place: Path) -> None:
    _, plain = prove(*BASE, "--usual")
    change_column(place / "cases/manifest.csv", bright="b", dark="d", patient_id="mrn", file="image", split="part")
    named = ("findings=b,d", "patient=mrn", "file=image", "split=part")

    _, evidence = prove(*BASE, "--usual", *(word for one in named for word in ("--column", one)), out="again")

    assert evidence.patients == 30
    shown = [[(one.metric, one.student, one.low) for one in many.endpoints] for many in (plain, evidence)]
    assert shown[0] == shown[1]


def test_all_rows_can_be_asked_for(place: Path) -> None:
    change_column(place / "cases/manifest.csv", "split")

    _, evidence = prove(*BASE, "--usual", "--split", "all")

    assert (evidence.split, evidence.cases) == ("all", 60)


def test_a_copied_image_counts_once(place: Path) -> None:
    manifest = place / "cases/manifest.csv"
    lines = manifest.read_text().splitlines()
    (place / "cases/images/copy.png").write_bytes((place / "cases/images/0.png").read_bytes())
    manifest.write_text("\n".join([*lines, lines[1].replace("images/0.png", "images/copy.png")]) + "\n")

    _, evidence = prove(*BASE, "--usual")

    assert evidence.cases == 60
    assert evidence.policies["copies of an image left out"] == 1


# --- masks ---


def test_surface_measures_and_biomarkers_are_those_of_the_masks(place: Path) -> None:
    stored = read_answers(place / "answers.npz")
    tasks = stored.meta.tasks
    rules = TaskRules(endpoints={"dice": Rule(), "nsd": Rule(), "hd95": Rule()}, tolerance=3.0, spacing=0.5)
    marker = Biomarker(kind="cup_disc_ratio", task="lungs", inner=("lung",), outer=("lung",))
    protocol = msgspec.structs.replace(usual_protocol(tasks), tasks={"lungs": rules}, biomarkers={"itself": marker})
    found = read_cases(place / "cases/manifest.csv", tasks, Columns(), "test")
    predictor = Predictor(read_unverified(place / "tiny.foveola"), "onnxruntime")

    gathered = gather(tasks, found.cases, stored, {"onnxruntime": predictor}, protocol=protocol)

    student = gathered.students["onnxruntime"]
    assert set(np.unique(gathered.references.scores["itself"])) == {1.0}
    assert set(np.unique(student.scores["itself"])) == {1.0}
    assert np.all(student.alike["lungs"] == 1)  # the teacher's masks are the bundle's own
    assert np.all((student.nsd["lungs"] >= 0) & (student.nsd["lungs"] <= 1))
    assert np.array_equal(student.hd95["lungs"], gathered.teacher.hd95["lungs"])
    assert gathered.teacher.alike == {}


# --- names, pictures ---


def test_who_holds_the_data_may_keep_names_and_see_pictures(place: Path) -> None:
    _, evidence = prove(*PROVE, "--names", "--pictures", "3")

    flipped = {flip.case for flip in evidence.flips}
    assert flipped <= {f"images/{n}.png" for n in range(60)}
    assert (place / "out/report.html").read_text().count("data:image/png;base64,") == min(3, len(flipped))


def test_every_flip_is_in_the_table(place: Path) -> None:
    _, evidence = prove(*PROVE)

    rows = list(csv.DictReader(io.StringIO((place / "out/flips.csv").read_text())))
    assert len(rows) == sum(evidence.flip_counts.values()) > 0
    assert {row["case"][:5] for row in rows} == {"case-"}
