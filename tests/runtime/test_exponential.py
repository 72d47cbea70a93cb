"""Exponentials of 64 bits: near the true value, and the same bits wherever they are computed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from foveola.runtime.exponential import exp64, sigmoid64

X = np.arange(-1_200_000, 1_130_000) / 1600.0  # exact: from -750 to 706


def test_it_is_within_one_unit_in_the_last_place_of_the_true_value() -> None:
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.prec = 100
    some = np.concatenate([X[400_000::4001], np.random.default_rng(1).normal(0, 3, 500)])
    some = some[some > -700]

    off = [abs(mpmath.exp(float(x)) - float(y)) / float(np.spacing(y)) for x, y in zip(some, exp64(some), strict=True)]

    assert max(off) < 1


def test_it_is_numpys_but_for_the_last_bit() -> None:
    ours, theirs = exp64(X), np.exp(X)

    assert np.abs(ours - theirs).max(initial=0, where=theirs < 1e-300) < 1e-315
    assert (np.abs(ours - theirs) <= np.spacing(theirs))[theirs >= 1e-300].all()


def test_its_ends_are_zero_and_infinity_and_one_is_exact() -> None:
    x = np.array([0.0, -0.0, -745.14, -1e308, 709.79, 1e308])

    assert exp64(x).tolist() == [1, 1, 0, 0, np.inf, np.inf]
    assert sigmoid64(np.array([0.0, -1e308, 1e308])).tolist() == [0.5, 0, 1]


def test_its_bits_are_those_of_every_other_machine() -> None:
    """What IEEE 754 settles to the last bit is the same under any numpy, compiler and processor."""
    digest = hashlib.sha256(exp64(X).astype("<f8").tobytes()).hexdigest()

    assert digest == "4dcb1526f4ce532c9b6abff15047b8b42da21082f4d5a60aa37389be8f39d46e"
