"""Laws of a team: it answers what its members answer, each task once, and a student learns from all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small import PLAN, SPEC, STUDENT, TASKS, silent, squares
from torch import Tensor, nn

from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.runtime.task import Task
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.batches import Batch, TrainingData
from foveola.toolkit.compress.distill import Distilled
from foveola.toolkit.compress.lessons import cached_answers
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.finished import read_locked, teacher_answers
from foveola.toolkit.json_files import write_json
from foveola.toolkit.knobs import Lessons, Shape
from foveola.toolkit.models.network import Answered, Architecture, Network, load_network, save_network
from foveola.toolkit.speed import name_teacher
from foveola.toolkit.stages.network import TEACHERS
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.teachers.external import External, GivenTeacher
from foveola.toolkit.teachers.gather import gather_team
from foveola.toolkit.teachers.load import load_teacher, read_input, read_scale
from foveola.toolkit.teachers.team import Team, limited, team_of
from foveola.toolkit.train import distil_student

ORDER = [task.name for task in TASKS]
FIRST, SECOND, THIRD = ("bright", "side", "square"), ("halves", "corner", "grade", "things"), ("signs",)
OTHER = msgspec.structs.replace(SPEC, mean=(0.4,), std=(0.2,))


def some(names: Sequence[str]) -> tuple[Task, ...]:
    return tuple(task for task in TASKS if task.name in names)


def network(names: Sequence[str], seed: int, spec: InputSpec = SPEC, backbone: str = "resnet10t") -> Network:
    torch.manual_seed(seed)
    mean: dict[str, tuple[float, ...]] = {"side": (20.0,)} if "side" in names else {}
    plan = Architecture(
        role="teacher",
        backbone=backbone,
        input=spec,
        tasks=some(names),
        width=16,
        target_mean=mean,
        target_std=dict.fromkeys(mean, (5.0,)),
    )
    return Network(plan).eval()


def saved(folder: Path, names: Sequence[str], seed: int, spec: InputSpec = SPEC, backbone: str = "resnet10t") -> Path:
    folder.mkdir(parents=True)
    save_network(network(names, seed, spec, backbone), folder)
    write_json(folder / "locked.json", dict.fromkeys(names, (0.1 * seed,)))
    return folder


def taken(folder: Path, names: Sequence[str]) -> Path:
    """A timm classifier as `load` leaves one."""
    folder.mkdir(parents=True)
    torch.manual_seed(9)
    plan = External(library="timm", architecture="resnet10t", input=SPEC, tasks=some(names))
    channels = sum(task.channels for task in plan.tasks)
    save_file(
        timm.create_model("resnet10t", num_classes=channels, in_chans=1).state_dict(), folder / "model.safetensors"
    )
    write_json(folder / "model.json", plan)
    write_json(folder / "locked.json", dict.fromkeys(names, (0.5,)))
    return folder


def members(root: Path) -> dict[str, Path]:
    return {
        "taken": taken(root / "taken", THIRD),
        "first": saved(root / "first", FIRST, 1),
        "second": saved(root / "second", SECOND, 2, OTHER, "resnet18"),
    }


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return members(tmp_path_factory.mktemp("members"))


def gathered(three: dict[str, Path], root: Path, **how: object) -> Team:
    (root / "team").mkdir()
    return gather_team(three, order=ORDER, folder=root / "team", **how)  # type: ignore[arg-type]


def images() -> Tensor:
    return torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def asked(teacher: Team | Network | GivenTeacher | object) -> Answered:
    with torch.inference_mode():
        return teacher.answer(images())  # type: ignore[union-attr]


def equal(one: Answered, other: Answered) -> bool:
    return (
        one.raw.keys() == other.raw.keys()
        and one.boxes.keys() == other.boxes.keys()
        and all(torch.equal(one.raw[name], other.raw[name]) for name in one.raw)
        and all(
            torch.equal(a, b) for name in one.boxes for a, b in zip(one.boxes[name], other.boxes[name], strict=True)
        )
    )


# --- answers ---


def test_a_team_answers_each_task_as_the_member_whose_task_it_is(three: dict[str, Path], tmp_path: Path) -> None:
    team = gathered(three, tmp_path)

    together = asked(team)

    alone = [asked(load_teacher(path)) for path in three.values()]
    raw = {name: values for one in alone for name, values in one.raw.items()}
    boxes = {name: values for one in alone for name, values in one.boxes.items()}
    assert equal(together, Answered(raw, boxes))
    assert set(raw) | set(boxes) == set(ORDER)
    assert [task.name for task in team.tasks] == ORDER
    assert team.target_scale == {"side": ((20.0,), (5.0,))}


def test_a_saved_team_answers_as_before(three: dict[str, Path], tmp_path: Path) -> None:
    team = gathered(three, tmp_path, hints="second")

    again = load_teacher(tmp_path / "team")

    assert isinstance(again, Team)
    assert not again.training
    before, after = asked(team), asked(again)
    assert equal(before, after)
    assert before.hint is not None
    assert after.hint is not None
    assert torch.equal(before.hint, after.hint)
    assert [task.name for task in again.tasks] == ORDER
    assert read_scale(tmp_path / "team") == again.target_scale == {"side": ((20.0,), (5.0,))}
    assert read_input(tmp_path / "team") == SPEC


@pytest.mark.parametrize(("hints", "member"), [("", "first"), ("second", "second")])
def test_the_named_member_or_the_first_that_has_any_gives_the_features(
    hints: str, member: str, three: dict[str, Path], tmp_path: Path
) -> None:
    team = gathered(three, tmp_path, hints=hints)

    found, expected = asked(team).hint, asked(load_teacher(three[member])).hint

    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)


def test_a_team_without_features_gives_none(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    lone = {"taken": taken(tmp_path / "taken", THIRD)}

    gather_team(lone, order=ORDER, folder=tmp_path / "team")

    assert asked(load_teacher(tmp_path / "team")).hint is None


def test_a_member_is_asked_for_part_of_its_tasks_and_loses_the_other_heads(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    both = {
        "shared": saved(tmp_path / "shared", FIRST + THIRD, 3),
        "own": saved(tmp_path / "own", ("square", "corner"), 4),
        "taken": taken(tmp_path / "taken", ("signs", "grade")),
    }

    gather_team(
        both,
        order=ORDER,
        only={"shared": ["side", "bright"], "taken": ["grade", "signs"], "own": ["square"]},
        folder=tmp_path / "team",
    )

    team = load_teacher(tmp_path / "team")
    found, shared, own, other = asked(team), *(asked(load_teacher(path)) for path in both.values())
    assert isinstance(team, Team)
    assert [task.name for task in team.tasks] == ["bright", "signs", "grade", "side", "square"]
    expected = {name: shared.raw[name] for name in ("bright", "side")} | other.raw | {"square": own.raw["square"]}
    assert equal(found, Answered(expected))
    assert isinstance(first := team.ordered_members()[0], Network)
    assert set(first.heads) == {"bright", "side"}
    assert read_locked(tmp_path / "team").keys() == {task.name for task in team.tasks}
    assert read_locked(tmp_path / "team")["square"] == (0.4,)


def test_a_given_module_that_is_asked_for_less_leaves_the_rest_out(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    given = {"taken": taken(tmp_path / "taken", ("side", "corner")), "own": saved(tmp_path / "own", ("side",), 4)}

    gather_team(given, order=ORDER, only={"taken": ["corner"]}, folder=tmp_path / "team")

    found = asked(load_teacher(tmp_path / "team"))
    assert torch.equal(found.raw["corner"], asked(load_teacher(tmp_path / "taken")).raw["corner"])
    assert torch.equal(found.raw["side"], asked(load_teacher(tmp_path / "own")).raw["side"])
    assert read_scale(tmp_path / "team") == {"side": ((20.0,), (5.0,))}  # not the other's, who answers in pixels


def test_a_member_may_give_features_and_answer_nothing() -> None:
    team = team_of({"a": network(FIRST, 1), "b": network(THIRD, 2)}, hints="b", only={"b": []})

    assert asked(team).raw.keys() == set(FIRST)
    assert asked(team).hint is not None


def test_a_smaller_teacher_stays_in_its_mode() -> None:
    assert not limited(network(FIRST, 1), ["bright"]).training
    assert limited(network(FIRST, 1).train(), ["bright"]).training


# --- the saved folder ---


def test_a_team_is_three_files_with_the_members_under_their_numbers(three: dict[str, Path], tmp_path: Path) -> None:
    gathered(three, tmp_path)

    assert sorted(path.name for path in (tmp_path / "team").iterdir()) == [
        "locked.json",
        "model.json",
        "model.safetensors",
    ]
    with safe_open(tmp_path / "team/model.safetensors", "pt") as stream:
        keys = set(stream.keys())
    expected = {f"members.0.module.network.{key}" for key in timm.create_model("resnet10t", num_classes=2).state_dict()}
    for number, name in ((1, "first"), (2, "second")):
        expected |= {f"members.{number}.{key}" for key in load_network(three[name]).state_dict()}
    assert keys == expected
    assert read_locked(tmp_path / "team") == {
        **dict.fromkeys(THIRD, (0.5,)),
        **dict.fromkeys(FIRST, (0.1,)),
        **dict.fromkeys(SECOND, (0.2,)),
    }


def test_a_team_of_equal_members_is_the_same_bytes(three: dict[str, Path], tmp_path: Path) -> None:
    for root in ("a", "b"):
        (tmp_path / root).mkdir()
        gathered(members(tmp_path / root), tmp_path / root)

    for name in ("model.json", "model.safetensors", "locked.json"):
        assert (tmp_path / "a/team" / name).read_bytes() == (tmp_path / "b/team" / name).read_bytes()


def test_tensors_of_another_team_are_refused_by_name(three: dict[str, Path], tmp_path: Path) -> None:
    gathered(three, tmp_path)
    weights = {"members.0.module.network.fc.bias": torch.zeros(2)}
    save_file(weights, tmp_path / "team/model.safetensors")

    with pytest.raises(FoveolaError, match=r"another architecture: members\.0\..* is missing"):
        load_teacher(tmp_path / "team")


# --- refusals ---


def fed(**change: object) -> InputSpec:
    return msgspec.convert(msgspec.to_builtins(SPEC) | change, InputSpec)


REFUSED: dict[str, tuple[Callable[[], dict[str, Network]], dict[str, object], str]] = {
    "no-members": (dict, {}, "no members"),
    "same-task": (
        lambda: {"a": network(FIRST, 1), "b": network(("square", "signs"), 2), "c": network(("signs",), 3)},
        {},
        "task 'square' by a and b, task 'signs' by b and c; .*only",
    ),
    "same-task-three": (
        lambda: {name: network(("bright",), 1) for name in "abc"},
        {},
        "task 'bright' by a and b and c",
    ),
    "size": (
        lambda: {"a": network(("bright",), 1), "b": network(THIRD, 2, fed(height=96))},
        {},
        "'b' has height 96, 'a' height 64; .*mean and std may differ",
    ),
    "window": (
        lambda: {"a": network(("bright",), 1), "b": network(THIRD, 2, fed(window="percentile", fit="stretch"))},
        {},
        "'b' has fit stretch, window percentile, 'a' fit pad, window full",
    ),
    "crop": (
        lambda: {"a": network(("bright",), 1), "b": network(THIRD, 2, fed(crop="fov"))},
        {},
        "'b' has crop fov",
    ),
    "channels": (
        lambda: {"a": network(("bright",), 1), "b": network(THIRD, 2, fed(channels=3))},
        {},
        "'b' has channels 3",
    ),
    "unknown-hints": (lambda: {"a": network(FIRST, 1)}, {"hints": "b"}, "hints: 'b' is no member; known: a"),
    "unknown-only": (lambda: {"lungs": network(FIRST, 1)}, {"only": {"lung": []}}, "did you mean 'lungs'"),
    "unknown-task": (
        lambda: {"a": network(FIRST, 1)},
        {"only": {"a": ["sqare"]}},
        "only.a: 'sqare' is no task of this member; did you mean 'square'",
    ),
    "idle": (
        lambda: {"a": network(FIRST, 1), "b": network(THIRD, 2)},
        {"only": {"b": []}},
        "'b' answers no task and gives no features",
    ),
}


@pytest.mark.parametrize(("make", "how", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_an_impossible_team_is_refused(
    make: Callable[[], dict[str, Network]], how: dict[str, object], words: str
) -> None:
    with pytest.raises(FoveolaError, match=words) as refused:
        team_of(make(), **how)  # type: ignore[arg-type]

    assert "\n" not in str(refused.value)


def test_features_of_a_given_module_are_refused(tmp_path: Path) -> None:
    given = GivenTeacher(nn.Identity(), some(THIRD), SPEC)

    with pytest.raises(FoveolaError, match="'mine' gives no features"):
        team_of({"mine": given, "a": network(FIRST, 1)}, hints="mine")


def test_a_team_within_a_team_is_refused(three: dict[str, Path], tmp_path: Path) -> None:
    gathered(three, tmp_path)

    with pytest.raises(FoveolaError, match="'all' is itself a team"):
        gather_team({"all": tmp_path / "team"}, order=ORDER, folder=tmp_path)


# --- what learns from it ---


@pytest.mark.parametrize("hints", ["first", "second"])
def test_a_student_gets_a_lesson_in_every_task_and_the_features_of_the_named_member(
    hints: str, three: dict[str, Path], tmp_path: Path
) -> None:
    gathered(three, tmp_path, hints=hints)
    data = squares(tmp_path / "data").subset("train")
    answers = cached_answers(tmp_path / "team", "a" * 64, data, tmp_path / "cache", silent)
    alone = teacher_answers(load_teacher(three[hints]), data)

    given, none = (batch_of(data_of(tmp_path, lesson)) for lesson in (answers, None))

    torch.manual_seed(0)
    assert answers.hint is not None
    assert alone.hint is not None
    assert np.array_equal(answers.hint, alone.hint)
    objective = Distilled(
        student(tmp_path),
        Lessons(soft_weight=0.7, temperature=2.0, hint_weight=0.5),
        hint_channels=answers.hint.shape[1],
    ).eval()
    with torch.no_grad():
        taught, untaught = objective(given), objective(none)
    assert taught.keys() == {*ORDER, "hint"}
    assert untaught.keys() == set(ORDER)
    assert all(not torch.equal(taught[name], untaught[name]) for name in ORDER)


def student(root: Path) -> Network:
    return Network(Architecture(role="student", backbone=STUDENT.backbone, input=SPEC, tasks=TASKS, width=16)).eval()


def data_of(root: Path, answers: RawAnswers | None) -> TrainingData:
    arrays = prepare_arrays(squares(root / "data").subset("train"), SPEC)
    # A random detector is sure of nothing; its boxes are made sure enough to be a lesson.
    if answers is not None:
        sure = {
            name: [np.array([[8, 8, 40, 40, 0.9, 0]], np.float32) for _ in many] for name, many in answers.boxes.items()
        }
        answers = RawAnswers(answers.raw, sure, answers.hint)
    return TrainingData(arrays, TASKS, {"side": (20.0,)}, {"side": (5.0,)}, answers)


def batch_of(data: TrainingData) -> Batch:
    return data.batch(np.arange(4))


def test_a_student_of_a_team_answers_all_its_tasks(three: dict[str, Path], tmp_path: Path) -> None:
    gathered(three, tmp_path)
    (tmp_path / "student").mkdir()
    data = squares(tmp_path / "data")
    answers = cached_answers(tmp_path / "team", "a" * 64, data.subset("train"), tmp_path / "cache", silent)

    found = distil_student(
        data,
        Shape(backbone=STUDENT.backbone, input=SPEC, width=16),
        PLAN,
        answers,
        taught_on=read_input(tmp_path / "team"),
        taught_scale=read_scale(tmp_path / "team"),
        lessons=Lessons(soft_weight=0.7, temperature=2.0, hint_weight=0.5),
        folder=tmp_path / "student",
        cache=tmp_path / "cache",
        seed=0,
        report=silent,
    )

    assert [task.name for task in found.tasks] == ORDER


def test_the_report_of_speeds_says_that_the_teacher_is_a_team(three: dict[str, Path], tmp_path: Path) -> None:
    assert name_teacher(gathered(three, tmp_path)) == "team of 3 teachers"
    assert name_teacher(network(FIRST, 1)) == "teacher"


def test_every_stage_that_takes_a_teacher_takes_each_kind() -> None:
    assert STAGES.keys() >= set(TEACHERS)
    for stage, field in (("distill", "teacher"), ("parity", "against"), ("bench", "teacher")):
        assert STAGES[stage].ACCEPTS[field] == TEACHERS
