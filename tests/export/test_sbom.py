"""The bill of materials against the standard's own schema."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import msgspec
import pytest

from foveola.export.sbom import sbom_json
from foveola.runtime.manifest import (
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    Provenance,
    TaskOutput,
)
from foveola.runtime.task import Task

SHA = "0" * 64
MEMBERS = {"openvino.xml": b"<net/>", "model.onnx": b"graph", "openvino.bin": b"\0"}


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        format=1,
        name="chest-xray",
        version="1.2.0",
        device="intel-n100",
        input=InputSpec(height=256, width=256, channels=1),
        outputs=(TaskOutput(task=Task(name="edema", kind="binary", classes=("no", "yes")), tensors=("edema",)),),
        engines=(OnnxRuntimeOptions(), OpenVinoOptions()),
        calibration=Calibration(method="minmax", images=200, min_images=128, images_digest=SHA),
        provenance=Provenance(
            recipe="chest-xray", recipe_digest=SHA, data_digest=SHA, teacher_digest=SHA, student_digest=SHA, seed=7,
            versions={"torch": "2.15.0", "onnxruntime": "1.31.1", "openvino": "2026.4.1"},
        ),
    )  # fmt: skip


def read(document: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(document)
    return found


def test_the_standards_schema_accepts_the_document(manifest: Manifest) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the validator's own dependencies
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        document = sbom_json(manifest, MEMBERS)
        broken = document.replace(b'"machine-learning-model"', b'"network"')

        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode()) is None
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken.decode()) is not None


def test_the_network_is_a_machine_learning_model_with_its_files_by_digest(manifest: Manifest) -> None:
    model = read(sbom_json(manifest, MEMBERS))["metadata"]["component"]

    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "chest-xray", "1.2.0")
    assert model["modelCard"]["modelParameters"]["outputs"] == [{"format": "edema (binary)"}]
    digests = {file["name"]: file["hashes"][0]["content"] for file in model["components"]}
    assert digests == {name: hashlib.sha256(data).hexdigest() for name, data in MEMBERS.items()}


def test_packages_say_whether_the_device_needs_them(manifest: Manifest) -> None:
    document = read(sbom_json(manifest, MEMBERS))

    scopes = {package["purl"]: package["scope"] for package in document["components"]}
    assert scopes == {
        "pkg:pypi/onnxruntime@1.31.1": "required",
        "pkg:pypi/openvino@2026.4.1": "required",
        "pkg:pypi/torch@2.15.0": "excluded",
    }
    assert document["dependencies"][0] == {"ref": "model", "dependsOn": ["package:onnxruntime", "package:openvino"]}


def test_equal_bundles_give_equal_bytes_and_another_bundle_another_serial_number(manifest: Manifest) -> None:
    first = sbom_json(manifest, MEMBERS)
    again = sbom_json(manifest, dict(reversed(MEMBERS.items())))
    other = sbom_json(manifest, MEMBERS | {"model.onnx": b"another"})

    assert first == again
    assert read(first)["serialNumber"] != read(other)["serialNumber"]
    assert b"timestamp" not in first
