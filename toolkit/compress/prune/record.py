"""What a pruning did: `pruned.json` beside the network, read and written here.

`read_pruned(folder)` gives back what `write_pruned(record, folder)` wrote. The widths themselves stand in the network's
`Architecture.structure`; this file says how they came about and what they brought.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from ....runtime.errors import FoveolaError
from ....runtime.manifest import Arithmetic, EngineName
from ...json_files import write_json
from ...models.network import Architecture
from ...stage import as_json

PRUNED = "pruned.json"

Goal = Literal["speedup", "latency_ms", "ratio"]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What pruning is to reach: times faster, milliseconds an image, or share of the channels that go."""

    goal: Goal
    value: float

    def __str__(self) -> str:
        if self.goal == "speedup":
            return f"{self.value:g} times faster"
        return f"{self.value:g} ms" if self.goal == "latency_ms" else f"{self.value:.0%} of the channels"


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long the exported graph takes before and after pruning.

    Args:
        before_ms: of the network that pruning began with.
        after_ms: of the pruned one, timed in turn with it.
        source: both are `measured` here, or `predicted` by the device's roofline.
        engine: that runs them.
        arithmetic: of their layers.
        machine: the processor that was timed, or the device that was predicted.
    """

    before_ms: float
    after_ms: float
    source: Literal["measured", "predicted"]
    engine: EngineName
    arithmetic: Arithmetic
    machine: str

    @property
    def speedup(self) -> float:
        """Times faster."""
        return self.before_ms / self.after_ms


class PrunedLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A convolution or linear layer of the network, before and after; multiply-adds are those of one image."""

    path: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    parameters: tuple[int, int]
    macs: tuple[int, int]


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One round: channels go, statistics are estimated anew, the network recovers.

    Args:
        ratio: share of the channels asked for in this round, of those that were left.
        speedup: after it, against the unpruned network; None where nothing is timed.
        pruned: validation score of each task before the recovery.
        recovered: and after it.
    """

    ratio: float
    speedup: float | None
    pruned: dict[str, float] = {}
    recovered: dict[str, float] = {}


class Pruned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole account.

    Args:
        target: what was asked for.
        reading: what the exported graph takes.
        importance: by which channels were ranked.
        scope: within which.
        multiple: of which widths are.
        rounds: in order.
        unpruned: validation score of each task before anything was taken.
        channels: outputs of all convolutions and linear layers, before and after.
        parameters: of the whole network.
        macs: of its convolutions and linear layers.
        layers: those whose shape changed.
        left_alone: layer -> why its outputs stayed.
    """

    target: Target
    reading: Reading | None
    importance: str
    scope: str
    multiple: int
    rounds: tuple[Round, ...]
    unpruned: dict[str, float]
    channels: tuple[int, int]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    layers: tuple[PrunedLayer, ...]
    left_alone: dict[str, str]


def write_pruned(record: Pruned, folder: Path) -> None:
    """Write `pruned.json`."""
    write_json(folder / PRUNED, as_json(record))


def read_pruned(folder: Path) -> Pruned | None:
    """Read `pruned.json`; None where the network was not pruned, or its record was left behind.

    Raises:
        FoveolaError: it is not such a record.
    """
    path = folder / PRUNED
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pruned)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FoveolaError(str(path), f"not a record of pruning: {error}", "run the prune step again") from None


def describe(record: Pruned) -> str:
    """Say in one line what was taken and what it brought."""
    (full, left), (old, new) = record.channels, record.parameters
    rounds = "" if len(record.rounds) == 1 else f" in {len(record.rounds)} rounds"
    found = f"{1 - left / full:.0%} of the channels and {1 - new / old:.0%} of the parameters"
    found += f", by {record.importance} ({record.scope}){rounds}"
    if record.reading is None:
        return found
    one = record.reading
    return (
        f"{found}; {one.speedup:.2f} times faster ({one.before_ms:.3g} to {one.after_ms:.3g} ms, "
        f"{one.engine} {one.arithmetic}, {one.source})"
    )


def pruning_of(folder: Path, architecture: Architecture) -> str:
    """What pruning took from the network of a step, in words for the bundle's provenance; `none` for nothing."""
    record = read_pruned(folder)
    if record is not None:
        return describe(record)
    resized = architecture.structure.resized
    return f"{len(resized)} layers have other channels than {architecture.backbone}" if resized else "none"
