"""What a teacher's answers do to a network: every lesson, gaps, images without labels, teachers as pupils."""

from __future__ import annotations

import csv
import math
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from roads import command, environment
from small import PLAN, SPEC, STUDENT, TASKS, TEACHER, make_squares, silent, squares

from foveola.runtime.errors import FoveolaError
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.batches import Batch, TrainingData, augment
from foveola.toolkit.compress.distill import Distilled, answer_losses
from foveola.toolkit.compress.lessons import Taught, read_taught, write_taught
from foveola.toolkit.compress.size import multiply_adds, warn_if_larger
from foveola.toolkit.compress.task_weights import PACE, Learned
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset, read_dataset
from foveola.toolkit.finished import teacher_answers
from foveola.toolkit.fresh import new_network
from foveola.toolkit.knobs import Augment, Lessons, Plan
from foveola.toolkit.models.network import Network, load_network, save_network
from foveola.toolkit.progress import SilentProgress
from foveola.toolkit.recipe import parse_recipe
from foveola.toolkit.stages.distill import Distill
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.supervision import labelled
from foveola.toolkit.train import teach_network
from foveola.toolkit.work import Work
from foveola.toolkit.yaml12 import FaultsError

LESSONS = {
    "defaults": Lessons(),
    "dist": Lessons(class_lesson="dist", relation_weight=0.5),
    "dkd": Lessons(class_lesson="dkd", value_lesson="bounded"),
    "uncertain": Lessons(value_lesson="uncertain", task_weights="learned"),
    "channels": Lessons(mask_lesson="channels", hint="similarity", hint_foreground=0.5),
    "both": Lessons(mask_lesson="both", hint="attention", hint_foreground=0.5),
    "scores": Lessons(box_lesson="scores", hint_foreground=1.0),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    found: Dataset = squares(tmp_path_factory.mktemp("data") / "data")
    return found


@pytest.fixture(scope="module")
def teacher(data: Dataset) -> Network:
    return new_network("teacher", data, TEACHER, 3).eval()


@pytest.fixture(scope="module")
def answers(data: Dataset, teacher: Network) -> RawAnswers:
    found = teacher_answers(teacher, data.subset("train"))
    rng = np.random.default_rng(0)  # an untrained detector finds nothing
    boxes = [
        np.concatenate([rng.uniform(2, 20, (2, 2)), rng.uniform(30, 60, (2, 2)), [[0.9, 0], [0.4, 1]]], 1).astype("f4")
        for _ in range(len(data.subset("train")))
    ]
    return RawAnswers(found.raw, {"things": boxes}, found.hint)


def lesson_batch(data: Dataset, network: Network, answers: RawAnswers) -> Batch:
    arrays = prepare_arrays(data.subset("train"), SPEC)
    plan = network.architecture
    read = TrainingData(arrays, data.tasks, plan.target_mean, plan.target_std, answers).batch(np.arange(8))
    return augment(read, Augment(), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("lessons", LESSONS.values(), ids=list(LESSONS))
def test_every_lesson_is_learned(lessons: Lessons, data: Dataset, answers: RawAnswers) -> None:
    network = new_network("student", data, STUDENT, 0)
    batch = lesson_batch(data, network, answers)
    assert answers.hint is not None
    torch.manual_seed(0)
    objective = Distilled(network, lessons, hint_channels=answers.hint.shape[1]).train()
    optimizer = torch.optim.AdamW(objective.parameters(), 2e-3)

    totals: list[float] = []
    losses: dict[str, torch.Tensor] = {}
    for _ in range(4):
        losses = objective(batch)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))

    named = {*(task.name for task in TASKS), "hint"} | ({"relation"} if lessons.relation_weight else set())
    assert set(losses) == named
    assert all(math.isfinite(total) for total in totals)
    assert totals[-1] < totals[0]
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters() if p.grad is not None)


def test_answers_alone_give_the_losses_that_the_network_gives(data: Dataset, answers: RawAnswers) -> None:
    network = new_network("student", data, STUDENT, 0).eval()
    batch = lesson_batch(data, network, answers)
    objective = Distilled(network, Lessons(hint_weight=0), hint_channels=0)

    alone = answer_losses(network.ordered_heads(), network(batch.images), batch, Lessons(hint_weight=0))

    assert {name: float(x.detach()) for name, x in alone.items()} == {
        name: float(x.detach()) for name, x in objective(batch).items()
    }


