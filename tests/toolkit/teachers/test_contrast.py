from __future__ import annotations

import copy
import math

import pytest
import torch
from small import SPEC
from torch import Tensor
from torch.nn import functional

from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import InputSpec
from foveola.toolkit.models.network import Network, Normalise
from foveola.toolkit.teachers.contrast import PRESETS, Encoder, MoCo, SimCLR, info_nce, nt_xent


def moco(*, queue: int = 8, momentum: float = 0.9, temperature: float = 0.2, dim: int = 16, splits: int = 1) -> MoCo:
    torch.manual_seed(0)
    return MoCo(
        Encoder("resnet10t", SPEC, dim=dim), queue=queue, momentum=momentum, temperature=temperature, splits=splits
    )


def views(count: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int = 0) -> Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_info_nce_is_the_worked_example_with_tau_inside_the_exponent() -> None:
    q, k = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    queue = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])

    assert float(info_nce(q, k, queue, 0.5)) == pytest.approx(0.294129, abs=1e-6)

    # As the paper prints it, tau cancels and every tau gives the same.
    own, others = math.exp(0.6), math.exp(0.0) + math.exp(-1.0)
    printed = {tau: -math.log((own / tau) / (own / tau + others / tau)) for tau in (0.1, 0.5, 2.0)}
    assert all(value == pytest.approx(0.560020, abs=1e-6) for value in printed.values())


def test_info_nce_of_two_queries_is_their_mean_by_hand() -> None:
    q, k = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    queue = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])

    # Second query: own 1 / .5 = 2; queue 1 / .5 = 2 and 0.
    second = -math.log(math.exp(2) / (2 * math.exp(2) + 1))
    assert float(info_nce(q, k, queue, 0.5)) == pytest.approx((0.294129 + second) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("tau", "keys", "wanted", "within"), [(1.0, 512, 6.249, 0.007), (0.2, 4096, 8.43, 0.03), (0.07, 4096, 9.06, 0.07)]
)
def test_independent_random_vectors_cost_about_the_logarithm_of_their_number(
    tau: float, keys: int, wanted: float, within: float
) -> None:
    losses = [
        float(info_nce(unit(2048, 128, seed=s), unit(2048, 128, seed=s + 50), unit(keys, 128, seed=s + 99), tau))
        for s in range(3)
    ]
    found = sum(losses) / len(losses)

    # The wanted values were simulated with few vectors; no tolerance reaches down to log(K + 1).
    assert found == pytest.approx(wanted, abs=within)
    assert found - math.log(keys + 1) == pytest.approx(1 / (2 * 128 * tau**2), rel=0.1, abs=0.003)


def test_the_queue_holds_the_last_keys_first_in_first_out() -> None:
    learner = moco(queue=6, dim=2)
    keys = [unit(2, 2, seed=step) for step in range(4)]

    for k in keys:
        learner._enqueue(k)

    assert torch.equal(learner.queue, torch.cat((keys[3], keys[1], keys[2])))
    assert int(learner.pointer) == 2


def test_what_a_step_enqueues_are_its_keys_in_the_order_of_the_images() -> None:
    learner = moco(queue=8, momentum=1.0).train()
    first, twin = learner.queue.clone(), copy.deepcopy(learner.key)

    learner(views(seed=1), views(seed=2))

    # The statistics of one whole batch do not depend on its order, so that the shuffle leaves no trace.
    assert torch.allclose(learner.queue[:4], twin(views(seed=2)), atol=1e-5)
    assert torch.equal(learner.queue[4:], first[4:])


def test_gradient_reaches_the_queries_and_not_the_queue() -> None:
    q, queue = unit(2, 4, seed=1).requires_grad_(), unit(6, 4, seed=2)

    info_nce(q, unit(2, 4, seed=3), queue, 0.2).backward()

    assert q.grad is not None
    assert float(q.grad.abs().sum()) > 0
    assert queue.grad is None
    learner = moco(queue=8).train()
    learner(views(), views(seed=1)).backward()
    assert learner.queue.grad is None
    assert learner.queue.grad_fn is None


