"""The bundle's bill of materials: CycloneDX 1.6 JSON, with the network as a machine-learning model.

The FDA asks for one with each device software (524B); its readers find here the graphs by digest, where the network
comes from, what it was calibrated on, and the packages that made it and that run it. The document carries no time and
no random serial number: equal bundles give equal bytes.

cyclonedx-python-lib knows no `modelCard` yet (its issue 912), so the document is written here and held against the
library's schema validator in a test.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping

import msgspec

from ..runtime.manifest import Manifest, TaskOutput

Node = dict[str, object]

ENGINES = ("onnxruntime", "openvino")
# A fixed namespace makes serial numbers of equal bundles equal (RFC 9562, version 5).
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/schema/bom-1.6#foveola")


def sbom_json(manifest: Manifest, members: Mapping[str, bytes]) -> bytes:
    """Write the bill of materials of a bundle.

    Args:
        manifest: of the bundle; `provenance.versions` gives the packages.
        members: the graphs' files by name, as they stand in the bundle.
    """
    packages = [_package(name, version) for name, version in sorted(manifest.provenance.versions.items())]
    body: Node = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _model(manifest, members), "properties": _properties(manifest)},
        "components": packages,
        "dependencies": [
            {
                "ref": "model",
                "dependsOn": sorted(f"package:{one['name']}" for one in packages if one["name"] in ENGINES),
            },
            *({"ref": one["bom-ref"]} for one in packages),
        ],
    }
    digest = hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()
    body["serialNumber"] = f"urn:uuid:{uuid.uuid5(NAMESPACE, digest)}"
    return msgspec.json.format(msgspec.json.encode(body, order="sorted"), indent=1) + b"\n"


def _package(name: str, version: str) -> Node:
    return {
        "type": "library",
        "bom-ref": f"package:{name}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
        "scope": "required" if name in ENGINES else "excluded",  # excluded: made the network, is not on the device
    }


def _model(manifest: Manifest, members: Mapping[str, bytes]) -> Node:
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": manifest.name,
        "version": manifest.version,
        "description": f"Network for {manifest.device}: {', '.join(_answer(output) for output in manifest.outputs)}",
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "multitask: " + ", ".join(output.task.kind for output in manifest.outputs),
                "inputs": [{"format": "image/*"}],
                "outputs": [{"format": _answer(output)} for output in manifest.outputs],
            },
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


def _answer(output: TaskOutput) -> str:
    return f"{output.task.name} ({output.task.kind})"


def _properties(manifest: Manifest) -> list[Node]:
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
    }
    return [{"name": f"foveola:{name}", "value": value} for name, value in sorted(facts.items())]
