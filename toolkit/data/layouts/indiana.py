"""Indiana University chest radiographs (Open-i): 7,470 images with 3,955 reports, coded by hand in MeSH.

Two layouts: of the library (`ecgen-radiology/*.xml`, `CXR1_1_IM-0001-3001.png`) and of Kaggle (two tables). A report
is a patient. A finding is 1 where the codes name it and 0 where they say `normal`; everything else is a gap, since a
code that is not there says nothing.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

from ....runtime.errors import FoveolaError
from .files import by_name, find_base
from .layout import Draft, Layout, Picture
from .tables import column, read_rows

MARKS = ("indiana_projections.csv|ecgen-radiology",)
FINDINGS = {
    "Atelectasis": "Pulmonary Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Pulmonary Edema",
    "Effusion": "Pleural Effusion",
    "Emphysema": "Pulmonary Emphysema",
    "Infiltration": "Infiltrate",
    "Nodule": "Nodule",
    "Opacity": "Opacity",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
}
SILENT = {"no indexing", "technical quality of image unsatisfactory"}  # codes that tell nothing of the patient


def read_indiana(root: Path) -> Layout:
    """Read the Indiana set in either layout.

    Raises:
        FoveolaError: another layout, a file of another version.
    """
    base = find_base(root, MARKS)
    draft = Draft(root, base)
    (_read_tables if (base / "indiana_projections.csv").is_file() else _read_xml)(base, draft)
    draft.notes.append("a finding that the codes do not name is a gap, unless they say normal")
    targets = (*(column(finding) for finding in FINDINGS), "no_finding")
    return draft.finish("indiana", attributes=("projection", "mesh"), targets=targets)


def _read_tables(base: Path, draft: Draft) -> None:
    files = by_name(draft.stored)
    reports = {
        row["uid"]: row["mesh"] for row in read_rows(base / "indiana_reports.csv", {"uid": "uid", "mesh": "MeSH"})
    }
    columns = {"uid": "uid", "file": "filename", "projection": "projection"}
    for row in read_rows(base / "indiana_projections.csv", columns):
        file = files.get(row["file"]) or draft.path(base, "images/images_normalized", row["file"])
        if row["uid"] not in reports:
            draft.drop("images without a report", row["file"])
            continue
        cells = {"projection": row["projection"].lower()} | _findings(reports[row["uid"]].split(";"))
        draft.add(Picture(file=file, patient=row["uid"], cells=cells))


def _read_xml(base: Path, draft: Draft) -> None:
    files = by_name(draft.stored)
    bare = 0
    for report in sorted((base / "ecgen-radiology").glob("*.xml"), key=lambda path: (len(path.stem), path.stem)):
        try:
            tree = ET.parse(report).getroot()
        except ET.ParseError as error:
            raise FoveolaError(str(report), f"not valid XML: {error}", "unpack the data set again") from None
        codes = [(code.text or "") for kind in ("major", "automatic") for code in tree.iterfind(f"MeSH/{kind}")]
        major = [(code.text or "") for code in tree.iterfind("MeSH/major")]
        uid = tree.find("uId")
        patient = uid.get("id", "").removeprefix("CXR") if uid is not None else ""
        images = [image.get("id", "") for image in tree.iterfind("parentImage")]
        bare += not images
        for image in images:
            file = files.get(f"{image}.png") or draft.path(base, "NLMCXR_png", f"{image}.png")
            draft.add(Picture(file=file, patient=patient or report.stem, cells=_findings(major or codes)))
    if bare:
        draft.notes.append(f"{bare} reports have no image")


def _findings(codes: Iterable[str]) -> dict[str, str]:
    """What MeSH codes (`Cardiomegaly/borderline`) say."""
    said = [code.strip() for code in codes if code.strip()]
    heads = {re.split("[/,]", code)[0].strip().lower() for code in said}
    telling = heads - SILENT
    cells = {"mesh": "; ".join(said)}
    if not telling:
        return cells
    normal = telling == {"normal"}
    cells["no_finding"] = str(int(normal))
    for finding, head in FINDINGS.items():
        if normal or head.lower() in telling:
            cells[column(finding)] = str(int(not normal))
    return cells
