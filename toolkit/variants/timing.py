"""The time of each form: measured where the device is at hand, else predicted by its profile's roofline.

Forms are timed in turn, one after the other in every round, so that a machine that slows down slows all of them; a
pause lets the threads of the one before fall asleep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...devices.profile import Profile
from ...devices.roofline import LayerWork, predict
from ...runtime.engine import Session
from ...runtime.measure import latency_of, time_ms
from .candidates import Candidate

ROUNDS = 15
# Between two forms: ONNX Runtime's threads wait busily after an answer; with 0.02 s they slowed the next form twofold.
PAUSE_S = 0.05
CALLS = 12  # in a form's turn at most; the first is not counted
TURN_S = 0.15  # a slow form's turn ends after it, with two calls at least


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long one answer takes, and how that is known."""

    ms: float | None = None  # median, or the prediction; None: neither was possible
    p95_ms: float | None = None
    source: Literal["measured", "predicted", "unknown"] = "unknown"


def measure(
    sessions: Mapping[str, Session],
    tensor: NDArray[np.float32],
    *,
    rounds: int = ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Time opened forms on one prepared input (1, C, H, W), by name."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        session.run(tensor)
    for number in range(rounds):
        for name, session in sessions.items():
            time.sleep(PAUSE_S)
            times[name] += _turn(lambda: session.run(tensor))  # noqa: B023 - called at once
        if progress is not None:
            progress(number + 1, rounds)
    summed = {name: latency_of(found) for name, found in times.items()}
    return {name: Timing(ms=one.median_ms, p95_ms=one.p95_ms, source="measured") for name, one in summed.items()}


def _turn(call: Callable[[], object]) -> list[float]:
    """Milliseconds of one turn's calls, without the first, which brings the weights back into the caches."""
    begin, found = time.perf_counter(), [time_ms(call)]
    while len(found) < CALLS and (len(found) < 2 or time.perf_counter() - begin < TURN_S):
        found.append(time_ms(call))
    return found[1:]


def foresee(candidate: Candidate, layers: Sequence[LayerWork], device: Profile) -> Timing:
    """Predict a form's time on its device."""
    found = predict(layers, device, target=candidate.target)
    return Timing(ms=found.ms, source="predicted") if found else Timing()