def test_a_gap_of_the_reference_changes_nothing_but_its_own_part(data: Dataset, answers: RawAnswers) -> None:
    network = new_network("student", data, STUDENT, 0).eval()
    batch = lesson_batch(data, network, answers)
    gaps = msgspec.structs.replace(
        batch,
        scalars={name: torch.full_like(values, torch.nan) for name, values in batch.scalars.items()},
        masks={name: torch.full_like(mask, 255) for name, mask in batch.masks.items()},
        boxes={name: [None] * len(found) for name, found in batch.boxes.items()},
    )
    soft = Lessons(soft_weight=1.0, hint_weight=0)
    half = Lessons(soft_weight=0.5, hint_weight=0)
    raw = network(batch.images)

    without = answer_losses(network.ordered_heads(), raw, gaps, half)
    taught = answer_losses(network.ordered_heads(), raw, batch, soft)

    for task in TASKS:
        wanted = float(taught[task.name].detach()) / 2
        assert float(without[task.name].detach()) == pytest.approx(wanted, rel=1e-5)
    torch.stack(list(without.values())).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)


def test_learned_weights_settle_where_each_task_counts_alike() -> None:
    # Kendall et al. 2018, eq. 10: exp(-s) L + s / 2 is least at s = log(2 L).
    tasks = TASKS[:2]
    learned = Learned(tasks, Lessons(task_weights="learned"))
    optimizer = torch.optim.Adam(learned.parameters(), 1e-2)
    losses = {tasks[0].name: torch.tensor(0.2), tasks[1].name: torch.tensor(3.0)}

    for _ in range(400):
        optimizer.zero_grad()
        torch.stack([learned.weighted(task, losses[task.name]) for task in tasks]).sum().backward()
        optimizer.step()

    assert learned.weights() == pytest.approx({name: 1 / (2 * float(loss)) for name, loss in losses.items()}, rel=1e-2)


def test_a_task_without_a_known_target_does_not_move_its_weight() -> None:
    learned = Learned(TASKS[:1], Lessons(task_weights="learned"))

    learned.weighted(TASKS[0], torch.zeros((), requires_grad=True) * 1.0).backward()

    assert learned.balance[TASKS[0].name].grad is None or not learned.balance[TASKS[0].name].grad.any()


def test_what_is_learned_beside_the_network_begins_without_effect() -> None:
    side = next(task for task in TASKS if task.kind == "regression")
    learned = Learned(TASKS, Lessons(task_weights="learned", value_lesson="uncertain"))

    assert float(learned.weighted(side, torch.tensor(2.0)).detach()) == 2.0
    assert not torch.as_tensor(learned.log_variance(side, teacher=True)).any()
    assert all(p.dim() == 1 for p in learned.parameters())  # so that weight decay leaves them alone
    assert PACE > 1


