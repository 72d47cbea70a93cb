"""The threshold at and above which an answer is yes: locked on validation data, fitted again for comparison."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import UsageError


def lock_threshold(rule: str, positive: NDArray[np.bool_], probability: NDArray[np.float64]) -> float:
    """The probability at and above which the answer is yes, by a rule, on validation data.

    Args:
        rule: `youden` (largest sensitivity + specificity), `fixed:P`, `sensitivity:S` (highest threshold that reaches
            S) or `specificity:S` (lowest that reaches S).
        positive: reference standard.
        probability: answers; of the same length.

    Returns:
        A threshold halfway between two neighbouring answers, so that rounding does not move a case across it. With one
        class only, 0.5. Just above 1, where nothing may be positive, only if no lower one reaches the rate.
    """
    name, _, value = rule.partition(":")
    if name == "fixed":
        return _share(rule, value)
    if name not in ("youden", "sensitivity", "specificity"):
        raise UsageError(
            f"operating point {rule!r}", "unknown rule", "use youden, fixed:P, sensitivity:S or specificity:S"
        )
    if positive.all() or not positive.any():
        return 0.5
    levels = np.unique(probability)
    yes, no = np.sort(probability[positive]), np.sort(probability[~positive])
    # A negative whose answer is 1 to the last bit is only told from the rest by a threshold just above 1.
    highest = max((float(levels[-1]) + 1) / 2, float(np.nextafter(float(levels[-1]), np.inf)))
    cuts = np.concatenate(([levels[0] / 2], (levels[1:] + levels[:-1]) / 2, [highest]))
    # Shares of whole numbers, so that a rate that is reached exactly is not missed by a rounding.
    sensitivity = (len(yes) - np.searchsorted(yes, cuts)) / len(yes)
    specificity = np.searchsorted(no, cuts) / len(no)
    if name == "youden":
        best = np.flatnonzero(np.isclose(sensitivity + specificity, (sensitivity + specificity).max()))
        return float(cuts[best[len(best) // 2]])
    wanted = _share(rule, value)
    if name == "sensitivity":
        return float(cuts[np.flatnonzero(sensitivity >= wanted)[-1]])
    return float(cuts[np.flatnonzero(specificity >= wanted)[0]])


def _share(rule: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"operating point {rule!r}", "the number after ':' is not between 0 and 1")
    return share
