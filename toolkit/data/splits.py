"""Which split a patient belongs to: always whole patients, decided by a hash and never by the order of rows.

`by_hash` looks at one patient alone, so a patient keeps its split when others are added to the data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

SPLITS = ("train", "val", "calibration", "test")
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}  # where the manifest has no split column


def patient_hash(patient: str, *, seed: int, purpose: str) -> float:
    """Make a number in 0..1 that depends on the seed, the purpose and the patient only."""
    digest = hashlib.sha256(f"{seed}\n{purpose}\n{patient}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2.0**64


def by_hash(patient: str, *, seed: int, shares: dict[str, float] = SHARES) -> str:
    """Choose the split of one patient, with the given shares on average over many patients."""
    where, end = patient_hash(patient, seed=seed, purpose="split"), 0.0
    for split, share in shares.items():
        end += share
        if where < end:
            return split
    return next(reversed(shares))


def set_apart(patients: Iterable[str], share: float, *, seed: int) -> frozenset[str]:
    """Choose that share of the patients (at least one, never all), the ones with the smallest hashes."""
    ordered = sorted(set(patients), key=lambda patient: patient_hash(patient, seed=seed, purpose="calibration"))
    count = min(max(round(share * len(ordered)), 1), len(ordered) - 1)
    return frozenset(ordered[: max(count, 0)])