def hide_targets(root: Path, every: int) -> Dataset:
    """The squares with no target at all for some of the train images."""
    make_squares(root)
    with (root / "manifest.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows):
        if row["split"] == "train" and number % every == 0:
            row.update({name: "" for name in row if name not in ("file", "patient_id", "split")})
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return read_dataset(root, TASKS[:1])


@pytest.mark.parametrize("unlabelled", [True, False])
def test_images_without_any_target_teach_through_the_teacher(unlabelled: bool, tmp_path: Path) -> None:
    data = hide_targets(tmp_path / "data", 2)
    train = data.subset("train")
    seen: list[float] = []
    network = new_network("student", data, STUDENT, 0)
    raw = {"bright": np.linspace(-2, 2, len(train), dtype=np.float32)[:, None]}

    teach_network(
        network, data, Plan(epochs=1, batch_size=2, learning_rate=1e-3), RawAnswers(raw), taught_on=SPEC,
        lessons=Lessons(unlabelled=unlabelled), folder=tmp_path, cache=tmp_path / "cache", seed=0,
        report=lambda done, total, text: seen.append(total),
    )  # fmt: skip

    assert (len(train), len(labelled(train))) == (8, 4)
    assert seen[-1] == (8 if unlabelled else 4)


def test_a_teachers_own_network_can_be_taught_by_another(data: Dataset, answers: RawAnswers, tmp_path: Path) -> None:
    pupil = new_network("teacher", data, TEACHER, 5)
    before = {name: x.clone() for name, x in pupil.state_dict().items()}

    teach_network(
        pupil, data, PLAN, answers, taught_on=SPEC, lessons=Lessons(box_lesson="scores", hint_foreground=0.5),
        folder=tmp_path, cache=tmp_path / "cache", seed=0, report=silent,
    )  # fmt: skip

    saved = load_network(tmp_path)
    assert saved.architecture.role == "teacher"
    assert not list(tmp_path.glob("checkpoint*"))
    for part in ("backbone", "heads.things.roi", "heads.things.rpn", "heads.square"):
        moved = [name for name, x in saved.state_dict().items() if name.startswith(part) and not x.equal(before[name])]
        assert moved, part


def test_a_student_that_is_larger_than_its_teacher_is_told_of(data: Dataset, tmp_path: Path) -> None:
    large, small = new_network("teacher", data, TEACHER, 0), new_network("student", data, STUDENT, 0)
    for name, network in (("large", large), ("small", small)):
        (tmp_path / name).mkdir()
        save_network(network, tmp_path / name)
    told: list[str] = []

    warn_if_larger(small, [tmp_path / "large"], told.append)
    assert told == []
    warn_if_larger(large, [tmp_path / "small"], told.append)

    assert len(told) == 1
    assert told[0].startswith("warning: the student has ")
    assert large.training  # left as it was


def test_multiply_adds_are_those_of_the_layers(data: Dataset) -> None:
    only = squares(data.root, TASKS[:1])
    network = new_network("student", only, STUDENT, 0)
    found, counted = multiply_adds(network), 0

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        assert isinstance(module.weight, torch.Tensor)
        counted += module.weight[0].numel() * output.numel()

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    network.eval()(torch.zeros(1, 1, 64, 64))

    assert found == counted


def test_all_teachers_are_noted_and_the_first_is_the_one_compared_with(tmp_path: Path) -> None:
    write_taught(tmp_path, "a" * 64, ("b" * 64,))

    assert read_taught(tmp_path) == "a" * 64
    assert msgspec.json.decode((tmp_path / "taught.json").read_bytes(), type=Taught).others == ("b" * 64,)
    write_taught(tmp_path, "a" * 64)
    assert b"others" not in (tmp_path / "taught.json").read_bytes()


INPUT = "{height: 64, width: 64, channels: 1}"
RECIPE = f"""
name: tiny
device: generic-x86
data: {{stage: phantom, patients: 24, size: 64}}
tasks:
  view: {{kind: binary, classes: [PA, AP]}}
steps:
  one: {{stage: train, backbone: resnet10t, input: {INPUT}, width: 8}}
  two: {{stage: train, backbone: resnet10t, input: INPUT_TWO, width: 8}}
  student: {{stage: distill, TEACHERS, backbone: mobilenetv4_conv_small_035, input: {INPUT}}}
"""


def recipe_of(teachers: str, second: str = INPUT) -> bytes:
    return RECIPE.replace("TEACHERS", teachers).replace("INPUT_TWO", second).encode()


def test_a_student_needs_a_teacher_and_each_one_once() -> None:
    for teachers, told in (
        ("width: 8", "nobody teaches; name the step of a teacher in `teacher`, or several in `teachers`"),
        ("teacher: one, teachers: [two, one]", "one is named more than once; name each teacher once"),
        ("teachers: [one, tow]", "no step 'tow'; did you mean 'two'?"),
    ):
        with pytest.raises(FaultsError) as caught:
            parse_recipe(recipe_of(teachers), STAGES)
        assert told in str(caught.value)


def test_teachers_of_different_pictures_are_refused_before_any_is_trained(data: Dataset, tmp_path: Path) -> None:
    recipe = parse_recipe(recipe_of("teachers: [one, two]", "{height: 64, width: 96, channels: 1}"), STAGES)
    stage = recipe.steps[-1].stage
    assert isinstance(stage, Distill)
    assert stage.named() == ("one", "two")
    work = Work(
        step="student", digest="0" * 64, folder=tmp_path, inputs={}, digests={}, data=data.root, cache=tmp_path,
        recipe=msgspec.structs.replace(recipe, tasks=()), reporter=SilentProgress(),
    )  # fmt: skip

    with pytest.raises(FoveolaError, match="'two' sees 96 x 64"):
        stage.check_ahead(work)


@pytest.mark.slow
def test_two_teachers_make_one_student(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_bytes(
        recipe_of("teacher: one, teachers: [two], hints_of: all, epochs: 1", "{height: 96, width: 96, channels: 1}")
        .replace(b"width: 8}", b"width: 8, epochs: 1, batch_size: 8}")
        .replace(b"\nsteps:", b"\n  boxes: {kind: detection, classes: [nodule, effusion, opacity]}\nsteps:")
    )

    done = subprocess.run(
        command(str(tmp_path / "tiny.yaml"), tmp_path / "runs"), env=environment(), capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr[-2000:]
    (student,) = (tmp_path / "runs" / "tiny").glob("student-*/taught.json")
    taught = msgspec.json.decode(student.read_bytes(), type=Taught)
    assert len({taught.teacher_digest, *taught.others}) == 2
