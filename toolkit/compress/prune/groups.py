"""Which groups of channels may be thinned, and which are left alone and why.

Left alone are, without any name being known here:

- the layers that give the outputs, found by walking back from them;
- what the user names;
- convolutions whose channels are filtered in groups of several;
- what the network could not answer without: all groups are tried together, and where that fails they are halved until
  those that fail are alone.

A trial is passed when the network without some channels answers as the whole one whose channels are silent.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from ....runtime.errors import UsageError
from ...data.faults import did_you_mean
from ...models.network import Network
from .graph import Removals, Traced, example, form, is_depthwise, remove, trace

LAST = "gives an output"
ASKED = "asked for"
GROUPED = "its channels are filtered in groups"
BROKEN = "the network cannot answer without its channels"
CLOSE = 1e-3  # of the answers' largest magnitude: sums in another order differ by less


class Group(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Channels that go together.

    Args:
        root: path of the first layer that gives them.
        width: how many there are.
        parts: paths of all layers that give or take them.
        kind: groups of one kind have layers of the same types in the same roles (isomorphic, Fang et al., ECCV 2024).
        items: torch-pruning's own group, for scoring.
    """

    root: str
    width: int
    parts: frozenset[str]
    kind: str
    items: Any


class Choice(msgspec.Struct, frozen=True, eq=False):
    """What may be thinned, and path -> reason of what is left alone."""

    groups: tuple[Group, ...]
    left: dict[str, str]


def find_groups(network: Network, traced: Traced, keep: Collection[str] = ()) -> Choice:
    """Sort a network's groups into those that may be thinned and those that are left alone.

    Args:
        network: as it was traced.
        traced: its graph.
        keep: paths of modules whose layers keep their shapes.

    Raises:
        UsageError: no such module.
    """
    kept = _kept_layers(network, keep)
    free: list[Group] = []
    left = dict.fromkeys(sorted(traced.last), LAST)
    for items in traced.groups():
        group = _group(items, traced)
        reason = _reason(items, group, kept)
        if reason:
            left[group.root] = reason
        elif group.width > 1:
            free.append(group)
    broken = _broken(network, free)
    left |= dict.fromkeys(sorted(broken), BROKEN)
    return Choice(tuple(group for group in free if group.root not in broken), left)


def _kept_layers(network: Network, keep: Collection[str]) -> frozenset[str]:
    modules = dict(network.named_modules())
    for path in keep:
        if path not in modules or not path:
            near = did_you_mean(path, [name for name in modules if name])
            raise UsageError(f"keep: {path!r}", "the network has no such layer", near)
    return frozenset(name for name in modules if any(name == path or name.startswith(f"{path}.") for path in keep))


def _group(items: Any, traced: Traced) -> Group:
    layers = [(dep.target.module, traced.widens(dep.handler)) for dep, _ in items]
    kind = " ".join(f"{type(layer).__name__}{'>' if out else '<'}" for layer, out in layers)
    first = items[0].dep.target.module
    return Group(
        root=traced.paths[first],
        width=len(items[0].idxs),
        parts=frozenset(traced.paths[layer] for layer, _ in layers if layer in traced.paths),
        kind=kind,
        items=items,
    )


def _reason(items: Any, group: Group, kept: frozenset[str]) -> str:
    if group.parts & kept:
        return ASKED
    if any(_grouped(dep.target.module) for dep, _ in items):
        return GROUPED
    return ""


def _grouped(layer: Any) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and not is_depthwise(layer)


# --- trying it out ---


def _broken(network: Network, groups: Sequence[Group]) -> set[str]:
    """Roots of the groups that cannot be thinned; all are tried together, and halved where that fails."""
    halves = {group.root: list(range(0, group.width, 2)) for group in groups}
    broken = _failing(network, halves)
    rest = {root: channels for root, channels in halves.items() if root not in broken}
    if broken and rest and not _sound(network, rest):
        raise RuntimeError("groups that can be thinned by themselves cannot be thinned together")
    return broken


def _failing(network: Network, removals: dict[str, list[int]]) -> set[str]:
    if not removals or _sound(network, removals):
        return set()
    if len(removals) == 1:
        return set(removals)
    roots = list(removals)
    parts = roots[: len(roots) // 2], roots[len(roots) // 2 :]
    return set[str]().union(*(_failing(network, {root: removals[root] for root in part}) for part in parts))


def _sound(network: Network, removals: Removals) -> bool:
    """Whether the network without these channels answers as the whole one with these channels silent."""
    thinned, muted = copy.deepcopy(network), copy.deepcopy(network)
    silence(muted, removals)
    try:
        remove(thinned, removals)
        own = _answer(thinned)
    except (RuntimeError, IndexError, ValueError):  # torch's words for shapes that do not fit
        return False
    wanted = _answer(muted)
    return all(
        own[name].shape == x.shape and float((own[name] - x).abs().max()) <= CLOSE * max(1.0, float(x.abs().max()))
        for name, x in wanted.items()
    )


def silence(network: Network, removals: Removals) -> None:
    """Set channels to zero instead of taking them away, in place."""
    traced = trace(network)
    with torch.no_grad():
        for root, channels in removals.items():
            for dep, places in traced.group(root, channels) if channels else ():
                if traced.widens(dep.handler):
                    _mute(dep.target.module, places)


def _mute(layer: Any, places: Sequence[int]) -> None:
    if isinstance(layer, nn.Parameter):  # a scale a channel, whose one long axis may stand anywhere
        axis = max(range(layer.dim()), key=lambda number: layer.shape[number])
        layer.index_fill_(axis, torch.tensor(list(places)), 0.0)
        return
    for tensor in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
        if isinstance(tensor, Tensor):
            tensor[list(places)] = 0.0


def _answer(network: Network) -> dict[str, Tensor]:
    with torch.no_grad():
        found: dict[str, Tensor] = form(network.eval())(example(network))
    return found
