"""Laws of `flips.csv`: a table that every reader of CSV reads back, and that no spreadsheet computes."""

from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from foveola.toolkit.parity.evidence import Flip
from foveola.toolkit.proof.flips_csv import FORMULA, HEADER, flips_csv

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


def flip(**changes: object) -> Flip:
    plain = {
        "engine": "onnxruntime",
        "task": "findings",
        "label": "nodule",
        "case": "case-1",
        "patient": "patient-1",
        "reference": "positive",
        "teacher": 0.75,
        "student": 0.25,
        "kind": "lost",
        "severity": 1.5,
    }
    return Flip(**{**plain, **changes})  # type: ignore[arg-type]


def read(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))


def test_a_flip_is_a_row() -> None:
    data = flips_csv([flip(certainty=0.5, critical=True)])

    assert data == (
        b"engine,task,label,case,patient,kind,critical,reference,teacher,student,certainty,severity\r\n"
        b"onnxruntime,findings,nodule,case-1,patient-1,lost,yes,positive,0.75,0.25,0.5,1.5\r\n"
    )


def test_without_a_flip_the_header_stands_alone() -> None:
    assert flips_csv([]) == (",".join(HEADER) + "\r\n").encode()


def test_the_worst_stands_first_whatever_the_order() -> None:
    flips = [flip(severity=severity, case=f"case-{n}") for n, severity in enumerate((0.5, 3.5, 1.5))]

    assert flips_csv(flips) == flips_csv(flips[::-1])
    assert [row["severity"] for row in read(flips_csv(flips))] == ["3.5", "1.5", "0.5"]


@given(case=TEXT, label=TEXT, reference=TEXT)
def test_what_is_read_is_what_was_written_and_none_of_it_is_a_formula(case: str, label: str, reference: str) -> None:
    (row,) = read(flips_csv([flip(case=case, label=label, reference=reference)]))

    for name, value in (("case", case), ("label", label), ("reference", reference)):
        assert row[name] in (value, f"'{value}")
        assert not row[name].startswith(FORMULA)


def test_a_negative_number_stays_a_number() -> None:
    (row,) = read(flips_csv([flip(teacher=-3.25, student=float("nan"), certainty=None)]))

    assert (row["teacher"], row["student"], row["certainty"]) == ("-3.25", "", "")


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_lose_no_digit(value: float) -> None:
    (row,) = read(flips_csv([flip(teacher=value)]))

    assert float(row["teacher"]) == value
