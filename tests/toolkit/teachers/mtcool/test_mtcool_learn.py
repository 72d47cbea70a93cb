"""Laws of the finished step: what it writes, how flatness, coarse features and cost are measured, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from mtcool_small import BUILD, NUMBERS, PLAN, SPEC, THREE, awake, learned, longer, made
from small import TASKS, squares

from foveola.runtime.errors import FoveolaError
from foveola.toolkit.checkpoint import copy_weights
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.finished import read_history, read_locked
from foveola.toolkit.report.wording import thousands
from foveola.toolkit.teachers.load import load_teacher
from foveola.toolkit.teachers.mtcool.course import Play, earlier_encoders
from foveola.toolkit.teachers.mtcool.learn import Build, check_game, costs_line, tensors
from foveola.toolkit.teachers.mtcool.measure import (
    PLAIN,
    Flatness,
    as_they_are,
    coarsely,
    judge_changed,
    measure_costs,
    measure_flatness,
    relative_gain,
)
from foveola.toolkit.teachers.mtcool.objective import Cooperation, Flat
from foveola.toolkit.teachers.mtcool.teacher import Cooperative


def test_a_finished_step_has_the_files_of_every_teacher_and_says_how_flat_it_is_and_what_it_costs(
    tmp_path: Path,
) -> None:
    teacher = learned(tmp_path, "step", flat=Flat(rho=0.1), play=Play(alone=1, back=1), plan=longer(3))

    told = json.loads((tmp_path / "step/cooperation.json").read_text())
    again = load_teacher(tmp_path / "step")

    assert isinstance(again, Cooperative)
    assert all(torch.equal(x, y) for x, y in zip(again.parameters(), teacher.parameters(), strict=True))
    assert len(read_history(tmp_path / "step")) == 3
    assert set(read_locked(tmp_path / "step")) == {"bright"}
    assert not (tmp_path / "step/checkpoint").exists()
    assert set(told["flatness"]) == {"bright", "corner", "square"}
    assert told["earlier_epoch"] == 2
    page = (tmp_path / "step/cooperation.html").read_text(encoding="utf-8")
    assert thousands(told["costs"]["teacher"]["parameters"]) in page
    assert "<script" not in page
    for name, flat in told["flatness"].items():
        assert set(flat["earlier"]) == {other for other in told["flatness"] if other != name}
        assert set(flat["bits"]) == {"8", "4"}
        assert [row["radius"] for row in flat["radii"]] == sorted(row["radius"] for row in flat["radii"])


def test_a_single_task_is_a_cooperation_of_one_that_hears_nobody(tmp_path: Path) -> None:
    teacher = learned(tmp_path, "one", flat=Flat(rho=0.1), play=Play(alone=1, back=1), tasks=TASKS[4:5])

    told = json.loads((tmp_path / "one/cooperation.json").read_text())

    assert teacher.names == ("side",)
    assert told["costs"]["one_encoder"] == told["costs"]["teacher"]
    assert told["flatness"]["side"]["earlier"] == {}
    assert {row["worst"] for row in told["flatness"]["side"]["radii"]} == {0}
    assert "Flatness" not in (tmp_path / "one/cooperation.html").read_text(encoding="utf-8")


def measured(root: Path) -> dict[str, Flatness]:
    teacher, dataset, _ = made(root, BUILD, NUMBERS)
    awake(teacher).eval()
    arrays = prepare_arrays(dataset.subset("val"), SPEC)
    own = copy_weights(teacher.encoders)
    earlier = earlier_encoders(teacher, {name: x * 1.5 if x.is_floating_point() else x for name, x in own.items()})
    before = copy_weights(teacher)
    found = measure_flatness(teacher, tensors(teacher, arrays), arrays, earlier, seed=1, radii=(0.02, 0.1, 0.5))
    after = teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return found


def test_the_rise_of_the_loss_grows_with_the_radius_and_is_largest_in_the_worst_direction(tmp_path: Path) -> None:
    found = measured(tmp_path)

    rises = np.array([[row.worst for row in flat.radii] for flat in found.values()])
    randomly = np.array([[row.random for row in flat.radii] for flat in found.values()])
    assert (rises > 0).all()
    assert (np.diff(rises.mean(0)) > 0).all()
    assert (rises[:, 0] > np.abs(randomly[:, 0])).all()


def test_another_state_of_an_encoder_changes_what_the_others_make_of_it(tmp_path: Path) -> None:
    found = measured(tmp_path)

    for flat in found.values():
        for kept in flat.earlier.values():
            assert kept.loss != flat.plain.loss


def test_eight_bits_change_a_loss_less_than_two(tmp_path: Path) -> None:
    teacher, dataset, _ = made(tmp_path, BUILD, NUMBERS)
    awake(teacher).eval()
    arrays = prepare_arrays(dataset.subset("val"), SPEC)
    changes = {PLAIN: as_they_are, "8": coarsely(8), "2": coarsely(2)}

    found = judge_changed(teacher, tensors(teacher, arrays), arrays, changes)

    away = {bits: sum(abs(kept[bits].loss - kept[PLAIN].loss) for kept in found.values()) for bits in ("8", "2")}
    assert away["8"] < 0.2 * away["2"]


def test_the_plain_loss_is_the_objective_s_own_over_labelled_images(tmp_path: Path) -> None:
    teacher, dataset, _ = made(tmp_path, BUILD, NUMBERS)
    awake(teacher).eval()
    arrays = prepare_arrays(dataset.subset("val"), SPEC)
    data = tensors(teacher, arrays)

    found = judge_changed(teacher, data, arrays, {PLAIN: as_they_are})

    objective = Cooperation(teacher, Flat(perturb="none")).eval()
    for name in teacher.names:
        objective.take(name, alone=False)
        known = np.flatnonzero(dataset.subset("val").known(name))
        assert found[name][PLAIN].loss == pytest.approx(objective(data.batch(known))[name].item(), rel=1e-4)


def test_the_teacher_costs_its_encoders_and_readers_and_one_encoder_costs_a_third_of_three(tmp_path: Path) -> None:
    teacher, _, _ = made(tmp_path, BUILD, NUMBERS)

    costs = measure_costs(teacher.eval())

    assert costs.teacher.parameters == sum(x.numel() for x in teacher.parameters())
    encoders = list(costs.encoders.values())
    assert len(encoders) == 3
    assert len({(one.parameters, one.multiply_adds) for one in encoders}) == 1
    readers = sum(x.numel() for x in teacher.readers.parameters())
    assert costs.one_encoder.parameters == encoders[0].parameters + readers
    assert 2.5 < costs.teacher.multiply_adds / costs.one_encoder.multiply_adds <= 3
    assert "3 encoders" in costs_line(costs)
    assert "distil" not in costs_line(msgspec.structs.replace(costs, encoders=dict([*costs.encoders.items()][:1])))


def test_delta_m_counts_an_error_the_other_way_round() -> None:
    gain = relative_gain({"grade": 0.80, "years": 5.0}, {"grade": 0.78, "years": 5.2}, ["years"])

    assert gain == pytest.approx(0.032051, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": TASKS}, "task 'things' is one of detection, which no sub-model answers"),
        ({"build": Build(backbone="test_resnet", input=SPEC, backbones={"cornr": "x"})}, "'cornr' is no task; did you"),
        ({"play": Play(alone=2)}, "2 of 2 epochs are spent alone"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    dataset = squares(tmp_path / "data", change.get("tasks", THREE))

    with pytest.raises(FoveolaError) as refused:
        check_game(dataset, change.get("build", BUILD), PLAN, change.get("play", Play(alone=1)))

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_task_that_is_named_as_the_stem_is_refused(tmp_path: Path) -> None:
    renamed = msgspec.structs.replace(THREE[0], name="stem", columns=("bright",))

    with pytest.raises(FoveolaError, match="a task is named 'stem'"):
        check_game(squares(tmp_path / "data", (renamed, *THREE[1:])), BUILD, PLAN, Play(alone=1))


def test_a_task_without_a_labelled_image_is_refused(tmp_path: Path) -> None:
    dataset = squares(tmp_path / "data", THREE)
    dataset.scalars["bright"][:] = np.nan

    with pytest.raises(FoveolaError, match="no train image has a target for bright"):
        check_game(dataset, BUILD, PLAN, Play(alone=1))
