from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from foveola.runtime.errors import UsageError
from foveola.toolkit.teachers.split_norm import shuffle_keys, split_batch_norm, unshuffle

X = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1


def norm(kind: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.BatchNorm2d:
    torch.manual_seed(1)
    made = kind(3)
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
@pytest.mark.parametrize("splits", [1, 2, 4])
def test_each_group_is_normalised_as_ordinary_batch_normalisation_would(
    kind: type[nn.BatchNorm2d], splits: int
) -> None:
    whole, plain = norm(kind), norm(kind)
    split = split_batch_norm(nn.Sequential(whole), splits).train()

    assert torch.allclose(split(X), torch.cat([plain.train()(part) for part in X.chunk(splits)]), atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
@pytest.mark.parametrize("splits", [1, 2, 4])
def test_running_statistics_are_means_over_the_groups(
    kind: type[nn.BatchNorm2d], splits: int, momentum: float | None
) -> None:
    whole, plains = norm(kind), [norm(kind).train() for _ in range(splits)]
    for one in (whole, *plains):
        one.momentum = momentum
    split = split_batch_norm(nn.Sequential(whole), splits).train()

    for batch in (X, 3 * X - 1):
        split(batch)
        for plain, part in zip(plains, batch.chunk(splits), strict=True):
            plain(part)

    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(plain, name) for plain in plains]).mean(0)
        assert torch.allclose(getattr(whole, name), mean, atol=1e-4)
    assert int(whole.get_buffer("num_batches_tracked")) == 2


@pytest.mark.parametrize(("affine", "tracked"), [(False, True), (True, False), (False, False)])
def test_a_layer_without_weights_or_running_statistics_is_split_too(affine: bool, tracked: bool) -> None:
    split = nn.BatchNorm2d(3, affine=affine, track_running_stats=tracked)
    plain = nn.BatchNorm2d(3, affine=affine, track_running_stats=tracked)

    split_batch_norm(split, 2)

    assert torch.allclose(split.train()(X), torch.cat([plain.train()(part) for part in X.chunk(2)]), atol=1e-5)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_channels_last_pictures_stay_so(kind: type[nn.BatchNorm2d]) -> None:
    split = split_batch_norm(norm(kind), 2).train()

    assert split(X.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
    assert split(X).is_contiguous()


def test_one_group_changes_nothing_and_gives_ordinary_normalisation_back() -> None:
    untouched, once_split = norm(), split_batch_norm(norm(), 2)

    split_batch_norm(untouched, 1)
    split_batch_norm(once_split, 1)

    assert type(untouched) is nn.BatchNorm2d
    assert torch.equal(once_split.train()(X), norm().train()(X))


def test_gradients_are_those_of_the_groups() -> None:
    one, two = X.clone().requires_grad_(), X.clone().requires_grad_()
    split, plain = split_batch_norm(nn.Sequential(norm()), 2).train(), norm().train()

    split(one).square().sum().backward()
    torch.cat([plain(part) for part in two.chunk(2)]).square().sum().backward()

    assert one.grad is not None
    assert two.grad is not None
    assert torch.allclose(one.grad, two.grad, atol=1e-3)


def test_evaluation_is_ordinary_and_keys_stay_those_of_the_plain_network() -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", in_chans=1, num_classes=2)
    plain = timm.create_model("resnet10t", in_chans=1, num_classes=2)
    plain.load_state_dict(network.state_dict())
    x = torch.rand(4, 1, 64, 64)

    split_batch_norm(network, 2)

    assert torch.equal(network.eval()(x), plain.eval()(x))
    assert list(network.state_dict()) == list(plain.state_dict())


def test_weights_trained_by_groups_load_into_the_plain_network() -> None:
    torch.manual_seed(0)
    network = split_batch_norm(timm.create_model("resnet10t", in_chans=1, num_classes=2), 2).train()
    network(torch.rand(4, 1, 64, 64))
    plain = timm.create_model("resnet10t", in_chans=1, num_classes=2)
    x = torch.rand(2, 1, 64, 64)

    plain.load_state_dict(network.state_dict())

    assert torch.equal(plain.eval()(x), network.eval()(x))


def test_no_group_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="splits: 0 groups; give 1 or more"):
        split_batch_norm(norm(), 0)


