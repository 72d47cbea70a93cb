"""What became of one trial, as it is kept in the search's storage and written to `trials.jsonl`."""

from __future__ import annotations

from typing import Literal

import msgspec

from .section import Scalar

# done: trained and measured. over: not trained, over a budget. stopped: hopeless in training. refused: some step or the
# device said no. repeated: the same values as an earlier one. running, failed: it is, or was when its process died.
State = Literal["running", "done", "over", "stopped", "refused", "repeated", "failed"]
Source = Literal["measured", "predicted", "unknown"]
ATTRIBUTE = "row"  # of an Optuna trial


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate costs.

    Args:
        latency_ms: one answer of the network alone, batch 1, in the device's first engine; None: not known.
        size_mb: of its graph's files.
        form: engine and arithmetic.
        source: whether the time was measured on this machine, or predicted for the device.
        trained: whether it is that of the trained artefact.
    """

    latency_ms: float | None
    size_mb: float
    form: str = ""
    source: Source = "unknown"
    trained: bool = True


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One trial.

    Args:
        number: from 0, as Optuna counts.
        state: what became of it.
        values: by key of the space; knobs of steps that it does not need are absent.
        cost: what it costs; None before anything was measured.
        slacks: by task: 1 as good as the teacher, 0 the whole margin lost, on the validation images.
        curves: by step: the worst task's slack after each epoch of its training.
        reason: why it was not trained to its end.
        seconds: it took.
        worker: host and slot that ran it.
        again: number of the trial that a killed process left and that this one does again.
        seen: seconds since 1970 of its last sign.
    """

    number: int
    state: State = "running"
    values: dict[str, Scalar] = {}
    cost: Cost | None = None
    slacks: dict[str, float] = {}
    curves: dict[str, list[float]] = {}
    reason: str = ""
    seconds: float = 0.0
    worker: str = ""
    again: int | None = None
    seen: float = 0.0

    @property
    def slack(self) -> float | None:
        """Of the worst task; None where it was not judged."""
        return min(self.slacks.values(), default=None)

    @property
    def worst_task(self) -> str:
        """The task with the least slack."""
        return min(self.slacks, key=lambda name: self.slacks[name], default="")
