from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch_pruning
from torch import Tensor, nn

from foveola.runtime.errors import UsageError
from foveola.toolkit.compress.prune import groups as grouping
from foveola.toolkit.compress.prune.graph import Removals, example, form, remove, trace
from foveola.toolkit.compress.prune.groups import ASKED, GROUPED, LAST, Choice, find_groups, silence
from foveola.toolkit.compress.prune.importance import scores
from foveola.toolkit.compress.prune.shrink import shrink
from foveola.toolkit.compress.prune.widths import choose
from foveola.toolkit.models.dense_teacher import as_graph
from foveola.toolkit.models.network import Network, load_network, save_network

Make = Callable[..., Network]
FAMILIES = (
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("resnet10t", "efficientnet_lite0", "repvgg_a0", "fastvit_t8")
    ),
)


def half(network: Network, multiple: int = 4) -> tuple[Removals, Choice]:
    choice = find_groups(network, trace(network))
    return choose(choice.groups, scores(choice.groups, "magnitude"), 0.5, "isomorphic", multiple), choice


def answers(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        found: dict[str, Tensor] = network(x)
    return found


def close(own: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert own.keys() == other.keys()
    for name, x in own.items():
        assert x.shape == other[name].shape
        assert float((x - other[name]).abs().max()) <= 1e-4 * max(1.0, float(x.abs().max())), name


@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_pruned_student_answers_as_the_whole_one_with_those_channels_silent(make: Make, backbone: str) -> None:
    network = make("student", backbone)
    removals, _ = half(network)
    silent = copy.deepcopy(network)
    silence(silent, removals)

    pruned = shrink(network, removals)

    x = example(network)
    close(answers(pruned, x), answers(silent, x))
    count = [sum(one.numel() for one in each.parameters()) for each in (network, pruned)]
    assert count[1] < (0.75 if backbone == "fastvit_t8" else 0.5) * count[0]


@pytest.mark.parametrize("backbone", ["resnet10t", pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow)])
def test_a_pruned_teacher_answers_as_the_whole_one_with_those_channels_silent(make: Make, backbone: str) -> None:
    network = make("teacher", backbone)
    removals, choice = half(network)
    silent = copy.deepcopy(network)
    silence(silent, removals)

    pruned = shrink(network, removals)

    x = example(network)
    close(answers(form(pruned), x), answers(form(silent), x))
    parts = frozenset[str]().union(*(group.parts for group in choice.groups))
    for part in ("deeplab", "fpn", "rpn", "box_head"):
        assert any(part in path for path in parts), part
    assert pruned.answer(x).boxes.keys() == {"things"}


def test_what_gives_the_outputs_is_left_alone_and_found_from_the_outputs(make: Make) -> None:
    student, teacher = make("student", "resnet10t"), make("teacher", "resnet10t")

    found = [{path for path, why in half(one)[1].left.items() if why == LAST} for one in (student, teacher)]

    scalars = {f"heads.{name}.linear" for name in ("bright", "signs", "corner", "grade", "side")}
    masks = {"heads.square", "heads.halves"}
    boxes = {"heads.things.score_last", "heads.things.box_last"}
    assert found[0] == scalars | {f"{name}.last" for name in masks} | boxes
    rcnn = {"rpn.head.cls_logits", "rpn.head.bbox_pred", "roi.box_predictor.cls_score", "roi.box_predictor.bbox_pred"}
    assert found[1] == scalars | {f"{name}.deeplab.4" for name in masks} | {f"heads.things.{name}" for name in rcnn}


@pytest.mark.parametrize(
    "backbone",
    [
        "mobilenetv3_small_050",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("repvgg_a0", "mobileone_s0", "fastvit_t8")),
    ],
)
def test_a_pruned_network_comes_back_from_its_files_and_merges_its_branches(
    make: Make, backbone: str, tmp_path: Path
) -> None:
    network = make("student", backbone)
    pruned = shrink(network, half(network)[0])
    save_network(pruned, tmp_path)

    back = load_network(tmp_path)

    x = example(network)
    assert all(torch.equal(own, answers(back, x)[name]) for name, own in answers(pruned, x).items())
    close(answers(as_graph(back), x), answers(pruned, x))


def test_a_network_is_pruned_twice(make: Make, tmp_path: Path) -> None:
    network = make("student", "resnet10t")

    once = shrink(network, half(network)[0])
    twice = shrink(once, half(once)[0])
    save_network(twice, tmp_path)

    x = example(network)
    assert all(torch.equal(own, answers(load_network(tmp_path), x)[name]) for name, own in answers(twice, x).items())


def test_frozen_parameters_are_pruned_as_well_and_stay_frozen(make: Make) -> None:
    network = make("student", "resnet10t")
    open_ones = shrink(network, half(network)[0])
    network.backbone.requires_grad_(False)

    pruned = shrink(network, half(network)[0])

    assert {name: x.shape for name, x in pruned.state_dict().items()} == {
        name: x.shape for name, x in open_ones.state_dict().items()
    }
    assert not any(one.requires_grad for one in pruned.backbone.parameters())
    assert all(one.requires_grad for one in pruned.heads.parameters())
    assert not any(one.requires_grad for one in network.backbone.parameters())


def test_a_kept_module_keeps_its_shapes(make: Make) -> None:
    network = make("student", "resnet10t")

    choice = find_groups(network, trace(network), ["backbone.layer2"])

    assert all(not part.startswith("backbone.layer2.") for group in choice.groups for part in group.parts)
    assert ASKED in choice.left.values()
    assert choice.groups


def test_a_kept_module_that_is_not_there_is_refused_with_the_nearest(make: Make) -> None:
    network = make("student", "resnet10t")

    with pytest.raises(UsageError, match="no such layer; did you mean 'backbone.layer2'"):
        find_groups(network, trace(network), ["backbone.layr2"])


def test_channels_that_are_filtered_in_groups_are_left_alone(make: Make) -> None:
    assert GROUPED in half(make("student", "fastvit_t8"))[1].left.values()


def test_a_group_that_cannot_be_taken_apart_is_found_by_trying(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    network = make("student", "resnet10t")
    whole = find_groups(network, trace(network))
    stuck = whole.groups[3].root
    real = remove

    def refuse(one: Network, removals: Removals) -> None:
        if removals.get(stuck):
            raise RuntimeError("shape of a reshape is fixed")
        real(one, removals)

    monkeypatch.setattr(grouping, "remove", refuse)

    choice = find_groups(network, trace(network))

    assert choice.left[stuck] == grouping.BROKEN
    assert [one.root for one in choice.groups] == [one.root for one in whole.groups if one.root != stuck]


def test_one_pruning_leaves_nothing_behind_for_the_next(make: Make) -> None:
    network = make("student", "mobilenetv3_small_050")

    first, second = half(network)[0], half(network)[0]

    assert first == second


def test_uniform_choices_are_those_of_torch_pruning(make: Make) -> None:
    network = make("student", "resnet10t")
    choice = find_groups(network, trace(network))
    marks = scores(choice.groups, "magnitude")
    own = choose(choice.groups, marks, 0.5, "uniform", 1)
    theirs = copy.deepcopy(network)
    last: list[nn.Module] = [module for path, module in theirs.named_modules() if choice.left.get(path) == LAST]
    pruner = torch_pruning.pruner.BasePruner(
        theirs,
        example(network),
        importance=torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=last,
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
        output_transform=lambda found: list(found.values()),
    )
    pruner.step()

    pruned = shrink(network, own)

    wanted = theirs.state_dict()
    assert all(torch.equal(x, wanted[name]) for name, x in pruned.state_dict().items())
