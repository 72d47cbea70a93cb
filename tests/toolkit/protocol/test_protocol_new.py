"""Laws of making a protocol: from a bundle, a recipe or a step, on data by digest, and by the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm
from small import TASKS

from foveola.runtime.bundle import write_bundle
from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    Provenance,
    TaskOutput,
    encode_manifest,
)
from foveola.runtime.prediction import Finding, Prediction
from foveola.runtime.task import Task
from foveola.toolkit import cli, pipeline
from foveola.toolkit.commands.run import load_recipe
from foveola.toolkit.data.cells import plain_task
from foveola.toolkit.data.dataset import Columns, read_dataset
from foveola.toolkit.parity.protocol import Rule
from foveola.toolkit.progress import SilentProgress
from foveola.toolkit.proof.kept_answers import store_answers
from foveola.toolkit.proof.stored_answers import write_answers
from foveola.toolkit.protocol.file import lock_path, lock_protocol, read_locked, read_protocol
from foveola.toolkit.protocol.new import Origin, guess_attributes, new_protocol
from foveola.toolkit.protocol.power import plan_files
from foveola.toolkit.protocol.text import protocol_yaml
from foveola.toolkit.stages.protocol import read_step

VIEW = Task(name="view", kind="binary", classes=("PA", "AP|AP Supine"), margins={"auc": 0.03}, critical=("AP",))
RECIPE = """\
name: tiny
device: generic-x86
seed: 5
data: {stage: manifest, root: data, columns: {attributes: [sex, age, code, site]}}
tasks:
  view: {kind: binary, classes: [PA, AP|AP Supine], margins: {auc: 0.03}, critical: [AP]}
