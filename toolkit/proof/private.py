"""Cases and patients without their names: what leaves the house tells nobody's.

- A case becomes `case-0017-5f3a9c1e`: the line of the manifest, and a keyed hash of its key. Who holds the manifest
  finds the case by the line; nobody else does.
- A patient becomes `patient-0003-9d20b7aa`: a number by first appearance, and the same kind of hash.
- The hash's key is itself a hash of the whole manifest and of all image files, and is written nowhere. Who does not
  hold both cannot try out names against it; who does gets the same hashes each time.
- A subgroup whose value fewer than five patients share keeps its cases and loses its name: a rare value may be a name.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from ..data.dataset import Dataset
from ..parity.bands import groups_of
from ..parity.cases import Cases
from ..parity.evidence import Evidence

FEWEST = 5  # patients that share a value which may be shown
RARE = "(values of fewer than 5 patients)"
DIGITS = 8


def private_key(manifest: Path, dataset: Dataset) -> bytes:
    """Make the key of the hashes from what only the holder of the data has: the manifest and the images."""
    return _key(manifest.read_bytes(), dataset)


def shared_key(dataset: Dataset) -> bytes:
    """Make the key where there is no manifest alone: from all names and images of a data set."""
    return _key("\n".join(f"{sample.key} {sample.patient}" for sample in dataset.samples).encode(), dataset)


def _key(text: bytes, dataset: Dataset) -> bytes:
    key = hashlib.sha256(b"foveola private names\n" + text)
    for sample in dataset.samples:
        key.update(bytes.fromhex(sample.sha256))
    return key.digest()


def hide_names(cases: Cases, dataset: Dataset, key: bytes) -> Cases:
    """Give the same cases without keys, patients and rare attribute values.

    Args:
        cases: of the data set, in its order.
        dataset: the same cases, with their lines.
        key: of the hashes.
    """
    lines = [sample.row for sample in dataset.samples]
    numbers = {patient: n for n, patient in enumerate(dict.fromkeys(cases.patients), 1)}
    return msgspec.structs.replace(
        cases,
        keys=_named("case", cases.keys, lines, key),
        patients=_named("patient", cases.patients, [numbers[patient] for patient in cases.patients], key),
        attributes={name: without_rare(name, values, cases.patients) for name, values in cases.attributes.items()},
    )


def without_names(evidence: Evidence, cases: Cases, hidden: Cases) -> Evidence:
    """Give evidence that was made with names as it would be without them.

    Args:
        evidence: its flips name cases and patients as `cases` does, its subgroups values.
        cases: with names.
        hidden: the same, as `hide_names` gave them.
    """
    keys = dict(zip(cases.keys, hidden.keys, strict=True))
    patients = dict(zip(cases.patients, hidden.patients, strict=True))
    rare = {
        (name, value)
        for name, values in cases.attributes.items()
        for value, shown in zip(values, hidden.attributes[name], strict=True)
        if shown == RARE
    }
    return msgspec.structs.replace(
        evidence,
        flips=tuple(
            msgspec.structs.replace(flip, case=keys[flip.case], patient=patients[flip.patient])
            for flip in evidence.flips
        ),
        subgroups=tuple(
            msgspec.structs.replace(group, value=RARE) if (group.attribute, group.value) in rare else group
            for group in evidence.subgroups
        ),
    )


def without_rare(name: str, values: Sequence[str], patients: Sequence[str]) -> tuple[str, ...]:
    """Take the name of each value that fewer than five patients share; bands of numbers name nobody and stay."""
    column, owners = np.asarray(values, dtype=object), np.asarray(patients, dtype=str)
    for value, members in groups_of(name, values):
        if value in values and len(np.unique(owners[members])) < FEWEST:
            column[members] = RARE
    return tuple(str(value) for value in column)


def _named(what: str, names: Sequence[str], numbers: Sequence[int], key: bytes) -> tuple[str, ...]:
    width = max(4, len(str(max(numbers, default=0))))
    return tuple(
        f"{what}-{number:0{width}d}-{hmac.new(key, f'{what} {name}'.encode(), hashlib.sha256).hexdigest()[:DIGITS]}"
        for name, number in zip(names, numbers, strict=True)
    )
