"""The verdict on one endpoint and on the whole proof.

`difference` is student minus teacher, positive when the student is better; (`low`, `high`) is its two-sided 1 - 2 alpha
interval. In this order:

1. Something hinders the claim whatever the interval says (no case, one class only, too few patients) -> underpowered.
2. `high < 0` and `difference <= -margin`: the student is worse, and by as much as the margin -> fail.
3. The teacher itself is not shown to be better than chance (no assay sensitivity, ICH E10) -> underpowered: not being
   worse than chance proves nothing.
4. `low > -margin` -> pass. Otherwise -> underpowered.

The whole proof fails if a primary endpoint fails, is underpowered if one is or if there is none, and passes otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, isfinite

from scipy.stats import norm

from .evidence import Endpoint, Verdict


def judge(
    difference: float | None, low: float | None, high: float | None, margin: float, hindrance: str = "", assay: str = ""
) -> tuple[Verdict, str]:
    """Give the verdict and the one sentence that says why.

    Args:
        difference: student minus teacher, positive is better; None where it does not exist.
        low: lower end of the interval; None where no width can be estimated.
        high: upper end.
        margin: positive.
        hindrance: why no claim can be made, whatever the interval says; empty if nothing hinders.
        assay: why the teacher is not shown to be better than chance; empty if it is.
    """
    if hindrance:
        return "underpowered", hindrance
    if difference is None or low is None or high is None:
        return "underpowered", "the interval cannot be estimated from these cases"
    if high < 0 and difference <= -margin:
        return "fail", f"the student is worse by {-difference:.4g}, the margin is {margin:.4g}"
    if assay:
        return "underpowered", assay
    if low > -margin:
        worse = " (yet worse than the teacher: the interval lies below zero)" if high < 0 else ""
        return "pass", f"the bound {low:.4g} lies above minus the margin, {-margin:.4g}{worse}"
    if difference <= -margin:
        return "underpowered", f"the difference {difference:.4g} reaches the margin, but zero is not excluded"
    return "underpowered", f"the bound {low:.4g} does not lie above minus the margin, {-margin:.4g}"


def overall(endpoints: Iterable[Endpoint]) -> Verdict:
    """Give the verdict of the whole proof."""
    verdicts = [endpoint.verdict for endpoint in endpoints if endpoint.primary]
    if "fail" in verdicts:
        return "fail"
    return "underpowered" if "underpowered" in verdicts or not verdicts else "pass"


def needed_cases(cases: int, reach: float, margin: float, alpha: float, power: float = 0.8) -> int | None:
    """Give the number of cases like these for the planned power when the true difference is zero.

    Args:
        cases: cases at hand.
        reach: how far the lower bound lies below the difference (z_alpha standard errors); shrinks with the root of
            the number of cases.
        margin: positive.
        alpha: one-sided error.
        power: planned.
    """
    if not (isfinite(reach) and reach > 0 and cases > 0):
        return None
    grow = reach * (1.0 + float(norm.ppf(power)) / float(norm.ppf(1.0 - alpha))) / margin
    return ceil(cases * grow**2)