def test_a_batch_that_does_not_part_is_refused() -> None:
    with pytest.raises(UsageError, match="splits: 8 images do not part into 3 groups"):
        split_batch_norm(nn.Sequential(norm()), 3).train()(X)


def test_shuffled_keys_come_back_in_order() -> None:
    mixed, inverse = shuffle_keys(X, torch.Generator().manual_seed(3))

    assert not torch.equal(mixed, X)
    assert torch.equal(mixed[inverse], X)
    assert torch.equal(unshuffle(mixed, inverse), X)


TOGETHER = """
import sys, torch
from torch import distributed
from foveola.runtime.manifest import InputSpec
from foveola.toolkit.teachers.contrast import Encoder, MoCo, nt_xent
from foveola.toolkit.teachers.split_norm import shuffle_keys, unshuffle
torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank = distributed.get_rank()
x = torch.arange(6.0).reshape(3, 2) + 100 * rank
torch.manual_seed(rank)  # the first process's permutation counts
mixed, inverse = shuffle_keys(x)
assert torch.equal(unshuffle(mixed, inverse), x)
everyone = [torch.empty_like(mixed) for _ in range(2)]
distributed.all_gather(everyone, mixed)
assert sorted(torch.cat(everyone)[:, 0].tolist()) == [0, 2, 4, 100, 102, 104]
torch.manual_seed(0)
encoder = Encoder("resnet10t", InputSpec(height=64, width=64, channels=1), dim=8)
learner = MoCo(encoder, queue=8, momentum=0.9, temperature=0.2)
first = learner.queue.clone()
for step in range(2):
    torch.manual_seed(10 * step + rank)
    learner.train()(torch.rand(2, 1, 64, 64), torch.rand(2, 1, 64, 64)).backward()
queues = [torch.empty_like(learner.queue) for _ in range(2)]
distributed.all_gather(queues, learner.queue)
assert torch.equal(queues[0], queues[1]) and int(learner.pointer) == 0
assert not (queues[0] == first).all(1).any() and len(set(map(tuple, queues[0].tolist()))) == 8
g = torch.Generator().manual_seed(5)
one, two = (torch.nn.functional.normalize(torch.randn(4, 6, generator=g), dim=1) for _ in range(2))
own = one[2 * rank : 2 * rank + 2].requires_grad_()
mine = nt_xent(own, two[2 * rank : 2 * rank + 2], 0.5)
mine.backward()
# By hand: one's own views both ask and answer, those of the other process only answer.
twin = own.detach().clone().requires_grad_()
asking = torch.cat((twin, two[2 * rank : 2 * rank + 2]))
answering = [torch.cat((one[s].detach(), two[s])) for s in (slice(0, 2), slice(2, 4))]
answering[rank] = asking
itself = torch.eye(8, dtype=torch.bool)[4 * rank : 4 * rank + 4]
logits = (asking @ torch.cat(answering).T / 0.5).masked_fill(itself, -torch.inf)
torch.nn.functional.cross_entropy(logits, torch.tensor([2, 3, 0, 1]) + 4 * rank).backward()
assert torch.allclose(own.grad, twin.grad, atol=1e-6)
mine = mine.detach()
distributed.all_reduce(mine)
assert abs(float(mine) / 2 - WHOLE) < 1e-5
"""


def test_two_processes_share_one_queue_and_shuffle_each_other_s_keys() -> None:
    from foveola.toolkit.teachers.contrast import nt_xent

    g = torch.Generator().manual_seed(5)
    one, two = (torch.nn.functional.normalize(torch.randn(4, 6, generator=g), dim=1) for _ in range(2))
    code = TOGETHER.replace("WHOLE", repr(float(nt_xent(one, two, 0.5))))
    launch = "from torch.distributed.run import main; main()"
    words = ["--nproc-per-node", "2", "--no-python", sys.executable, "-c", code]

    done = subprocess.run([sys.executable, "-c", launch, *words], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr[-2000:]
