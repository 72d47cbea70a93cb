"""`soup.csv`: the software of unknown provenance that a device runs with the bundle (IEC 62304, 5.3.3, 5.3.4, 8.1.2).

One row a component, as they are known from `export/components.py`: the interpreter, the packages that the runtime
imports and the bundle's engines. A version is the one of the proof; where the proof recorded none it is the one of the
making, and the row says so. The requirement is what the runtime needs of it; whether that is enough for a device, its
maker decides. Packages that these import in turn are not listed: they belong to the device's own image.
"""

from __future__ import annotations

import csv
import io

import msgspec

from ...export.components import COMPONENTS, Component
from ...export.sbom import needed_on_device
from ...runtime.manifest import Manifest
from ..parity.evidence import Evidence

NOT_RECORDED = "not recorded"


class Soup(msgspec.Struct, frozen=True, kw_only=True):
    """One component."""

    component: str
    version: str
    version_from: str  # the proof, the making of the bundle; empty where it is not recorded
    supplier: str
    licence: str
    purl: str
    purpose: str
    functional_requirement: str
    needs: str
    known_anomalies: str
    measures: str


def soup(manifest: Manifest, evidence: Evidence) -> list[Soup]:
    """List what the device needs, by name."""
    return [_row(name, one, manifest, evidence) for name, one in sorted(_needed(manifest).items())]


def _needed(manifest: Manifest) -> dict[str, Component]:
    return {name: one for name, one in COMPONENTS.items() if needed_on_device(name, manifest)}


def _row(name: str, one: Component, manifest: Manifest, evidence: Evidence) -> Soup:
    proved, made = evidence.provenance.versions.get(name), manifest.provenance.versions.get(name)
    version = proved or made
    return Soup(
        component=name,
        version=version or NOT_RECORDED,
        version_from="proof" if proved else "making" if made else "",
        supplier=one.supplier,
        licence=one.licence,
        purl=f"pkg:{one.purl}/{name}" + (f"@{version}" if version else ""),
        purpose=one.purpose,
        functional_requirement=one.required,
        needs=one.needs,
        known_anomalies=" | ".join(f"{known.thread}: {known.lesson}" for known in one.anomalies),
        measures=" | ".join(dict.fromkeys(known.measure for known in one.anomalies)),
    )


def soup_csv(rows: list[Soup]) -> bytes:
    """Write the list for a spreadsheet."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(field.name for field in msgspec.structs.fields(Soup))
    writer.writerows(msgspec.structs.astuple(row) for row in rows)
    return text.getvalue().encode()
