"""No name of a patient, no UID and no pixel leaves: every output is searched for strings that would tell."""

from __future__ import annotations

import base64
import csv
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from foveola.toolkit import cli
from foveola.toolkit.data.dataset import read_dataset
from foveola.toolkit.parity.cases import Cases
from foveola.toolkit.proof.private import RARE, hide_names, private_key, without_rare
from foveola.toolkit.protocol.file import read_lock

TELLING = ("telltale", "1.2.840.113619")
PROVE = "parity tiny.foveola --data cases --teacher answers.npz --protocol protocol.lock.json"


@pytest.fixture
def named(place: Path) -> Path:
    """The cases under names, UIDs and identifiers, as a hospital exports them; one subgroup value is a name, too."""
    manifest = place / "cases/manifest.csv"
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for n, row in enumerate(rows):
        image, mask = f"1.2.840.113619.2.55.{n}.png", f"Telltale-mask-{n}.png"
        (place / "cases" / row["file"]).rename(place / "cases" / image)
        (place / "cases" / row["lungs"]).rename(place / "cases" / mask)
        who = int(row["patient_id"][1:])
        row |= {
            "file": image,
            "lungs": mask,
            "patient_id": f"TELLTALE^JANE^{who}",
            "mrn": f"telltale-{n}",
            "reader": "Dr. Telltale" if who == 3 else ("north", "south")[who % 2],
        }
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lock = read_lock(place / "protocol.lock.json")
    data = msgspec.structs.replace(lock.protocol.data, digest="", subgroups=("reader", "sex"))
    protocol = msgspec.structs.replace(lock.protocol, data=data)
    changed = msgspec.structs.replace(lock, protocol=protocol, digest=protocol.digest)
    (place / "protocol.lock.json").write_bytes(msgspec.json.encode(changed))
    return place


def everything_written(folder: Path, *more: str) -> bytes:
    """All bytes of all outputs, what is base64 in them also decoded."""
    whole = b"\n".join([*(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())])
    whole += "\n".join([*more, *(path.name for path in folder.rglob("*"))]).encode()
    runs = re.findall(rb"[A-Za-z0-9+/=]{24,}", whole)
    return whole + b"\n".join(base64.b64decode(run[: len(run) // 4 * 4]) for run in runs)


def told(whole: bytes) -> list[str]:
    return [word for word in TELLING if word.encode() in whole.lower()]


def test_no_name_and_no_pixel_is_in_any_output(named: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*PROVE.split(), "--out", "out", "--pictures", "8"]) in (0, 6)

    out, err = capfd.readouterr()
    whole = everything_written(named / "out", out, err)
    assert told(whole) == []
    assert b"data:image" not in whole
    assert b"\x89PNG" not in whole
    assert b"\xff\xd8\xff" not in whole
    assert str(named).encode() not in whole


def test_the_search_would_find_them(named: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main([*PROVE.split(), "--out", "out", "--names", "--pictures", "8"])

    out, err = capfd.readouterr()
    whole = everything_written(named / "out", out, err)
    assert told(whole) == list(TELLING)
    assert b"\x89PNG" in whole


def test_stored_answers_hold_no_name(named: Path) -> None:
    assert told((named / "answers.npz").read_bytes()) == []


def test_who_holds_the_manifest_finds_the_case_by_its_line(named: Path) -> None:
    cli.main([*PROVE.split(), "--out", "out"])
    cli.main([*PROVE.split(), "--out", "named", "--names"])

    hidden, plain = ((named / folder / "flips.csv").read_text().splitlines() for folder in ("out", "named"))
    lines = (named / "cases/manifest.csv").read_text().splitlines()
    with (named / "out/flips.csv").open(newline="") as stream:
        numbers = {int(row["case"].split("-")[1]) for row in csv.DictReader(stream)}
    with (named / "named/flips.csv").open(newline="") as stream:
        keys = {row["case"] for row in csv.DictReader(stream)}
    assert len(hidden) == len(plain)
    assert {lines[number - 1].split(",")[0] for number in numbers} == keys


def test_hashes_are_the_same_for_who_holds_the_data_and_others_for_anybody_else(place: Path) -> None:
    manifest = place / "cases/manifest.csv"
    dataset = read_dataset(place / "cases", ())
    cases = Cases(
        keys=tuple(one.key for one in dataset.samples), patients=tuple(one.patient for one in dataset.samples)
    )

    first, again = (hide_names(cases, dataset, private_key(manifest, dataset)) for _ in range(2))
    less = hide_names(cases, dataset, private_key(manifest, dataset.take(range(59))))

    assert first == again
    assert not set(first.keys) & set(less.keys)
    assert len(set(first.keys)) == 60
    assert len(set(first.patients)) == 30
    for patient in set(cases.patients):
        shown = {b for a, b in zip(cases.patients, first.patients, strict=True) if a == patient}
        assert len(shown) == 1


def test_a_value_that_few_patients_share_loses_its_name_and_bands_stay() -> None:
    patients = tuple(f"p{n}" for n in range(20))
    sites = ("north",) * 9 + ("south",) * 9 + ("Dr. Telltale", "")
    ages = (*(str(20 + n) for n in range(19)), "97")

    assert without_rare("site", sites, patients) == ("north",) * 9 + ("south",) * 9 + (RARE, "")
    assert without_rare("age", ages, patients) == ages  # shown as bands only


def test_five_images_of_one_patient_are_one_patient() -> None:
    assert without_rare("site", ("a",) * 5 + ("b",) * 5, ("p",) * 5 + tuple("qrstu")) == (RARE,) * 5 + ("b",) * 5


def test_the_lines_of_the_cases_are_no_order_of_the_answers(place: Path) -> None:
    from foveola.toolkit.proof.stored_answers import read_answers

    stored = read_answers(place / "answers.npz")
    dataset = read_dataset(place / "cases", ())

    assert list(stored.images) == sorted(one.sha256 for one in dataset.samples)
    assert not np.array_equal(stored.images, [one.sha256 for one in dataset.samples])
