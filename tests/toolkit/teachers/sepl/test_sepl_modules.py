from __future__ import annotations

import math

import pytest
import torch
from factors import COMPLEX, SIMPLE, pictures, plan_of, teacher_of

from foveola.runtime.task import Task
from foveola.toolkit.teachers.sepl.modules import Expert, Mixture, PlainHeads, PriorAttention
from foveola.toolkit.teachers.sepl.priors import SURE, prior_vector
from foveola.toolkit.teachers.sepl.teacher import entropy

WIDTH, PRIORS = 24, 6


def mixture(experts: int = 4, priors: int = PRIORS) -> Mixture:
    torch.manual_seed(0)
    return Mixture(COMPLEX, WIDTH, priors, experts=experts, hidden=16, prior_hidden=12, attention=True)


def inputs(count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, WIDTH, generator=generator), torch.randn(count, PRIORS, generator=generator)


def count(module: torch.nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def test_the_published_shape_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        teacher = plan_of(backbone="convnext_tiny", hidden=512).build()

    assert count(teacher.backbone) == 27_818_592
    assert count(teacher.simple) == 4_614
    assert isinstance(teacher.complex, Mixture)
    assert count(teacher.complex.gates) == 27_900
    assert [count(expert) for expert in teacher.complex.experts] == [662_654] * 4
    assert count(teacher.complex.heads) == 4_617
    assert count(teacher) == 30_506_339


def test_a_gate_s_shares_sum_to_one_hang_on_the_priors_and_differ_from_factor_to_factor() -> None:
    moe, (v, a) = mixture(), inputs()

    shares, moved = moe.shares(v, a), moe.shares(v, a + 1)

    for name, share in shares.items():
        torch.testing.assert_close(share.sum(1), torch.ones(len(v)))
        assert not torch.allclose(share, moved[name])
    assert not torch.allclose(shares["sbp"], shares["dbp"])
    assert tuple(shares) == tuple(task.name for task in COMPLEX)


def test_a_prior_attention_without_weights_gives_each_prior_a_sixth() -> None:
    attention, (_, a) = PriorAttention(PRIORS), inputs()
    torch.testing.assert_close(attention.weights(a).sum(1), torch.ones(len(a)))
    torch.nn.init.zeros_(attention.weigh.weight)
    torch.nn.init.zeros_(attention.weigh.bias)

    torch.testing.assert_close(attention(a), a / PRIORS)


def test_a_gate_without_weights_shares_out_evenly() -> None:
    moe, (v, a) = mixture(), inputs()
    for gate in moe.gates.values():
        for one in gate.parameters():
            torch.nn.init.zeros_(one)

    shares = moe.shares(v, a)

    assert all(torch.equal(share, torch.full((len(v), 4), 0.25)) for share in shares.values())


def test_an_expert_answers_as_its_formula_says() -> None:
    expert, (v, a) = Expert(WIDTH, PRIORS, 16, 12, attention=True), inputs()
    assert expert.attention is not None
    assert expert.priors is not None
    w1, w2, w3, w4 = expert.image, expert.attention.weigh, expert.priors, expert.join

    said = expert(v, a)

    chosen = a * torch.softmax(a @ w2.weight.T + w2.bias, 1)
    seen = torch.cat(((v @ w1.weight.T + w1.bias).relu(), (chosen @ w3.weight.T + w3.bias).relu()), 1)
    torch.testing.assert_close(said, (seen @ w4.weight.T + w4.bias).relu())


def test_one_expert_is_a_single_perceptron_whose_gate_is_always_one() -> None:
    moe, (v, a) = mixture(experts=1), inputs()

    raw, mixed, shares = moe(v, a)

    assert all(torch.equal(share, torch.ones(len(v), 1)) for share in shares.values())
    (expert,) = moe.experts
    torch.testing.assert_close(mixed["sbp"], expert(v, a))
    torch.testing.assert_close(raw["sbp"], moe.heads["sbp"](expert(v, a)))


def test_the_mixture_is_the_gate_s_mean_of_the_experts() -> None:
    moe, (v, a) = mixture(), inputs()

    _, mixed, shares = moe(v, a)

    by_hand = sum(shares["bun"][:, [e]] * expert(v, a) for e, expert in enumerate(moe.experts))
    torch.testing.assert_close(mixed["bun"], by_hand)


def test_without_priors_the_complex_factors_differ_and_the_simple_ones_do_not() -> None:
    teacher = teacher_of()
    found = teacher.propagate(pictures())
    assert isinstance(teacher.complex, Mixture)
    assert found.priors is not None

    raw, _, _ = teacher.complex(found.feature, torch.zeros_like(found.priors))
    for one in teacher.complex.parameters():
        torch.nn.init.normal_(one)
    again = teacher.propagate(pictures()).raw

    assert all(not torch.allclose(raw[task.name], found.raw[task.name]) for task in COMPLEX)
    assert all(torch.equal(again[task.name], found.raw[task.name]) for task in SIMPLE)
    assert all(not torch.allclose(again[task.name], found.raw[task.name]) for task in COMPLEX)


def test_entropy_lies_between_none_and_that_of_equal_shares() -> None:
    shares = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1]])

    found = entropy(shares)

    assert found[0] == 0
    assert float(found[1]) == pytest.approx(math.log(4))
    assert 0 < float(found[2]) < math.log(4)


def test_plain_heads_stand_on_the_feature_or_on_one_common_layer() -> None:
    v, _ = inputs()

    bare, layered = PlainHeads(COMPLEX, WIDTH, 0), PlainHeads(COMPLEX, WIDTH, 10)

    assert count(bare) == 9 * (WIDTH + 1)
    assert count(layered) == (WIDTH + 1) * 10 + 9 * 11
    assert all(said.shape == (len(v), 1) for said in (*bare(v).values(), *layered(v).values()))


def test_priors_stand_side_by_side_whatever_their_kind() -> None:
    tasks = (
        Task(name="sex", kind="binary", classes=("f", "m")),
        Task(name="size", kind="regression", classes=("height", "weight")),
        Task(name="camera", kind="multiclass", classes=("a", "b", "c")),
        Task(name="grade", kind="ordinal", classes=("none", "some", "much")),
    )
    raw = {
        "sex": torch.tensor([[2.0]]),
        "size": torch.tensor([[0.5, -0.5]]),
        "camera": torch.tensor([[1.0, 1.0, 1.0]]),
        "grade": torch.tensor([[0.0, -9.0]]),
    }
    nan = float("nan")
    known = {
        "sex": torch.tensor([[0.0]]),
        "size": torch.tensor([[nan, 3.0]]),
        "camera": torch.tensor([[1.0]]),
        "grade": torch.tensor([[nan]]),
    }

    plain = prior_vector(tasks, raw)
    likely = prior_vector(tasks, raw, "sigmoid")
    oracle = prior_vector(tasks, raw, "logit", known)

    assert plain.tolist() == [[2.0, 0.5, -0.5, 1.0, 1.0, 1.0, 0.0, -9.0]]
    assert likely[0].tolist() == pytest.approx([0.880797, 0.5, -0.5, 1 / 3, 1 / 3, 1 / 3, 0.5, 0.000123], abs=1e-5)
    assert oracle.tolist() == [[-SURE, 0.5, 3.0, -SURE, SURE, -SURE, 0.0, -9.0]]
