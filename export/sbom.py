"""The bill of materials of a bundle: CycloneDX 1.6 JSON, with the network as a machine-learning model.

The FDA asks for one with each device software (524B); its readers find here the graphs by digest, where the network
comes from, what it was calibrated on, and the packages that made it and that run it. With a proof (`Proved`) the model
card also holds what was measured, with intervals. The document carries no time and no random serial number: equal
bundles give equal bytes.

cyclonedx-python-lib knows no `modelCard` yet (its issue 912), so the document is written here and held against the
library's schema validator in a test.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping

import msgspec

from ..runtime.engine import engine_of
from ..runtime.manifest import Manifest, TaskOutput
from .components import COMPONENTS
from .components import ENGINES as ENGINES

Node = dict[str, object]

# A fixed namespace makes serial numbers of equal bundles equal (RFC 9562, version 5).
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/schema/bom-1.6#foveola")
MODEL, TOOL = "model", "foveola"


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """One measured number; numbers are text, as the standard has them. Empty: there is none."""

    type: str
    value: str
    slice: str = ""
    low: str = ""
    high: str = ""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group of patients in which the network may do worse, and what was found."""

    name: str
    harm: str


class Proved(msgspec.Struct, frozen=True, kw_only=True):
    """What a proof adds.

    Args:
        performance: what was measured.
        groups: in which the network may do worse.
        limits: what the proof does not cover, in sentences.
        tradeoffs: what was given for what, in sentences.
        versions: package -> version, on the machine of the proof; they stand for what runs the network.
        facts: digests and words for which CycloneDX has no field.
    """

    performance: tuple[Performance, ...] = ()
    groups: tuple[Group, ...] = ()
    limits: tuple[str, ...] = ()
    tradeoffs: tuple[str, ...] = ()
    versions: Mapping[str, str] = {}
    facts: Mapping[str, str] = {}


def sbom_json(manifest: Manifest, members: Mapping[str, bytes], proved: Proved | None = None) -> bytes:
    """Write the bill of materials of a bundle.

    Args:
        manifest: of the bundle; `provenance.versions` gives the packages.
        members: the bundle's files by name, as they stand in it.
        proved: what was measured; None before the proof.
    """
    packages = [_package(name, *versions, manifest) for name, versions in _versions(manifest, proved).items()]
    needed = [str(package["bom-ref"]) for package in packages if package["scope"] == "required"]
    engines = [ref for ref in needed if ref.removeprefix("package:") in ENGINES]
    body: Node = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": _model(manifest, members, proved),
            "properties": _properties(manifest, proved),
            **_tools(manifest),
        },
        "components": packages,
        "dependencies": [
            {"ref": MODEL, "dependsOn": engines},
            *(_dependency(str(one["bom-ref"]), needed) for one in packages),
        ],
    }
    digest = hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()
    body["serialNumber"] = f"urn:uuid:{uuid.uuid5(NAMESPACE, digest)}"
    return msgspec.json.format(msgspec.json.encode(body, order="sorted"), indent=1) + b"\n"


def needed_on_device(name: str, manifest: Manifest) -> bool:
    """Tell whether the device needs a package: the runtime and what it imports, and the bundle's engines."""
    if name in ENGINES:
        return name in {engine_of(options) for options in manifest.engines}
    return name in COMPONENTS and bool(COMPONENTS[name].required)


def _versions(manifest: Manifest, proved: Proved | None) -> dict[str, tuple[str, str]]:
    """Give each package's version in the proof (or at the making, where the proof had none), and that at the making."""
    made = manifest.provenance.versions
    ran = dict(proved.versions) if proved else {}
    return {name: (ran.get(name) or made[name], made.get(name, "")) for name in sorted({*made, *ran})}


def _package(name: str, version: str, made_with: str, manifest: Manifest) -> Node:
    known = COMPONENTS.get(name)
    address = f"{known.purl if known else 'pypi'}/{name.lower().replace('_', '-')}@{version}"
    package: Node = {
        "type": "library" if name != "python" else "platform",
        "bom-ref": f"package:{name}",
        "name": name,
        "version": version,
        "purl": f"pkg:{address}",
        # excluded: made the network or its proof, is not on the device
        "scope": "required" if needed_on_device(name, manifest) else "excluded",
    }
    if known is not None:
        package |= {
            "description": known.purpose,
            "supplier": {"name": known.supplier},
            "licenses": [{"expression": known.licence}],
        }
    if made_with and made_with != version:
        package["properties"] = [{"name": "foveola:made-with", "value": made_with}]
    return package


