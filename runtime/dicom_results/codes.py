"""Codes for labels, decisions and units: the standard's own where it has one, else of the scheme 99FOVEOLA.

Laws:
- A label gets a code of SNOMED CT or DCM only where the standard's context groups name that very concept (PS3.16, in
  the dictionary that pydicom generates from it); no code stands here from memory.
- Everything else gets a code of 99FOVEOLA whose meaning is the label itself. Equal labels get equal codes.

| 99FOVEOLA | meaning |
|---|---|
| `ANSWER`, `ANSWERED`, `NOT_ANSWERED` | whether the image was answered about at all |
| `FIT`, `NOT_FIT` | whether the image is fit for it |
| `DECISION` | positive or negative at the threshold (values of SNOMED CT) |
| `FRACTION` | part of the image that a mask covers |
| `T.…`, `L.…`, `P.…`, `M.…` | a task, a label, the probability of a label, a measure |
"""

from __future__ import annotations

import hashlib
import re

import msgspec
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept, FindingSite
from pydicom.sr.codedict import codes

from .words import shown

SCHEME = "99FOVEOLA"
LONGEST_CODE, LONGEST_MEANING = 16, 64  # SH and LO, PS3.5 6.2
# Normalised label -> keyword of pydicom's dictionary. Plural forms are found without their "s".
SCT = {
    "aorta": "Aorta",
    "blood vessel": "BloodVessel",
    "cardiomegaly": "Cardiomegaly",
    "clavicle": "Clavicle",
    "cyst": "Cyst",
    "diaphragm": "Diaphragm",
    "edema": "Edema",
    "effusion": "Effusion",
    "fibrosis": "Fibrosis",
    "fovea": "FoveaCentralis",
    "haemorrhage": "Hemorrhage",
    "heart": "Heart",
    "hemorrhage": "Hemorrhage",
    "lesion": "Lesion",
    "lung": "Lung",
    "lung field": "Lung",
    "mass": "Mass",
    "mediastinum": "Mediastinum",
    "nodule": "Nodule",
    "oedema": "Edema",
    "optic disc": "OpticNerveHead",
    "optic disk": "OpticNerveHead",
    "pleural effusion": "PleuralEffusion",
    "pneumothorax": "Pneumothorax",
    "pulmonary edema": "PulmonaryEdema",
    "rib": "Rib",
    "spine": "Spine",
    "trachea": "Trachea",
    "vessel": "BloodVessel",
}
DCM = {"infiltrate": "Infiltrate", "infiltration": "Infiltrate", "opacity": "Opacity"}
STRUCTURES = frozenset(
    (
        *("Aorta", "BloodVessel", "Clavicle", "Diaphragm", "FoveaCentralis", "Heart", "Lung", "Mediastinum"),
        *("OpticNerveHead", "Rib", "Spine", "Trachea"),
    )
)
# Unit as a task writes it -> keyword of pydicom's UCUM dictionary.
UNITS = {
    "": "NoUnits",
    "%": "Percent",
    "cm": "Centimeter",
    "cm2": "SquareCentimeter",
    "day": "Day",
    "days": "Day",
    "deg": "Degree",
    "degree": "Degree",
    "degrees": "Degree",
    "dpt": "Diopters",
    "kpa": "Kilopascal",
    "mm": "Millimeter",
    "mm2": "SquareMillimeter",
    "mmhg": "MillimetersHg",
    "month": "Month",
    "months": "Month",
    "percent": "Percent",
    "ratio": "Ratio",
    "um": "Micrometer",
    "week": "Week",
    "weeks": "Week",
    "year": "Year",
    "years": "Year",
    "µm": "Micrometer",
}

ANSWER = CodedConcept("ANSWER", SCHEME, "Answer of the algorithm")
ANSWERED = CodedConcept("ANSWERED", SCHEME, "Answered")
NOT_ANSWERED = CodedConcept("NOT_ANSWERED", SCHEME, "Not answered")
FIT = CodedConcept("FIT", SCHEME, "Image is fit")
NOT_FIT = CodedConcept("NOT_FIT", SCHEME, "Image is not fit")
DECISION = CodedConcept("DECISION", SCHEME, "Decision at the threshold")
FRACTION = CodedConcept("FRACTION", SCHEME, "Fraction of the image")
PIXELS = CodedConcept("{pixels}", "UCUM", "Pixels")


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """What a label means: a concept, where it is of a pair the side, and whether it is of normal anatomy."""

    concept: CodedConcept
    side: CodedConcept | None = None
    structure: bool = False

    @property
    def sites(self) -> list[FindingSite] | None:
        """The side, as TID 1419 and 1501 take it; None where there is none."""
        return None if self.side is None else [FindingSite(self.concept, laterality=self.side)]


def label_term(label: str) -> Term:
    """Give the meaning of a label: `right_lung` is Lung, on the right side.

    Args:
        label: as the task writes it.
    """
    words = _normal(label)
    side = next((one for one in ("right", "left") if words.startswith(one + " ")), "")
    scheme, keyword = _found(words[len(side) + 1 :] if side else words)
    if not keyword:
        return Term(concept=private("L", label))
    return Term(
        concept=standard(scheme, keyword),
        side=standard("SCT", side.capitalize()) if side else None,
        structure=keyword in STRUCTURES,
    )


def private(kind: str, label: str, meaning: str = "") -> CodedConcept:
    """Make a code of 99FOVEOLA.

    Args:
        kind: `T` task, `L` label, `P` probability of a label, `M` measure.
        label: as the task writes it.
        meaning: by default the label with blanks.
    """
    plain = re.sub(r"[^A-Z0-9]+", "_", label.upper()).strip("_")
    room = LONGEST_CODE - len(kind) - 1
    if not plain or len(plain) > room or not label.isascii():
        sign = hashlib.sha256(label.encode()).hexdigest()[:8].upper()
        plain = f"{plain[: room - 9]}_{sign}".lstrip("_")
    text = meaning or shown(label) or label or "-"
    return CodedConcept(f"{kind}.{plain}", SCHEME, text[:LONGEST_MEANING].strip() or "-")


def unit_concept(unit: str) -> CodedConcept:
    """Give the UCUM code of a unit; one that UCUM is not known to have becomes an annotation, `{beats}`."""
    keyword = UNITS.get(unit.strip().lower())
    if keyword:
        return standard("UCUM", keyword)
    note = re.sub(r"[^!-z|~]+", "_", unit.strip()) or "unit"  # ASCII 33-126 without braces (UCUM, 2.3, section 12)
    return CodedConcept("{" + note[:LONGEST_MEANING] + "}", "UCUM", unit.strip()[:LONGEST_MEANING] or "unit")


def schemes() -> list[CodingSchemeIdentificationItem]:
    """Tell what 99FOVEOLA is (Coding Scheme Identification Sequence, PS3.3 C.12.1.1.1)."""
    return [
        CodingSchemeIdentificationItem(designator=SCHEME, name="Foveola labels", responsible_organization="Foveola")
    ]


def _normal(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", label.lower()).strip()


def _found(words: str) -> tuple[str, str]:
    for form in (words, words.removesuffix("s")):
        if form in SCT:
            return "SCT", SCT[form]
        if form in DCM:
            return "DCM", DCM[form]
    return "", ""


def standard(scheme: str, keyword: str) -> CodedConcept:
    """Give a code of the standard by its keyword in pydicom's dictionary."""
    return CodedConcept.from_code(getattr(getattr(codes, scheme), keyword))