steps:
  claims: {stage: protocol, resamples: 500}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and its data: 120 pictures of 60 patients, half of them for the proof."""
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    rows = []
    for n in range(120):
        Image.new("L", (8, 8), n).save(images / f"{n}.png")
        rows.append(
            {
                "file": f"images/{n}.png",
                "patient_id": f"p{n // 2}",
                "split": "test" if n < 60 * 2 - 10 else "val",
                "sex": "FM"[n // 2 % 2],
                "age": 20 + n // 2,
                "code": f"c{n}",
                "site": "north",
                "view": ("PA", "AP Supine")[n % 2],
            }
        )
    with (tmp_path / "data" / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bundle(path: Path, task: Task) -> Path:
    manifest = Manifest(
        format=FORMAT,
        name="shipped",
        version="1",
        device="generic-x86",
        input=InputSpec(height=8, width=8, channels=1),
        outputs=(TaskOutput(task=task, tensors=(task.name,), thresholds=(0.5,)),),
        engines=(OnnxRuntimeOptions(),),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        provenance=Provenance(
            recipe="r",
            recipe_digest="",
            data_digest="",
            teacher_digest="e" * 64,
            student_digest="",
            seed=9,
            versions={},
        ),
    )
    write_bundle(path, {"manifest.json": encode_manifest(manifest), "model.onnx": b"graph"})
    return path


def test_a_recipe_gives_its_tasks_margins_data_and_subgroups(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["protocol", "new", "tiny.yaml"]) == 0

    protocol = read_protocol(Path("protocol.yaml"))
    assert (protocol.name, protocol.seed, protocol.resamples) == ("tiny", 5, 2000)
    assert protocol.tasks["view"].classes == ("PA", "AP")
    assert protocol.tasks["view"].endpoints["auc"] == Rule(margin=0.03)
    assert protocol.tasks["view"].endpoints["sensitivity"] == Rule(margin=0.02)
    assert protocol.tasks["view"].critical == ("AP",)
    assert protocol.data.digest == read_dataset(place / "data", [VIEW]).digest
    assert protocol.data.subgroups == ("sex", "age")
    said = capfd.readouterr().err
    assert "code: 110 values, it names cases and no groups" in said
    assert "site: one value only" in said


def test_a_bundle_gives_its_tasks_and_its_teacher(place: Path) -> None:
    plain = Task(name="view", kind="binary", classes=("PA", "AP"), columns=("sight",), margins={"auc": 0.05})
    manifest = place / "data" / "manifest.csv"
    text = manifest.read_text(encoding="utf-8").replace("site,view", "site,sight").replace("AP Supine", "AP")
    manifest.write_text(text, encoding="utf-8")
    file = bundle(place / "shipped.foveola", plain)

    assert cli.main(["protocol", "new", str(file), "--data", "data", "-o", "mine.yaml"]) == 0

    protocol = read_protocol(Path("mine.yaml"))
    assert (protocol.name, protocol.teacher, protocol.seed) == ("shipped", "e" * 64, 9)
    assert protocol.tasks["view"].endpoints["auc"] == Rule(margin=0.05)
    assert protocol.data.digest == read_dataset(place / "data", [plain]).digest
    assert protocol.data.subgroups == ("sex", "age")


def test_without_data_the_digest_is_empty_and_that_is_said(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["protocol", "new", "tiny.yaml", "--set", "data.root=elsewhere"]) == 0

    assert read_protocol(Path("protocol.yaml")).data.digest == ""
    assert "any data set fits" in capfd.readouterr().err


def test_a_protocol_is_never_written_over(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main(["protocol", "new", "tiny.yaml"])
    before = Path("protocol.yaml").read_bytes()

    assert cli.main(["protocol", "new", "tiny.yaml"]) == 2

    assert Path("protocol.yaml").read_bytes() == before
    assert "protocol.yaml: is there already; " in capfd.readouterr().err


def test_columns_that_describe_the_cases_are_guessed_and_no_others(place: Path) -> None:
    path = place / "data" / "manifest.csv"

    assert guess_attributes(path, Columns(), [VIEW]) == ("sex", "age")


def test_the_usual_protocol_is_valid_for_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "protocol.yaml"
    protocol = new_protocol(Origin(name="all", tasks=TASKS))
    path.write_text(protocol_yaml(protocol), encoding="utf-8")

    assert read_protocol(path) == protocol


# --- lock and show ---


def test_lock_prints_the_digest_that_the_proof_will_name(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main(["protocol", "new", "tiny.yaml"])
    capfd.readouterr()

    assert cli.main(["protocol", "lock", "protocol.yaml", "tiny.yaml", "--data", "data", "--json"]) == 0

    said = json.loads(capfd.readouterr().out)
    assert said["digest"] == read_locked(Path("protocol.yaml")).digest
    assert said["file"] == "protocol.lock.json"


MISFITS = {
    "another digest": ("digest: ", "digest: " + "f" * 64 + " #", "that of data is"),
    "an absent subgroup": ("[sex, age]", "[sex, ages]", "no column 'ages' (attribute); did you mean 'age'?"),
    "an identifier": ("[sex, age]", "[sex, code]", "'code' has 110 values, more than 50: it names cases and no groups"),
    "an empty split": ("split: test", "split: train", "no case in split 'train'"),
    "another task": ("  view:", "  views:", "tasks.views: the bundle has no such task"),
    "other classes": (
        "classes: [PA, AP]",
        "classes: [AP, PA]",
        "the classes are AP, PA in the protocol, PA, AP in the",
    ),
}


@pytest.mark.parametrize(("before", "after", "said"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_bundle_or_data_is_not_locked(
    place: Path, capfd: pytest.CaptureFixture[str], before: str, after: str, said: str
) -> None:
    cli.main(["protocol", "new", "tiny.yaml"])
    path = Path("protocol.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
    capfd.readouterr()

    assert cli.main(["protocol", "lock", "protocol.yaml", "tiny.yaml", "--data", "data/manifest.csv"]) in (1, 2)

    err = capfd.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not lock_path(path).exists()


def test_show_tells_whether_it_is_locked_and_what_changed(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main(["protocol", "new", "tiny.yaml"])
    cli.main(["protocol", "lock", "protocol.yaml"])
    path = Path("protocol.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("margin: 0.03", "margin: 0.05"), encoding="utf-8")
    capfd.readouterr()

    assert cli.main(["protocol", "show", "protocol.yaml"]) == 0

    out = capfd.readouterr().out
    assert "changed since locked on 20" in out
    assert "changed  tasks.view.endpoints.auc.margin: 0.03 -> 0.05" in out
    assert "area under the ROC curve" in out
    assert max(map(len, out.splitlines())) <= 100


# --- the step ---


def test_a_step_fixes_the_protocol_before_any_student(place: Path) -> None:
    outcome = pipeline.run(load_recipe("tiny.yaml", ()), Path("runs"), SilentProgress())

    protocol = read_step(next(Path("runs/tiny").glob("claims-*")))
    assert outcome.exit_code == 0
    assert protocol.resamples == 500
    assert protocol.data.subgroups == ("sex", "age")
    assert protocol.tasks["view"].endpoints["auc"].margin == 0.03


def test_a_step_takes_a_locked_file_and_refuses_one_that_changed(place: Path) -> None:
    cli.main(["protocol", "new", "tiny.yaml"])
    path = Path("protocol.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("margin: 0.03", "margin: 0.04"), encoding="utf-8")
    digest = lock_protocol(path).digest
    change = ("steps.claims.file=protocol.yaml",)

    pipeline.run(load_recipe("tiny.yaml", change), Path("runs"), SilentProgress())
    taken = read_step(next(Path("runs/tiny").glob("claims-*")))
    path.write_text(path.read_text(encoding="utf-8").replace("margin: 0.04", "margin: 0.05"), encoding="utf-8")

    assert taken.digest == digest
    with pytest.raises(FoveolaError, match="margin: 0.04 -> 0.05"):
        pipeline.run(load_recipe("tiny.yaml", change), Path("runs"), SilentProgress())


def test_a_step_refuses_subgroups_that_are_identifiers_before_anything_runs(place: Path) -> None:
    recipe = load_recipe("tiny.yaml", ("steps.claims.subgroups=[code]",))

    with pytest.raises(UsageError, match="'code' has 110 values"):
        pipeline.run(recipe, Path("runs"), SilentProgress())


def test_a_folder_without_a_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="not a protocol"):
        read_step(tmp_path)


# --- power ---

POWER = ["protocol", "power", "protocol.yaml", "--data", "data", "--answers", "teacher.npz", "--of", "tiny.yaml"]


@pytest.fixture
def answers(place: Path) -> Path:
    """The teacher's answers to all cases of the proof but ten, in another order and with one image more."""
    samples = read_dataset(place / "data", [VIEW])
    some = [n for n, sample in enumerate(samples.samples) if sample.split == "test"][:100][::-1]
    noise = np.random.default_rng(0).standard_normal(len(some))
    chances = norm.cdf(noise + 2 * samples.scalars["view"][some, 0] - 1).tolist()
    given = [
        Prediction(findings=(Finding(task="view", label="AP", probability=one, threshold=0.5, positive=one >= 0.5),))
        for one in [0.5, *chances]
    ]
    path = place / "teacher.npz"
    images = ["f" * 64, *(samples.samples[n].sha256 for n in some)]
    kept = store_answers((plain_task(VIEW),), images, given, thresholds={"view": (0.5,)}, teacher="e" * 64)
    write_answers(path, kept)
    return path


