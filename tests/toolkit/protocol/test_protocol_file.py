"""Laws of a protocol's file and its lock: told at its line what is wrong, refused with what changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveola.runtime.errors import FoveolaError, NotVouchedError, UsageError
from foveola.runtime.task import Kind, Task
from foveola.toolkit.parity.metrics import METRICS, metrics_of
from foveola.toolkit.parity.protocol import Biomarker, CaseRules, Protocol, Rule, TaskRules
from foveola.toolkit.protocol.check import check_fit, check_subgroups
from foveola.toolkit.protocol.file import changes, lock_path, lock_protocol, look_at, read_locked, read_protocol
from foveola.toolkit.protocol.text import OF_KIND, WORDS, protocol_yaml
from foveola.toolkit.yaml12 import FaultsError

FINDINGS = Task(name="findings", kind="multilabel", classes=("no", "Effusion", "1"))
LUNGS = Task(name="lungs", kind="segmentation", classes=("heart", "right lung", "left lung"))
TINY = Protocol(
    name="tiny",
    data=CaseRules(digest="c" * 64, subgroups=("sex", "view")),
    tasks={
        "findings": TaskRules(
            kind="multilabel",
            classes=FINDINGS.classes,
            endpoints={"auc": Rule(margin=0.01), "sensitivity": Rule(margin=0.02, floor=0.8)},
            critical=("Effusion",),
            operating_point="youden",
        ),
        "lungs": TaskRules(kind="segmentation", classes=LUNGS.classes, endpoints={"dice": Rule()}, spacing=0.7),
    },
    biomarkers={
        "ctr": Biomarker(kind="cardiothoracic_ratio", task="lungs", inner=("heart",), outer=("right lung", "left lung"))
    },
)
TEXT = protocol_yaml(TINY)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "protocol.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


# --- the YAML ---


def test_what_is_written_is_read_back(file: Path) -> None:
    assert read_protocol(file) == TINY


names = st.text("abcXYZ_019 :#'\"-é{}[],&*!|>%@`~?\\\n", min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    classes=st.lists(names, min_size=2, max_size=4, unique=True),
    margin=st.floats(1e-6, 0.5),
    seed=st.integers(0, 2**31),
    groups=st.lists(names, max_size=3, unique=True),
)
def test_any_names_and_numbers_survive_writing_and_reading(
    tmp_path: Path, classes: list[str], margin: float, seed: int, groups: list[str]
) -> None:
    rules = TaskRules(kind="multiclass", classes=tuple(classes), endpoints={"accuracy": Rule(margin=margin)})
    protocol = Protocol(name=classes[0], data=CaseRules(subgroups=tuple(groups)), tasks={"t": rules}, seed=seed)
    path = tmp_path / "any.yaml"
    path.write_text(protocol_yaml(protocol), encoding="utf-8")

    assert read_protocol(path) == protocol


def test_every_field_is_explained_by_a_comment() -> None:
    kinds: tuple[Kind, ...] = ("binary", "segmentation", "detection")
    rules = {
        kind: TaskRules(
            kind=kind, classes=("a", "b"), endpoints={m: Rule(margin=0.1) for m in metrics_of(kind)}, critical=("a",)
        )
        for kind in kinds
    }
    lines = protocol_yaml(msgspec.structs.replace(TINY, tasks={**TINY.tasks, **rules})).splitlines()
    sections = ("data", "tasks", "endpoints", "biomarkers", "findings", "lungs", "ctr", *kinds)

    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line and "#" not in line and "#" not in above and line.strip().rstrip(":") not in sections
    ]

    assert not bare
    assert {field.name for struct in (TaskRules, Biomarker) for field in msgspec.structs.fields(struct)} <= set(
        WORDS
    ) | {"endpoints"}
    assert all(METRICS[metric].says in "\n".join(lines) for kind in kinds for metric in metrics_of(kind))
    assert set(OF_KIND) == {kind for metric in METRICS.values() for kind in metric.kinds}


WRONG = {
    "an unknown field": ("alpha:", "alfa:", "yaml:{line}: no field 'alfa' in a protocol; did you mean 'alpha'?"),
    "an unknown field of an endpoint": ("floor: 0.8", "flor: 0.8", "no field 'flor' in Rule; did you mean 'floor'?"),
    "an unknown metric": ("auc:", "acu:", "tasks.findings.endpoints.acu: no metric 'acu'; did you mean 'auc'?"),
    "another kind's metric": ("auc:", "dice:", "tasks.findings.endpoints.dice: multilabel has no metric 'dice'"),
    "a margin of the wrong sign": ("margin: 0.01,", "margin: -0.01,", "endpoints.auc.margin: -0.01 is not positive"),
    "a margin of zero": ("margin: 0.01,", "margin: 0,", "endpoints.auc.margin: 0 is not positive"),
    "a margin in percent": ("margin: 0.01,", "margin: 2,", "2 tolerates every loss, since auc lies between 0 and 1"),
    "a margin that is a text": ("margin: 0.01,", "margin: small,", "endpoints.auc.margin: \"small\": expected"),
    "an unknown class": ("[Effusion]", "[Efusion]", "no class 'Efusion' in the task; did you mean 'Effusion'?"),
    "an unknown kind": ("kind: multilabel", "kind: multi-label", "tasks.findings.kind"),
    "a missing kind": ("    kind: multilabel", "    # ", "tasks.findings: field 'kind' is missing"),
    "alpha of no test": ("alpha: 0.025", "alpha: 0.7", "alpha: 0.7"),
    "a digest that is none": (f"digest: {'c' * 64}", "digest: abc", "data.digest: 'abc' is no digest"),
    "a subgroup twice": ("[sex, view]", "[sex, sex]", "data.subgroups: 'sex' stands twice"),
    "a biomarker of no task": ("task: lungs", "task: lung", "no segmentation 'lung' in the protocol; did you mean"),
    "a biomarker of no class": ("inner: [heart]", "inner: [hart]", "no class 'hart' in lungs; did you mean 'heart'?"),
    "a biomarker without a margin": ("mae: {margin: 0.02", "mae: {margin: null", "endpoint needs a margin"),
    "a format of the future": ("format: 1", "format: 2", "format: format 2 is unknown"),
    "no tasks": ("tasks:", "task:", "no field 'task' in a protocol; did you mean 'tasks'?"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_at_its_line(file: Path, before: str, after: str, said: str) -> None:
    edit(file, before, after)

    with pytest.raises(FaultsError) as error:
        read_protocol(file)

    lines = file.read_text(encoding="utf-8").splitlines()
    number = next((n for n, line in enumerate(lines, 1) if after in line and not line.startswith("#")), 0)
    assert said.format(line=number) in str(error.value)


def test_all_faults_are_told_at_once(file: Path) -> None:
    edit(file, "auc:", "acu:")
    edit(file, "margin: 0.02,", "margin: -0.02,")
    edit(file, "inner: [heart]", "inner: [hart]")
    edit(file, "seed:", "sed:")

    with pytest.raises(FaultsError) as error:
        read_protocol(file)

    said = str(error.value).splitlines()
    assert len(said) == 4
    assert all(one.startswith(f"{file}:") for one in said)


def test_an_endpoint_without_fields_takes_the_usual_rule(file: Path) -> None:
    edit(file, "auc: {margin: 0.01, primary: true, floor: null}", "auc:")

    assert read_protocol(file).tasks["findings"].endpoints["auc"] == Rule()


def test_a_protocol_in_which_nothing_counts_is_refused(file: Path) -> None:
    file.write_text(TEXT.replace("primary: true", "primary: false"), encoding="utf-8")

    with pytest.raises(FaultsError, match="no endpoint is primary"):
        read_protocol(file)


# --- the lock ---


def test_a_locked_protocol_is_given_to_the_proof_with_its_digest(file: Path) -> None:
    lock = lock_protocol(file)

    assert read_locked(file) == TINY
    assert lock.digest == TINY.digest
    assert lock_path(file).name == "protocol.lock.json"


def test_the_day_and_the_comments_are_no_part_of_the_digest(file: Path) -> None:
    lock_protocol(file)

    file.write_text(
        "# another word\n" + "\n".join(line.split("  #")[0] for line in TEXT.splitlines()), encoding="utf-8"
    )
    edit(lock_path(file), '"locked": "20', '"locked": "19')

    assert read_locked(file).digest == TINY.digest


def test_the_lock_alone_is_enough_for_the_proof(file: Path) -> None:
    lock_protocol(file)
    file.unlink()

    assert read_locked(lock_path(file)) == TINY


def test_an_unlocked_protocol_is_refused_with_the_command_that_locks_it(file: Path) -> None:
    with pytest.raises(UsageError, match="lock it first: foveola protocol lock"):
        read_locked(file)


def test_a_protocol_that_changed_is_refused_with_every_field_that_did(file: Path) -> None:
    lock_protocol(file)
    edit(file, "margin: 0.01,", "margin: 0.03,")
    edit(file, "seed: 0", "seed: 4")
    edit(file, "[sex, view]", "[sex]")

    for refusing in (read_locked, lock_protocol):
        with pytest.raises(FoveolaError) as error:
            refusing(file)

        said = str(error.value)
        assert "tasks.findings.endpoints.auc.margin: 0.01 -> 0.03; " in said
        assert 'data.subgroups: ["sex","view"] -> ["sex"]; seed: 0 -> 4' in said
        assert "that is a new protocol" in said


def test_locking_twice_changes_nothing(file: Path) -> None:
    lock_protocol(file)
    before = lock_path(file).read_bytes()

    lock_protocol(file)

    assert lock_path(file).read_bytes() == before


@pytest.mark.parametrize("field", ['"margin": 0.01', '"primary": true', '"alpha": 0.025', '"split": "test"'])
def test_a_lock_that_was_edited_is_refused(file: Path, field: str) -> None:
    lock_protocol(file)
    name, value = field.split(": ")
    other = {"0.01": "0.03", "true": "false", "0.025": "0.05", '"test"': '"val"'}[value]
    edit(lock_path(file), field, f"{name}: {other}")

    with pytest.raises(NotVouchedError, match="its digest does not fit its content"):
        read_locked(lock_path(file))


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"digest": 3}'])
def test_what_is_no_lock_is_refused_in_one_line(file: Path, junk: bytes) -> None:
    lock_path(file).write_bytes(junk)

    with pytest.raises(FoveolaError, match="not a lock of a protocol") as error:
        read_locked(file)

    assert "\n" not in str(error.value)


def test_a_digest_noted_elsewhere_binds_protocol_and_lock(file: Path) -> None:
    digest = lock_protocol(file).digest

    assert read_locked(file, expect=digest[:12]) == TINY
    for other in ("0" * 64, digest[:4], f"{digest}0"):
        with pytest.raises(NotVouchedError, match=f"its digest is {digest}, not {other}"):
            read_locked(file, expect=other)


def test_a_protocol_without_file_or_lock_is_told_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file; `foveola protocol new` writes one"):
        read_locked(tmp_path / "none.yaml")


def lock_and_change(file: Path) -> None:
    lock_protocol(file)
    edit(file, "seed: 0", "seed: 1")


def lock_and_delete(file: Path) -> None:
    lock_protocol(file)
    file.unlink()


STATES: dict[str, tuple[Callable[[Path], object], str]] = {
    "fresh": (lambda file: None, "not locked"),
    "locked": (lock_protocol, "locked on 20"),
    "changed": (lock_and_change, "changed since locked on 20"),
    "lock alone": (lock_and_delete, "locked on 20"),
}


@pytest.mark.parametrize(("prepare", "state"), STATES.values(), ids=STATES)
def test_a_look_tells_the_state_and_refuses_nothing(file: Path, prepare: Callable[[Path], object], state: str) -> None:
    prepare(file)

    seen = look_at(file)

    assert seen.state.startswith(state)
    assert bool(seen.changes) == (state.startswith("changed"))


def test_what_is_added_or_taken_away_is_a_change() -> None:
    rules = TINY.tasks["findings"]
    more = msgspec.structs.replace(rules, endpoints={"auc": Rule(margin=0.01), "brier": Rule(margin=0.01)})

    found = changes(TINY, msgspec.structs.replace(TINY, tasks={"findings": more, "lungs": TINY.tasks["lungs"]}))

    assert "tasks.findings.endpoints.brier.margin: not there -> 0.01" in found
    assert "tasks.findings.endpoints.sensitivity.margin: 0.02 -> not there" in found


# --- what it must fit ---


def test_a_protocol_of_another_bundle_is_refused_with_all_that_differs(file: Path) -> None:
    lock_protocol(file)
    fewer = msgspec.structs.replace(FINDINGS, classes=("no", "Effusion"))

    read_locked(file, tasks=(FINDINGS, LUNGS))
    with pytest.raises(UsageError, match="the bundle has no such task"):
        read_locked(file, tasks=(FINDINGS,))
    with pytest.raises(UsageError, match="the classes are no, Effusion, 1 in the protocol, no, Effusion in the bundle"):
        read_locked(file, tasks=(fewer, LUNGS))


def test_a_task_of_another_kind_does_not_fit() -> None:
    other = Task(name="findings", kind="binary", classes=("a", "b"))
    protocol = msgspec.structs.replace(
        TINY, tasks={"findings": msgspec.structs.replace(TINY.tasks["findings"], critical=())}, biomarkers={}
    )

    with pytest.raises(UsageError, match="tasks.findings: multilabel in the protocol, binary in the bundle"):
        check_fit(protocol, [other])


SUBGROUPS = {
    "absent": (("male", "female"), "sexe", "the cases have no attribute 'sexe' (did you mean 'sex'?)"),
    "names of patients": (tuple(f"p{n}" for n in range(51)), "sex", "'sex' has 51 values, more than 50"),
    "numbers of patients": (tuple(str(n) for n in range(100, 812)), "sex", "'sex' has 712 values, more than 50"),
}


@pytest.mark.parametrize(("values", "asked", "said"), SUBGROUPS.values(), ids=SUBGROUPS)
def test_a_subgroup_that_is_absent_or_an_identifier_is_refused(values: tuple[str, ...], asked: str, said: str) -> None:
    protocol = msgspec.structs.replace(TINY, data=CaseRules(subgroups=(asked,)))

    with pytest.raises(UsageError, match="name columns with few values") as error:
        check_subgroups(protocol, {"sex": values})

    assert said in str(error.value)


def test_ages_and_measurements_are_no_identifiers() -> None:
    protocol = msgspec.structs.replace(TINY, data=CaseRules(subgroups=("age", "exposure")))

    check_subgroups(protocol, {"age": [str(n) for n in range(90)], "exposure": [f"{n / 7:.3f}" for n in range(90)]})


# --- the field ---


def test_a_locked_protocol_is_read_without_torch(file: Path) -> None:
    lock_protocol(file)
    code = (
        "import sys; from pathlib import Path; from foveola.toolkit.protocol.file import read_locked\n"
        "print(read_locked(Path(sys.argv[1])).name, [n for n in ('torch', 'PIL', 'rich') if n in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "tiny []"
