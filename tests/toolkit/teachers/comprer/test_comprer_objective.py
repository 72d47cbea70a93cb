"""Which loss teaches what: eligibility, weights of 0, masks, balance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from small_people import AIMS, ENCODERS, STILL, people, two_visits

from foveola.runtime.task import Task
from foveola.toolkit.data.arrays import Arrays
from foveola.toolkit.teachers.comprer.batch import PatientBatch, PatientData, blank, vary
from foveola.toolkit.teachers.comprer.judge import embed
from foveola.toolkit.teachers.comprer.knobs import Aims, Roles
from foveola.toolkit.teachers.comprer.losses import rebuild_loss
from foveola.toolkit.teachers.comprer.network import Comprer
from foveola.toolkit.teachers.comprer.objective import Balance, Pretraining
from foveola.toolkit.teachers.comprer.records import read_records

AGE = Task(name="age", kind="regression", classes=("age",))
ILL = Task(name="ill", kind="binary", classes=("no", "yes"))
Row = dict[str, object]
CPU = torch.device("cpu")


def data_of(rows: list[Row], roles: Roles = Roles()) -> PatientData:  # noqa: B008
    """Pictures of noise, one drawn epoch."""
    records = read_records(people(rows, (AGE, ILL)), ENCODERS, roles)
    rng, arrays = np.random.default_rng(0), {}
    for name, scans in records.scans.items():
        images = rng.random((len(scans), ENCODERS[name].input.channels, 32, 32), np.float32)
        arrays[name] = Arrays(
            images=images,
            scalars=scans.dataset.scalars,
            masks={},
            boxes={},
            geometries=(),
            samples=scans.dataset.samples,
        )
    data = PatientData(records, arrays, (AGE, ILL), {"age": (50.0,)}, {"age": (10.0,)}, roles)
    data.draw(rng)
    return data


def batch_of(rows: list[Row], roles: Roles = Roles()) -> PatientBatch:  # noqa: B008
    data = data_of(rows, roles)
    return data.batch(np.array(data.subjects))


def learner(aims: Aims = AIMS, measures: tuple[Task, ...] = (AGE, ILL)) -> Pretraining:
    torch.manual_seed(0)
    return Pretraining(Comprer(ENCODERS, aims, measures), aims, measures)


def full(patients: int = 3) -> list[Row]:
    return [row | {"age": 40 + 10 * i / patients, "ill": float(i % 2)} for i, row in enumerate(two_visits(patients))]


def gradients(objective: Pretraining, batch: PatientBatch) -> tuple[dict[str, float], set[str]]:
    """The losses of one step, and the modules (second level of a branch) that got a gradient."""
    losses = objective.train()(batch)
    torch.stack(list(losses.values())).sum().backward()
    moved = {
        f"{name.split('.')[1]}.{name.split('.')[2]}" if name.startswith("branches") else name
        for name, p in objective.network.named_parameters()
        if p.grad is not None and bool((p.grad != 0).any())
    }
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())
    return {name: loss.item() for name, loss in losses.items()}, moved


def test_all_losses_begin_at_their_weights_and_teach_every_module() -> None:
    aims = msgspec.structs.replace(AIMS, gap=0.3)

    losses, moved = gradients(learner(aims), batch_of(full()))

    assert losses == pytest.approx({"multimodal": 1, "temporal": 0.5, "measures": 1, "reconstruction": 1}, abs=1e-5)
    parts = ("encoder", "across", "along", "heads", "order", "gap", "decoder")
    assert moved == {f"{name}.{part}" for name in ENCODERS for part in parts} | {"log_across", "log_along"}


@pytest.mark.parametrize(
    ("out", "modules"),
    [
        ({"multimodal": 0.0}, {"across"}),
        ({"temporal": 0.0}, {"along", "order"}),
        ({"contrast": 0.0}, {"along"}),
        ({"order": 0.0}, {"order"}),
        ({"measures": 0.0}, {"heads"}),
        ({"reconstruction": 0.0}, {"decoder"}),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_weight_of_zero_takes_exactly_that_loss_out(out: dict[str, Any], modules: set[str]) -> None:
    objective = learner(msgspec.structs.replace(AIMS, **out))

    losses, moved = gradients(objective, batch_of(full()))

    assert set(losses) == {"multimodal", "temporal", "measures", "reconstruction"} - set(out)
    parts = {"encoder", "across", "along", "heads", "order", "decoder"} - modules
    assert {name for name in moved if "." in name} == {f"{name}.{part}" for name in ENCODERS for part in parts}
    untouched = [p for name, p in objective.network.named_parameters() if name.split(".")[2:3] == [next(iter(modules))]]
    assert all(p.grad is None for p in untouched)


def test_the_first_weights_are_the_same_whichever_losses_are_in() -> None:
    whole, part = (learner(msgspec.structs.replace(AIMS, temporal=w)).network.state_dict() for w in (0.5, 0.0))

    assert whole.keys() == part.keys()
    assert all(torch.equal(x, part[name]) for name, x in whole.items())


def no_pair(rows: list[Row]) -> list[Row]:
    return [row for row in rows if (row["modality"] == "fundus") == (row["patient"] == "p0")]


def one_visit(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["visit"] == 0]


def no_measure(rows: list[Row]) -> list[Row]:
    return [row | {"age": np.nan, "ill": np.nan} for row in rows]


def one_modality(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["modality"] == "carotid"]


@pytest.mark.parametrize(
    ("missing", "zero", "still"),
    [
        (no_pair, {"multimodal"}, {"fundus.across", "carotid.across", "log_across"}),
        (one_visit, {"temporal"}, {"fundus.along", "fundus.order", "log_along"}),
        (no_measure, {"measures"}, {"fundus.heads", "carotid.heads"}),
        (one_modality, {"multimodal"}, {"fundus.encoder", "fundus.heads", "fundus.decoder", "log_across"}),
    ],
)
def test_what_is_missing_costs_nothing_and_moves_nothing(
    missing: Callable[[list[Row]], list[Row]], zero: set[str], still: set[str]
) -> None:
    losses, moved = gradients(learner(), batch_of(missing(full())))

    assert {name for name, loss in losses.items() if loss == 0.0} == zero
    assert not moved & still


def test_a_patient_with_one_modality_still_teaches_measures_and_reconstruction() -> None:
    _, moved = gradients(learner(), batch_of(one_modality(full(1))))

    assert {"carotid.encoder", "carotid.heads", "carotid.decoder"} <= moved


def test_a_batch_in_which_nothing_is_eligible_changes_nothing() -> None:
    objective = learner(msgspec.structs.replace(AIMS, measures=0.0, reconstruction=0.0))

    losses, moved = gradients(objective, batch_of(full(1)[:1]))

    assert set(losses.values()) == {0.0}
    assert moved == set()


def test_one_gap_masks_one_number_of_the_measures() -> None:
    rows = full()
    before = batch_of(rows)
    rows[0]["age"] = rows[1]["age"] = np.nan
    after = batch_of(rows)

    assert after.pictures["fundus"].known["age"] == before.pictures["fundus"].known["age"] - 1
    assert after.pictures["carotid"].known == before.pictures["carotid"].known


def test_sides_can_be_the_pairs() -> None:
    roles = Roles(pairs="sides")

    losses, moved = gradients(learner(msgspec.structs.replace(AIMS, balance="fixed")), batch_of(full(), roles))

    assert losses["multimodal"] > 0
    assert {"fundus.across", "carotid.across"} <= moved


def test_the_temperature_stays_in_its_range() -> None:
    network = learner().network
    with torch.no_grad():
        network.log_across.fill_(-20.0)

    assert network.temperature(network.log_across).item() == pytest.approx(AIMS.coldest)
    network.clamp()

    assert network.log_across.exp().item() == pytest.approx(AIMS.coldest, rel=1e-4)
    assert network.log_along.exp().item() == pytest.approx(0.07, rel=1e-4)


def test_a_loss_is_divided_by_its_first_value_even_if_that_came_later() -> None:
    balance = Balance({"a": 1.0, "b": 0.5}, "start").train()
    grown = torch.ones((), requires_grad=True)

    first = balance({"a": 4 * grown, "b": torch.zeros(())})
    second = balance({"a": 2 * grown, "b": 3 * grown})
    third = balance({"a": 2 * grown, "b": 6 * grown})

    assert (first["a"].item(), first["b"].item(), first["b"].requires_grad) == (1.0, 0.0, False)
    assert (second["a"].item(), second["b"].item()) == (0.5, 0.5)
    assert third["b"].item() == 1.0


def test_a_learned_uncertainty_leaves_out_what_was_not_seen() -> None:
    balance = Balance({"a": 1.0, "b": 1.0}, "uncertainty")
    grown = torch.ones((), requires_grad=True)

    torch.stack(list(balance({"a": 4 * grown, "b": torch.zeros(())}).values())).sum().backward()

    assert balance.log_variance is not None
    assert balance.log_variance.grad is not None
    assert balance.log_variance.grad.tolist() == [-3.5, 0.0]


def test_fixed_weights_change_nothing_else() -> None:
    found = Balance({"a": 2.0}, "fixed")({"a": torch.tensor(3.0, requires_grad=True)})

    assert found["a"].item() == 6.0


def test_a_picture_is_varied_but_the_decoder_is_to_give_it_clean() -> None:
    batch = batch_of(full())
    how = {name: msgspec.structs.replace(one, augment=msgspec.structs.replace(STILL, brightness=0.3), colour=0.2,
                                         speckle=0.2) for name, one in ENCODERS.items()}  # fmt: skip

    clean, view = (
        vary(batch, how, torch.Generator().manual_seed(0), CPU, clean=kept).pictures["fundus"] for kept in (True, False)
    )

    assert torch.equal(clean.wanted, batch.pictures["fundus"].images)
    assert not torch.equal(clean.images, clean.wanted)
    assert torch.equal(view.images, view.wanted)
    assert torch.equal(clean.images, view.images)
    assert 0 <= clean.images.min() <= clean.images.max() <= 1


def test_a_mirrored_picture_is_wanted_mirrored() -> None:
    batch = batch_of(full())
    how = {name: msgspec.structs.replace(one, augment=msgspec.structs.replace(STILL, flip=True))
           for name, one in ENCODERS.items()}  # fmt: skip

    one = vary(batch, how, torch.Generator().manual_seed(0), CPU).pictures["fundus"]

    own = batch.pictures["fundus"].images
    turned = [torch.equal(a, b.flip(-1)) for a, b in zip(one.wanted, own, strict=True)]
    assert any(turned)
    assert not all(turned)
    assert torch.allclose(one.images, one.wanted, atol=1e-5)


def test_left_eyes_are_mirrored_where_that_is_asked_for() -> None:
    rows = [row for row in full(4) if row["eye"] == ("left" if str(row["patient"]) in "p0 p1" else "right")]
    plain, mirrored = (batch_of(rows, Roles(mirror=side)).pictures["fundus"].images for side in ("", "left"))

    same = [torch.equal(a, b) for a, b in zip(plain, mirrored, strict=True)]

    assert same == [False] * 4 + [True] * 4
    assert torch.equal(plain[0], mirrored[0].flip(-1))


def test_a_share_of_the_patches_is_blanked() -> None:
    x = torch.zeros(64, 1, 64, 48)

    blanked = blank(x, 0.5, torch.Generator().manual_seed(0))

    assert blanked.unique().tolist() == [0.0, 0.5]
    assert (blanked[:, :, :32, :32].flatten(1).std(1) == 0).all()
    assert 0.35 < (blanked == 0.5).float().mean() < 0.65


@pytest.mark.parametrize("change", [{"rebuilt": "embedding"}, {"rebuild_loss": "l1_ssim"}, {"measure_hidden": 8}])
def test_every_form_of_decoder_and_head_trains(change: dict[str, Any]) -> None:
    losses, moved = gradients(learner(msgspec.structs.replace(AIMS, **change)), batch_of(full()))

    assert all(np.isfinite(list(losses.values())))
    assert {"fundus.decoder", "fundus.heads"} <= moved


def test_a_decoder_comes_to_beat_the_mean_picture_on_pictures_it_never_saw() -> None:
    rng = np.random.default_rng(0)
    shades = {"fundus": rng.random((48, 3, 1, 1), np.float32) * np.ones((1, 1, 32, 32), np.float32)}
    torch.manual_seed(0)
    aims = Aims(multimodal=0, temporal=0, measures=0, decoder_width=16, balance="fixed")
    network = Comprer({"fundus": ENCODERS["fundus"]}, aims, ())
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    branch, losses = network["fundus"], []
    normal, seen = branch.encoder.normalise, torch.from_numpy(shades["fundus"][:32])
    assert branch.decoder is not None

    for _ in range(60):
        rows = torch.from_numpy(rng.permutation(32)[:8])
        loss = rebuild_loss(branch.decoder(branch.encoder(seen[rows])), seen[rows], normal.std, normal.mean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    unseen = shades["fundus"][32:]
    error = embed(network, {"fundus": pictures_of(unseen)})["fundus"].error
    assert error is not None
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert error.mean() < ((unseen - shades["fundus"][:32].mean(0)) ** 2).mean()


def pictures_of(images: np.ndarray[Any, np.dtype[np.float32]]) -> Arrays:
    return Arrays(images=images, scalars={}, masks={}, boxes={}, geometries=(), samples=(None,) * len(images))  # type: ignore[arg-type]