def test_power_plans_from_the_teachers_stored_answers(
    place: Path, answers: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli.main(["protocol", "new", "tiny.yaml"])
    capfd.readouterr()

    plans = plan_files(Path("protocol.yaml"), place / "data", answers, origin="tiny.yaml", correlation=0.95)
    code = cli.main(POWER)

    assert {one.metric for one in plans.asked if one.primary} == {"auc", "sensitivity", "specificity"}
    assert all(one.cases == 100 and one.patients == 50 for one in plans.asked if one.metric != "critical_loss")
    assert list(plans.others) == [0.9, 0.95, 0.98, 0.99, 0.995]
    assert plans.others[0.95] == plans.asked
    out, err = capfd.readouterr()
    assert code == 0
    assert "10 cases have no stored answer and are left out" in err
    assert "Needed cases by the correlation of teacher and student:" in out
    assert max(map(len, out.splitlines())) <= 100


def test_power_in_json_says_the_same(place: Path, answers: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main(["protocol", "new", "tiny.yaml"])
    capfd.readouterr()

    assert cli.main([*POWER, "--json"]) == 0

    said = json.loads(capfd.readouterr().out)
    assert said["left_out"] == 10
    assert [one["correlation"] for one in said["by_correlation"]] == [0.9, 0.95, 0.98, 0.99, 0.995]
    assert all(one["needed_cases"] > 0 for one in said["endpoints"] if one["primary"])


MISMATCHES = {
    "another teacher": ('teacher: ""', "teacher: " + "d" * 64, "the protocol is for dddddddddddd"),
    "no answer": ("split: test", "split: val", "there is an answer to none of the 10 cases"),
    "another digest": ("digest: ", "digest: " + "f" * 64 + " #", "that of data is"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "said"), MISMATCHES.values(), ids=MISMATCHES)
def test_answers_that_do_not_fit_are_refused(
    place: Path, answers: Path, capfd: pytest.CaptureFixture[str], before: str, after: str, said: str
) -> None:
    cli.main(["protocol", "new", "tiny.yaml"])
    path = Path("protocol.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
    capfd.readouterr()

    code = cli.main(POWER)

    assert code in (1, 2)
    assert said in capfd.readouterr().err