def test_after_each_step_the_newest_keys_are_unit_vectors_without_gradient() -> None:
    learner = moco(queue=8).train()

    for step in range(3):
        learner(views(seed=step), views(seed=step + 10)).backward()

    assert int(learner.pointer) == 4
    assert not learner.queue.requires_grad
    assert torch.allclose(learner.queue.norm(dim=1), torch.ones(8), atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_key_encoder_follows_by_momentum_and_gets_no_gradient(momentum: float) -> None:
    learner = moco(momentum=momentum).train()
    with torch.no_grad():
        for p in learner.query.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    key = {name: p.clone() for name, p in learner.key.named_parameters()}
    query = {name: p.clone() for name, p in learner.query.named_parameters()}

    learner(views(), views(seed=1)).backward()

    for name, p in learner.key.named_parameters():
        assert p.grad is None
        assert torch.allclose(p, momentum * key[name] + (1 - momentum) * query[name], atol=1e-6)
    assert all(p.grad is not None for p in learner.query.parameters())


def test_the_statistics_of_the_key_encoder_are_its_own() -> None:
    learner = moco(momentum=1.0).train()
    before = learner.key.backbone.state_dict()["bn1.running_mean"].clone()

    learner(views(), views(seed=1))

    assert not torch.equal(learner.key.backbone.state_dict()["bn1.running_mean"], before)


def test_the_same_picture_twice_in_copied_encoders_is_its_own_key() -> None:
    learner = moco(momentum=1.0, temperature=0.25).eval()
    x = views()
    with torch.no_grad():
        q, k = learner.query(x), learner.key(x)

    assert torch.allclose((q * k).sum(1) / 0.25, torch.full((4,), 4.0), atol=1e-5)


def test_evaluation_changes_neither_queue_nor_key() -> None:
    learner = moco().eval()
    with torch.no_grad():
        for p in learner.query.parameters():
            p.add_(0.1)  # else a key encoder that follows would not be seen
    before = {name: x.clone() for name, x in learner.state_dict().items()}

    learner(views(), views(seed=1))

    assert all(torch.equal(x, before[name]) for name, x in learner.state_dict().items())


@pytest.mark.parametrize(("keys", "images", "mend"), [(8, 3, "6 or 9"), (2, 3, "3"), (0, 3, "3")])
def test_a_queue_that_batches_do_not_fill_is_refused_before_anything_moves(keys: int, images: int, mend: str) -> None:
    learner = moco(queue=keys, momentum=0.5).train()
    with torch.no_grad():
        for p in learner.query.parameters():
            p.add_(0.1)
    before = {name: x.clone() for name, x in learner.state_dict().items()}

    with pytest.raises(
        FoveolaError, match=f"queue: {keys} keys are no multiple of {images} images a step; give {mend}"
    ):
        learner(views(images), views(images, seed=1))

    assert all(torch.equal(x, before[name]) for name, x in learner.state_dict().items())


def test_a_learner_saved_and_loaded_goes_on_with_the_same_losses() -> None:
    one, two = moco().train(), moco().train()
    one(views(), views(seed=1))

    two.load_state_dict(one.state_dict())

    # Four of eight keys are in: without queue and pointer the second loss would differ.
    losses = []
    for learner in (one, two):
        torch.manual_seed(3)
        losses.append([learner(views(seed=s), views(seed=s + 9)).item() for s in (2, 3)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("splits", [2, 4])
def test_a_learner_with_groups_learns_and_still_gives_plain_weights(splits: int) -> None:
    learner = moco(splits=splits).train()

    learner(views(), views(seed=1)).backward()

    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in learner.query.parameters())
    Encoder("resnet10t", SPEC, dim=16).load_state_dict(learner.query.state_dict())


def test_both_losses_are_computed_in_float32_also_in_bfloat16() -> None:
    q, k, queue = unit(4, 32, seed=1), unit(4, 32, seed=2), unit(64, 32, seed=3)
    wanted = info_nce(q, k, queue, 0.05), nt_xent(q, k, 0.05)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = info_nce(q, k, queue, 0.05), nt_xent(q, k, 0.05)

    assert [float(x) for x in found] == [float(x) for x in wanted]


def test_nt_xent_of_two_perfect_pairs_by_hand() -> None:
    z = torch.eye(2)

    # Each view: its twin at 1 / .5 = 2, the two views of the other image at 0.
    assert float(nt_xent(z, z, 0.5)) == pytest.approx(math.log(1 + 2 * math.exp(-2)), abs=1e-6)


def test_nt_xent_is_that_of_two_public_packages() -> None:
    one, two = torch.sin(torch.arange(24.0)).reshape(6, 4), torch.cos(1.3 * torch.arange(24.0)).reshape(6, 4)

    found = nt_xent(functional.normalize(one, dim=1), functional.normalize(two, dim=1), 0.3)

    # pytorch-metric-learning 2.9.0 and lightly 1.6.0, both in float64.
    assert float(found) == pytest.approx(3.8538748, abs=1e-5)


def test_nt_xent_is_cross_entropy_over_all_other_views() -> None:
    one, two, tau = unit(3, 5, seed=1), unit(3, 5, seed=2), 0.5
    everyone = torch.cat((one, two))
    losses = []
    for i in range(6):
        others = [j for j in range(6) if j != i]
        logits = torch.stack([everyone[i] @ everyone[j] / tau for j in others])
        losses.append(functional.cross_entropy(logits[None], torch.tensor([others.index((i + 3) % 6)])))

    assert float(nt_xent(one, two, tau)) == pytest.approx(float(torch.stack(losses).mean()), abs=1e-6)


def test_simclr_gives_its_encoder_gradients_through_both_views() -> None:
    torch.manual_seed(0)
    learner = SimCLR(Encoder("resnet10t", SPEC, dim=8), temperature=0.5).train()

    learner(views(), views(seed=1)).backward()

    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in learner.parameters())


def test_the_z_score_of_the_paper_is_the_first_layer_of_every_network() -> None:
    spec = InputSpec(height=64, width=64, channels=1, mean=(122.786 / 255,), std=(18.390 / 255,))
    grey = torch.tensor([122.786, 255.0, 0.0]).reshape(3, 1, 1, 1) / 255

    assert Normalise(spec)(grey).flatten().tolist() == pytest.approx([0.0, 7.1895, -6.6768], abs=1e-4)
    assert isinstance(Encoder("resnet10t", spec).normalise, Normalise)
    assert Network.__init__.__module__ == "foveola.toolkit.models.network"


def test_embeddings_are_unit_vectors_in_float32_also_in_bfloat16() -> None:
    encoder = Encoder("resnet10t", SPEC, dim=8).eval()

    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        z = encoder(views())

    assert z.dtype == torch.float32
    assert torch.allclose(z.norm(dim=1), torch.ones(4), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mocov2-imagenet", (128, 65536, 0.999, 0.2, "sgd", 0.03, 1e-4, 256, 200, True, 1, "cosine")),
        ("moco-cxr", (128, 24576, 0.999, 0.2, "adam", 1e-4, 1e-4, 16, 20, True, 1, "constant")),
        ("moco-small", (128, 4096, 0.99, 0.1, "sgd", 0.06, 5e-4, 512, 200, False, 8, "cosine")),
    ],
)
def test_presets_are_those_of_their_sources(name: str, wanted: tuple[object, ...]) -> None:
    p = PRESETS[name]

    assert (
        p.dim,
        p.queue,
        p.momentum,
        p.temperature,
        p.optimizer,
        p.learning_rate,
        p.weight_decay,
        p.batch_size,
        p.epochs,
        p.mlp,
        p.splits,
        p.schedule,
    ) == wanted
    assert p.sgd_momentum == 0.9
    assert p.source
    assert p.queue % p.batch_size == 0
    assert p.batch_size % p.splits == 0
