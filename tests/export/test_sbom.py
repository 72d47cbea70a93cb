"""The bill of materials against the standard's own schema."""

from __future__ import annotations

import hashlib
import re
import warnings
from typing import Any

import msgspec
import pytest

from foveola.export.components import COMPONENTS
from foveola.export.sbom import Group, Performance, Proved, sbom_json
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


PROVED = Proved(
    performance=(
        Performance(type="auc", value="0.91", slice="openvino / edema"),
        Performance(type="auc, difference", value="-0.002", slice="openvino / edema", low="-0.01", high="0.006"),
    ),
    groups=(Group(name="sex = F", harm="worse than the margin"),),
    limits=("nothing is known of other sites",),
    tradeoffs=("precision: float32 -> int8",),
    versions={"numpy": "2.4.6", "onnxruntime": "1.32.0", "python": "3.11.7", "scipy": "1.17.1"},
    facts={"data": SHA, "cases": "200 images of 100 patients", "verdict": "pass"},
)


def strictly(document: bytes) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the validator's own dependencies
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        return JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode())


def read(document: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(document)
    return found


def test_the_standards_schema_accepts_the_document(manifest: Manifest) -> None:
    document = sbom_json(manifest, MEMBERS)
    broken = document.replace(b'"machine-learning-model"', b'"network"')

    assert strictly(document) is None
    assert strictly(broken) is not None


def test_the_standards_schema_accepts_the_document_with_a_proof_too(manifest: Manifest) -> None:
    assert strictly(sbom_json(manifest, MEMBERS, PROVED)) is None
    assert strictly(sbom_json(manifest, MEMBERS, Proved())) is None


def test_a_proof_gives_the_model_card_its_numbers_groups_and_limits(manifest: Manifest) -> None:
    card = read(sbom_json(manifest, MEMBERS, PROVED))["metadata"]["component"]["modelCard"]

    assert card["quantitativeAnalysis"]["performanceMetrics"][1] == {
        "type": "auc, difference",
        "value": "-0.002",
        "slice": "openvino / edema",
        "confidenceInterval": {"lowerBound": "-0.01", "upperBound": "0.006"},
    }
    assert card["considerations"] == {
        "technicalLimitations": ["nothing is known of other sites"],
        "performanceTradeoffs": ["precision: float32 -> int8"],
        "fairnessAssessments": [{"groupAtRisk": "sex = F", "harms": "worse than the margin"}],
    }


def test_what_runs_has_the_proofs_version_and_says_which_one_it_was_made_with(manifest: Manifest) -> None:
    found = {one["name"]: one for one in read(sbom_json(manifest, MEMBERS, PROVED))["components"]}

    assert found["onnxruntime"]["version"] == "1.32.0"
    assert found["onnxruntime"]["properties"] == [{"name": "foveola:made-with", "value": "1.31.1"}]
    assert found["python"]["purl"] == "pkg:generic/python@3.11.7"
    assert {name: one["scope"] for name, one in found.items()} == {
        "numpy": "required",
        "onnxruntime": "required",
        "openvino": "required",
        "python": "required",
        "scipy": "excluded",
        "torch": "excluded",
    }


def test_an_engine_that_the_bundle_does_not_carry_is_not_needed(manifest: Manifest) -> None:
    alone = msgspec.structs.replace(manifest, engines=(OnnxRuntimeOptions(),))

    document = read(sbom_json(alone, MEMBERS))

    assert document["dependencies"][0]["dependsOn"] == ["package:onnxruntime"]
    assert {one["name"]: one["scope"] for one in document["components"]}["openvino"] == "excluded"


def test_data_sets_are_named_by_digest(manifest: Manifest) -> None:
    parameters = read(sbom_json(manifest, MEMBERS, PROVED))["metadata"]["component"]["modelCard"]["modelParameters"]

    assert [one["name"] for one in parameters["datasets"]] == ["training and validation", "calibration", "proof"]
    assert all(
        one["contents"]["properties"] == [{"name": "foveola:digest", "value": SHA}] for one in parameters["datasets"]
    )


@pytest.mark.parametrize("name", sorted(COMPONENTS))
def test_every_known_component_has_supplier_licence_and_purpose(name: str) -> None:
    one = COMPONENTS[name]

    assert one.supplier
    assert one.licence
    assert one.purpose
    assert bool(one.needs) == bool(one.required)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", known.thread) and known.measure for known in one.anomalies)


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
