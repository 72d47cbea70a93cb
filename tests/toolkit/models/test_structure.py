from __future__ import annotations

import copy
from pathlib import Path

import msgspec
import pytest
import torch
from small import SPEC, TASKS
from torch import Tensor, nn

from foveola.runtime.errors import FoveolaError
from foveola.toolkit.compress.prune.graph import trace
from foveola.toolkit.compress.prune.groups import find_groups
from foveola.toolkit.compress.prune.shrink import shrink
from foveola.toolkit.models.dense_teacher import as_graph
from foveola.toolkit.models.network import Architecture, Network, load_network, save_network
from foveola.toolkit.models.structure import (
    Layer,
    Structure,
    fold_norms,
    foldable_norms,
    merged_copy,
    refresh_blocks,
    resized_layers,
)

X = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def plan(backbone: str) -> Architecture:
    return Architecture(
        role="student",
        backbone=backbone,
        input=SPEC,
        tasks=TASKS,
        width=16,
        target_mean={"side": (0.0,)},
        target_std={"side": (1.0,)},
    )


def lively(backbone: str) -> Network:
    torch.manual_seed(0)
    network = Network(plan(backbone))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def pruned(network: Network) -> Network:
    choice = find_groups(network, trace(network))
    return shrink(network, {group.root: list(range(0, group.width, 2)) for group in choice.groups})


def answers(network: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        found: dict[str, Tensor] = network(X)
    return found


def difference(own: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((x - other[name]).abs().max() / x.abs().max().clamp(min=1)) for name, x in own.items())


def folded(network: Network) -> Network:
    """With every normalisation folded that can be, its architecture saying so."""
    one = copy.deepcopy(network)
    pairs = foldable_norms(one, lambda: one(X))
    fold_norms(one, pairs)
    structure = msgspec.structs.replace(network.architecture.structure, folded=pairs)
    one.architecture = msgspec.structs.replace(network.architecture, structure=structure)
    return one


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "resnet10t"])
def test_folding_then_saving_gives_the_same_answers(backbone: str, tmp_path: Path) -> None:
    network = lively(backbone)
    one = folded(network)
    assert one.architecture.structure.folded

    save_network(one, tmp_path)

    assert difference(answers(network), answers(one)) < 1e-4
    assert difference(answers(one), answers(load_network(tmp_path))) == 0


def test_a_pruned_network_that_was_folded_comes_back(tmp_path: Path) -> None:
    network = pruned(lively("resnet10t"))
    one = folded(network)
    save_network(one, tmp_path)

    back = load_network(tmp_path)

    assert difference(answers(network), answers(back)) < 1e-4
    assert back.architecture.structure.resized
    assert back.architecture.structure.folded


def test_a_folded_network_that_is_pruned_comes_back(tmp_path: Path) -> None:
    one = pruned(folded(lively("resnet10t")))
    save_network(one, tmp_path)

    assert difference(answers(one), answers(load_network(tmp_path))) == 0


@pytest.mark.parametrize("backbone", ["repvgg_a0", "fastvit_t8"])
def test_a_merged_network_that_is_pruned_comes_back(backbone: str, tmp_path: Path) -> None:
    network = lively(backbone)
    merged = merged_copy(network)
    assert isinstance(merged, Network)
    merged.architecture = msgspec.structs.replace(network.architecture, structure=Structure(merged=True))
    one = pruned(merged)
    save_network(one, tmp_path)

    assert difference(answers(network), answers(merged)) < 1e-4
    assert difference(answers(one), answers(load_network(tmp_path))) == 0


def test_blocks_merge_by_the_channels_that_they_have_by_now() -> None:
    one = pruned(lively("mobileone_s0"))

    assert difference(answers(one), answers(as_graph(one))) < 1e-3


def test_blocks_that_were_not_pruned_keep_their_numbers() -> None:
    network = lively("fastvit_t8")
    before = [dict(vars(block)) for block in network.modules()]

    refresh_blocks(network)

    named = ("in_chs", "out_chs", "dim", "groups")
    assert [{k: v for k, v in own.items() if k in named} for own in before] == [
        {k: v for k, v in vars(block).items() if k in named} for block in network.modules()
    ]


def test_an_unchanged_network_has_no_resized_layers() -> None:
    assert resized_layers(lively("resnet10t"), lively("resnet10t")) == {}


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(("backbone.nothing", Layer(tensors={"weight": (4,)})), id="no such layer"),
        pytest.param(("backbone.conv1.0", Layer(tensors={"weight": (4,)})), id="other dimensions"),
        pytest.param(("backbone.conv1.0", Layer(tensors={"bias": (4,)})), id="a bias that nothing folds in"),
    ],
)
def test_a_structure_of_another_architecture_is_refused(layer: tuple[str, Layer]) -> None:
    path, shapes = layer

    with pytest.raises(FoveolaError, match="it belongs to another architecture"):
        Network(msgspec.structs.replace(plan("resnet10t"), structure=Structure(resized={path: shapes})))
