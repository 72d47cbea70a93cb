from __future__ import annotations

import msgspec
import pytest
from small import PLAN

from foveola.toolkit.schedule import cyclic_rate, warmed_rate


def test_the_cyclic_rate_is_the_worked_example_of_equation_4() -> None:
    rates = [cyclic_rate(0.001, 0.01, t, 8) for t in range(9)]

    wanted = [0.01, 0.008682, 0.0055, 0.002318, 0.001, 0.002318, 0.0055, 0.008682, 0.01]
    assert rates == pytest.approx(wanted, abs=5e-7)
    assert rates == pytest.approx(rates[::-1])


def test_the_rate_rises_then_falls_along_a_cosine_to_zero() -> None:
    plan = msgspec.structs.replace(PLAN, learning_rate=1.0, warmup=0.1)
    rates = [warmed_rate(plan, step, 100) for step in range(100)]

    assert rates[9] == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5, abs=0.02)
    assert rates[-1] < 1e-3


def test_a_constant_rate_stays_after_its_warm_up() -> None:
    plan = msgspec.structs.replace(PLAN, learning_rate=1.0, warmup=0.1, schedule="constant")

    assert {warmed_rate(plan, step, 100) for step in range(10, 100)} == {1.0}