def _dependency(ref: str, needed: list[str]) -> Node:
    """Give what a package depends on, as far as it is known here: the runtime's own imports."""
    if ref != f"package:{TOOL}":
        return {"ref": ref}
    rest = [one for one in needed if one != ref]
    return {"ref": ref, "dependsOn": rest} if rest else {"ref": ref}


def _tools(manifest: Manifest) -> Node:
    version = manifest.provenance.versions.get(TOOL)
    tool = {"type": "application", "name": TOOL, **({"version": version} if version else {})}
    return {"tools": {"components": [tool]}}


def _model(manifest: Manifest, members: Mapping[str, bytes], proved: Proved | None) -> Node:
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": manifest.name,
        "version": manifest.version,
        "description": f"Network for {manifest.device}: {', '.join(_answer(output) for output in manifest.outputs)}",
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "multitask: " + ", ".join(output.task.kind for output in manifest.outputs),
                "datasets": _datasets(manifest, proved),
                "inputs": [{"format": "image/*"}],
                "outputs": [{"format": _answer(output)} for output in manifest.outputs],
            },
            **(_measured(proved) if proved else {}),
        },
        "components": [
            {
                "type": "file",
                "bom-ref": f"file:{name}",
                "name": name,
                "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}],
            }
            for name, data in sorted(members.items())
        ],
    }


def _datasets(manifest: Manifest, proved: Proved | None) -> list[Node]:
    """Name the data by digest; what is in them, where they come from and who may see them, only their owner can say."""
    calibration = manifest.calibration
    named = [("training and validation", manifest.provenance.data_digest, "")]
    if calibration.method != "none":
        named.append(("calibration", calibration.images_digest, f"{calibration.images} images"))
    if proved and proved.facts.get("data"):
        named.append(("proof", proved.facts["data"], proved.facts.get("cases", "")))
    return [
        {
            "type": "dataset",
            "bom-ref": f"data:{name.split()[0]}",
            "name": name,
            **({"description": words} if words else {}),
            "contents": {"properties": [{"name": "foveola:digest", "value": digest}]},
        }
        for name, digest, words in named
        if digest
    ]


def _measured(proved: Proved) -> Node:
    """Write the model card's analysis and considerations."""
    considerations: Node = {}
    if proved.limits:
        considerations["technicalLimitations"] = list(proved.limits)
    if proved.tradeoffs:
        considerations["performanceTradeoffs"] = list(proved.tradeoffs)
    if proved.groups:
        considerations["fairnessAssessments"] = [
            {"groupAtRisk": group.name, "harms": group.harm} for group in proved.groups
        ]
    metrics = [_metric(row) for row in proved.performance]
    card: Node = {"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}
    return {**card, **({"considerations": considerations} if considerations else {})}


def _metric(row: Performance) -> Node:
    interval = {name: value for name, value in (("lowerBound", row.low), ("upperBound", row.high)) if value}
    return {
        "type": row.type,
        "value": row.value,
        **({"slice": row.slice} if row.slice else {}),
        **({"confidenceInterval": interval} if interval else {}),
    }


def _answer(output: TaskOutput) -> str:
    return f"{output.task.name} ({output.task.kind})"


def _properties(manifest: Manifest, proved: Proved | None) -> list[Node]:
    """Facts that CycloneDX has no field for."""
    origin, calibration = manifest.provenance, manifest.calibration
    facts = {
        "recipe": f"{origin.recipe} {origin.recipe_digest}",
        "data": origin.data_digest,
        "teacher": origin.teacher_digest,
        "student": origin.student_digest,
        "seed": str(origin.seed),
        "calibration": f"{calibration.method}, {calibration.images} images, {calibration.images_digest}",
        **{f"engine:{engine.graph}": engine.arithmetic for engine in manifest.engines},
        **({f"proof:{name}": words for name, words in proved.facts.items()} if proved else {}),
    }
    return [{"name": f"foveola:{name}", "value": value} for name, value in sorted(facts.items())]
