from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveola.toolkit.parity.evidence import Endpoint, Verdict
from foveola.toolkit.parity.verdict import judge, needed_cases, overall


@pytest.mark.parametrize(
    ("name", "difference", "low", "high", "extra", "wanted"),
    [
        ("bound above minus the margin", 0.0, -0.009, 0.009, {}, "pass"),
        ("bound at minus the margin", 0.0, -0.01, 0.01, {}, "underpowered"),
        ("worse, but less than the margin", -0.005, -0.008, -0.002, {}, "pass"),
        ("worse by the margin", -0.01, -0.015, -0.005, {}, "fail"),
        ("worse than the margin, yet zero not excluded", -0.02, -0.05, 0.01, {}, "underpowered"),
        ("constant difference beyond the margin", -0.02, -0.02, -0.02, {}, "fail"),
        ("no interval", 0.0, None, None, {}, "underpowered"),
        ("no difference", None, None, None, {}, "underpowered"),
        ("hindered, whatever the interval", 0.0, 0.0, 0.0, {"hindrance": "too few"}, "underpowered"),
        ("hindered, though worse", -0.5, -0.6, -0.4, {"hindrance": "too few"}, "underpowered"),
        ("teacher at chance", 0.0, 0.0, 0.0, {"assay": "chance"}, "underpowered"),
        ("teacher at chance and the student worse still", -0.5, -0.6, -0.4, {"assay": "chance"}, "fail"),
    ],
)
def test_the_verdict(
    name: str, difference: float | None, low: float | None, high: float | None, extra: dict[str, str], wanted: str
) -> None:
    verdict, reason = judge(difference, low, high, 0.01, **extra)

    assert verdict == wanted, name
    assert reason


def row(verdict: Verdict, *, primary: bool = True) -> Endpoint:
    return Endpoint(
        engine="e",
        task="t",
        metric="auc",
        primary=primary,
        cases=1,
        patients=1,
        margin=0.1,
        verdict=verdict,
        method="",
        reason="",
    )


def test_the_whole_proof_is_as_good_as_its_worst_primary_endpoint() -> None:
    assert overall([row("pass"), row("underpowered"), row("fail")]) == "fail"
    assert overall([row("pass"), row("underpowered")]) == "underpowered"
    assert overall([row("pass"), row("fail", primary=False)]) == "pass"
    assert overall([]) == "underpowered"


@given(st.integers(10, 5000), st.floats(0.001, 0.2), st.floats(0.005, 0.1))
@settings(deadline=None)
def test_the_needed_cases_give_eighty_percent_power(cases: int, reach: float, margin: float) -> None:
    needed = needed_cases(cases, reach, margin, 0.025)

    assert needed is not None
    # reach = 1.96 se at `cases`; at `needed` the standard error must be margin / (1.96 + 0.84).
    se = reach / 1.959964 * np.sqrt(cases / needed)
    assert se <= margin / (1.959964 + 0.841621) * (1 + 1e-6)


def test_a_width_of_zero_needs_no_number() -> None:
    assert needed_cases(100, 0.0, 0.01, 0.025) is None
