"""What does not belong together is refused in one line, with place and mend, before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from foveola.runtime.bundle import read_unverified, write_bundle
from foveola.runtime.errors import ExitCode, MissingPartError, UsageError
from foveola.runtime.manifest import encode_manifest
from foveola.runtime.task import Task
from foveola.toolkit import cli
from foveola.toolkit.data.hashing import file_sha256
from foveola.toolkit.data.samples import Columns
from foveola.toolkit.parity.protocol import CaseRules, Protocol
from foveola.toolkit.proof import field
from foveola.toolkit.proof.cases import name_columns
from foveola.toolkit.proof.field import choose_engines
from foveola.toolkit.proof.kept_answers import StoredAnswers
from foveola.toolkit.proof.stored_answers import read_answers, write_answers
from foveola.toolkit.protocol.file import LOCK, Lock, lock_path, read_lock

PROVE = "parity tiny.foveola --data cases --teacher answers.npz --protocol protocol.lock.json --out out"
Break = Callable[[Path], str]


def relock(**changes: object) -> None:
    """A lock of a changed protocol, as if it had been locked so."""
    file = Path("protocol.lock.json")
    assert file.name.endswith(LOCK)
    lock = read_lock(file)
    protocol: Protocol = msgspec.structs.replace(lock.protocol, **changes)
    changed: Lock = msgspec.structs.replace(lock, protocol=protocol, digest=protocol.digest)
    file.write_bytes(msgspec.json.encode(changed))


def stored() -> StoredAnswers:
    return read_answers(Path("answers.npz"))


def keep_answers(rows: slice) -> None:
    whole = stored()
    write_answers(
        Path("answers.npz"),
        msgspec.structs.replace(
            whole,
            images=whole.images[rows],
            scores={name: values[rows] for name, values in whole.scores.items()},
            boxes={name: many[rows] for name, many in whole.boxes.items()},
            masks={name: many[rows] for name, many in whole.masks.items()},
        ),
    )


def edit_manifest(before: str, after: str) -> None:
    path = Path("cases/manifest.csv")
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    relock(data=CaseRules())


def other_images(place: Path) -> str:
    for n in range(60):
        image = place / f"cases/images/{n}.png"
        image.write_bytes(image.read_bytes() + b"x")
    relock(data=CaseRules())
    return PROVE


def some_unanswered(place: Path) -> str:
    keep_answers(slice(20, None))
    return PROVE


def text_label(place: Path) -> str:
    edit_manifest("images/7.png,p3,test,M,", "images/7.png,p3,test,M,perhaps")
    return PROVE


def another_bundle(place: Path) -> str:
    relock(name="chest", teacher="f" * 64)
    return PROVE


def another_task(place: Path) -> str:
    rules = read_lock(Path("protocol.lock.json")).protocol.tasks
    relock(tasks={**rules, "liver": rules["lungs"]})
    return PROVE


def unanswered_task(place: Path) -> str:
    whole = stored()
    tasks = tuple(task for task in whole.meta.tasks if task.name != "lungs")
    write_answers(
        place / "answers.npz",
        msgspec.structs.replace(whole, meta=msgspec.structs.replace(whole.meta, tasks=tasks), masks={}),
    )
    return PROVE


def other_classes(place: Path) -> str:
    whole = stored()
    findings = msgspec.structs.replace(whole.meta.tasks[0], classes=("dark", "bright"))
    meta = msgspec.structs.replace(whole.meta, tasks=(findings, *whole.meta.tasks[1:]))
    write_answers(place / "answers.npz", msgspec.structs.replace(whole, meta=meta))
    return PROVE


def changed_data(place: Path) -> str:
    path = place / "cases/manifest.csv"
    path.write_text(path.read_text().replace(",F,", ",X,"), encoding="utf-8")
    return PROVE


def no_images(place: Path) -> str:
    path = place / "cases/manifest.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n", encoding="utf-8")
    relock(data=CaseRules())
    return PROVE


def no_such_split(place: Path) -> str:
    relock(data=CaseRules(split="val"))
    return PROVE


def unsaid_split(place: Path) -> str:
    edit_manifest(",split,", ",spilt_by,")
    return PROVE


def misspelt_column(place: Path) -> str:
    edit_manifest(",lungs,", ",lung,")
    return PROVE


def identifier(place: Path) -> str:
    path = place / "cases/manifest.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",name", *(f"{line},Doe{n}" for n, line in enumerate(lines[1:]))]) + "\n")
    relock(data=CaseRules(subgroups=("name",)))
    return PROVE


def not_locked(place: Path) -> str:
    lock_path(place / "protocol.yaml").unlink()
    return PROVE.replace(".lock.json", ".yaml")


def changed_protocol(place: Path) -> str:
    path = place / "protocol.yaml"
    path.write_text(path.read_text().replace("margin: 0.02", "margin: 0.2", 1), encoding="utf-8")
    return PROVE.replace(".lock.json", ".yaml")


def unsigned(place: Path) -> str:
    bundle = read_unverified(place / "tiny.foveola")
    write_bundle(place / "tiny.foveola", {n: data for n, data in bundle.members.items() if n != "model.sig"})
    return PROVE


def there_already(place: Path) -> str:
    (place / "out").mkdir()
    (place / "out/evidence.json").write_text("{}")
    return PROVE


REFUSALS: dict[str, tuple[Break, int, str]] = {
    "answers to other images": (other_images, 1, "answers.npz: there is an answer to none of the 60 cases: they are"),
    "cases without answers": (some_unanswered, 1, "answers.npz: no answer to 20 of 60 cases: images/"),
    "a label column with text": (text_label, 1, "line 9, column bright: 'perhaps"),
    "another bundle and teacher": (
        another_bundle,
        2,
        "the bundle is 'tiny'; the protocol's teacher is ffffffffffff...",
    ),
    "a task that the bundle has not": (another_task, 2, "tasks.liver: the bundle has no such task"),
    "a task that is not answered": (unanswered_task, 2, "the teacher's answers have no task 'lungs'"),
    "classes in another order": (other_classes, 2, "task 'findings' has another kind or other classes"),
    "another data set": (changed_data, 2, "give the data that the protocol names"),
    "no image": (no_images, 1, "no images"),
    "an empty split": (no_such_split, 1, "no images to prove anything on"),
    "rows that nobody chose": (unsaid_split, 2, "--split all takes every row"),
    "a column that is nearly there": (misspelt_column, 1, "no column 'lungs' (task 'lungs'); did you mean 'lung'?"),
    "a subgroup that is a name": (identifier, 2, "'name' has 60 values, more than 50"),
    "a protocol that is not locked": (not_locked, 2, "lock it first: foveola protocol lock"),
    "a protocol that changed": (changed_protocol, 1, "changed since it was locked"),
    "a bundle that nobody vouches for": (unsigned, 5, "is not signed"),
    "evidence that is there already": (there_already, 2, "evidence is never written over"),
    "no protocol": (lambda _: PROVE.replace("--protocol protocol.lock.json", ""), 2, "`foveola protocol new` writes"),
    "no teacher": (lambda _: PROVE.replace("--teacher answers.npz", ""), 2, "give either stored answers, or --against"),
    "another protocol than expected": (lambda _: PROVE + " --expect 12345678", 5, "not 12345678"),
    "an engine that the bundle has not": (lambda _: PROVE + " --engine tensorrt", 2, "not validated on tensorrt"),
    "a column of no task": (lambda _: PROVE + " --column lung=x", 2, "no task 'lung' (did you mean 'lungs'?)"),
    "answers that are not there": (lambda _: PROVE.replace("answers.npz", "none.npz"), 2, "there is no such file"),
    "answers that are none": (lambda _: PROVE.replace("answers.npz", "tiny.pub"), 1, "no answers that can be read"),
    "a step that is not there": (
        lambda _: PROVE.replace("--teacher answers.npz", "--against nowhere"),
        2,
        "nowhere: there is no such step",
    ),
}


@pytest.mark.parametrize(("broken", "code", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_does_not_belong_together_is_refused(
    place: Path, capfd: pytest.CaptureFixture[str], broken: Break, code: int, words: str
) -> None:
    line = broken(place)

    got = cli.main(line.split())

    out, err = capfd.readouterr()
    last = err.strip().splitlines()[-1]
    assert words in last
    assert (got, out) == (code, "")
    assert not (place / "out/report.html").exists()


def test_ten_cases_are_named_and_the_others_counted(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main(some_unanswered(place).split())

    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.count("images/") == 10
    assert "and 10 more" in last


def test_an_engine_that_is_not_installed_is_exit_code_4(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "is_installed", lambda engine: engine == "onnxruntime")
    bundle = read_unverified(place / "tiny.foveola")

    assert choose_engines(bundle, ()) == ("onnxruntime",)
    assert cli.main([*PROVE.split(), "--engine", "openvino"]) == ExitCode.PART_MISSING
    assert cli.main(PROVE.split()) in (ExitCode.DONE, ExitCode.UNDERPOWERED)
    assert "not proved on openvino" in (place / "out/evidence.json").read_text()


def test_no_engine_at_all_is_exit_code_4(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "is_installed", lambda engine: False)

    with pytest.raises(MissingPartError, match="pip install foveola"):
        choose_engines(read_unverified(place / "tiny.foveola"), ())


def test_an_unsigned_bundle_can_be_proved_and_the_evidence_says_so(place: Path) -> None:
    line = unsigned(place)

    assert cli.main([*line.split(), "--allow-unsigned"]) in (ExitCode.DONE, ExitCode.UNDERPOWERED)
    assert "nobody vouches for it" in (place / "out/evidence.json").read_text()


def test_another_teacher_than_the_bundles_is_told(place: Path) -> None:
    bundle = read_unverified(place / "tiny.foveola")
    made = msgspec.structs.replace(bundle.manifest.provenance, teacher_digest="a" * 64)
    parts = {
        **bundle.members,
        "manifest.json": encode_manifest(msgspec.structs.replace(bundle.manifest, provenance=made)),
    }
    write_bundle(place / "tiny.foveola", {name: data for name, data in parts.items() if name != "model.sig"})
    relock(teacher="")

    cli.main([*PROVE.split(), "--allow-unsigned"])

    assert "taught by aaaaaaaaaaaa, the answers are those of eeeeeeeeeeee" in (place / "out/evidence.json").read_text()


def test_images_that_the_student_was_made_with_are_refused(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen = pytest.importorskip("foveola.runtime.seen")
    bundle = read_unverified(place / "tiny.foveola")
    some = [*stored().images[:3], "0" * 64]
    parts = {**bundle.members, "seen.bin": seen.encode_seen(some)}
    write_bundle(place / "tiny.foveola", {name: data for name, data in parts.items() if name != "model.sig"})

    assert cli.main([*PROVE.split(), "--allow-unsigned"]) == ExitCode.REFUSED

    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "the student was made with 3 of 60 cases: images/" in last


def test_an_image_that_cannot_be_read_is_the_students_worst_answer(place: Path) -> None:
    shutil.copytree(place / "cases", place / "before")
    whole = stored()
    broken = place / "cases/images/0.png"
    data = broken.read_bytes()
    broken.write_bytes(data[:200])
    old, new = file_sha256(place / "before/images/0.png"), file_sha256(broken)
    order = sorted((new if image == old else image, n) for n, image in enumerate(whole.images))
    rows = [n for _, n in order]
    write_answers(
        place / "answers.npz",
        msgspec.structs.replace(
            whole,
            images=tuple(image for image, _ in order),
            scores={name: values[rows] for name, values in whole.scores.items()},
            boxes={name: tuple(many[n] for n in rows) for name, many in whole.boxes.items()},
            masks={name: tuple(many[n] for n in rows) for name, many in whole.masks.items()},
        ),
    )
    relock(data=CaseRules())

    cli.main(PROVE.split())

    text = (place / "out/evidence.json").read_text()
    assert "answers of the student are missing; each counts as the worst" in text


def test_columns_that_make_no_sense_are_told_all_at_once() -> None:
    tasks = (Task(name="findings", kind="multilabel", classes=("a", "b")),)

    with pytest.raises(UsageError, match=r"'x' is not NAME=COLUMN; task 'findings': 2 column\(s\) expected, 1 given"):
        name_columns(["x", "findings=y"], tasks, Columns())
