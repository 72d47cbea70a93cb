"""The HTTP interface as an OpenAPI 3.1 document; the parts of a prediction are described by their own types."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from ..prediction import Box, Choice, Embedding, Finding, Measurement, Quality
from .frames import Answering

_PARTS = {"findings": Finding, "choices": Choice, "measurements": Measurement, "boxes": Box}
_ID = "^[0-9a-f]{32}$"


@cache
def document() -> bytes:
    """The document, as JSON."""
    paths: dict[str, Any] = {
        "/v1/predict": {"post": _operation("Answer about one image now; nothing is kept.", _answers(), body=True)},
        "/v1/jobs": {
            "post": _operation(
                "Take an image; the answer comes later, also after a crash. The same image is one job.",
                {"202": _reply("On disk.", "Job"), "200": _reply("Known already.", "Job"), **_refusals()},
                body=True,
            ),
            "get": _operation("Count jobs by state.", {"200": _reply("Counts.", "Counts")}),
        },
        "/v1/jobs/{id}": {
            "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": _ID}}
            ],
            "get": _operation(
                "Tell a job's state and answer.", {"200": _reply("The job.", "Job"), "404": _reply("Unknown.", "Error")}
            ),
        },
        "/health": {"get": _operation("The service lives.", {"200": _reply("Alive.", "Health")})},
        "/ready": {
            "get": _operation(
                "The self-test passed and the engine runs.",
                {"200": _reply("Ready.", "Readiness"), "503": _reply("There is no engine.", "Readiness")},
            )
        },
        "/metrics": {"get": _operation("Figures for Prometheus.", {"200": _text("Exposition format 0.0.4.")})},
        "/openapi.json": {"get": _operation("This document.", {"200": _anything("OpenAPI 3.1.")})},
    }
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Foveola",
            "version": "1",
            "description": "Answers about medical images by one signed bundle, on this machine only.",
        },
        "paths": paths,
        "components": {"schemas": _schemas()},
    }
    return msgspec.json.encode(whole)


def _operation(words: str, replies: dict[str, Any], *, body: bool = False) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": words, "responses": replies}
    if body:
        image: dict[str, Any] = {kind: {} for kind in ("image/*", "application/dicom", "application/octet-stream")}
        words = "The bytes of an image file: PNG, JPEG, TIFF, BMP or DICOM."
        operation["requestBody"] = {"required": True, "description": words, "content": image}
    return operation


def _answers() -> dict[str, Any]:
    return {
        "200": _reply("The prediction; of an unfit image the reasons and nothing else.", "Answer"),
        "422": _reply("The image is refused; there is no score.", "Error"),
        "501": _reply("A part for this kind of image is not installed.", "Error"),
        "504": _reply("No answer within the deadline.", "Error"),
        **_refusals(),
    }


def _refusals() -> dict[str, Any]:
    return {
        "400": _reply("No image in the body.", "Error"),
        "403": _reply("From a web page, or for another host's name.", "Error"),
        "413": _reply("Too large.", "Error"),
        "415": _reply("Another content type.", "Error"),
        "503": _reply("Unavailable or full; try again.", "Error"),
        "507": _reply("The disk is full.", "Error"),
    }


def _reply(words: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": words, "content": content}


def _text(words: str) -> dict[str, Any]:
    return {"description": words, "content": {"text/plain": {"schema": {"type": "string"}}}}


def _anything(words: str) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": {"type": "object"}}}}


def _schemas() -> dict[str, Any]:
    template = "#/components/schemas/{name}"
    types = (*_PARTS.values(), Embedding, Quality, Answering)
    _, parts = msgspec.json.schema_components(types, ref_template=template)
    lists = {
        name: {"type": "array", "items": {"$ref": template.format(name=part.__name__)}} for name, part in _PARTS.items()
    }
    lists["masks"] = {"type": "array", "items": {"$ref": "#/components/schemas/Mask"}}
    embeddings = {"type": "array", "items": {"$ref": "#/components/schemas/Embedding"}}
    quality = {"embeddings": embeddings, "quality": {"$ref": "#/components/schemas/Quality"}}
    prediction = _object(lists, also=quality)
    answering = {"bundle": {"$ref": "#/components/schemas/Answering"}}
    word, count = {"type": "string"}, {"type": "integer", "minimum": 0}
    states = ["queued", "answered", "unfit", "refused", "failed"]
    state = {"enum": states, "description": "failed: not answered, send it again; refused: no answer to this image."}
    return parts | {
        "Mask": _mask(),
        "Prediction": prediction,
        "Answer": _object({**answering, "prediction": {"$ref": "#/components/schemas/Prediction"}}),
        "Job": _object(
            {"id": {"type": "string", "pattern": _ID}, "state": state},
            also={"answer": {"$ref": "#/components/schemas/Answer"}, "error": word},
        ),
        "Counts": _object(dict.fromkeys((*states, "results"), count)),
        "Health": _object({"status": {"const": "alive"}}),
        "Readiness": _object(
            {"ready": {"type": "boolean"}},
            also={"bundle": {"type": "object"}, "engine": word, "selftest_images": count, "error": word},
        ),
        "Error": _object({"error": {**word, "description": "One line: place, fault and mend."}}),
    }


def _mask() -> dict[str, Any]:
    """Say what `prediction_json` makes of a mask."""
    whole = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    runs = _object({"size": {**whole, "minItems": 2, "maxItems": 2}, "counts": whole})
    runs["description"] = "COCO run lengths: size [height, width]; counts column by column, zeros first."
    return _object(
        {
            "task": {"type": "string"},
            "label": {"type": "string"},
            "area_px": {"type": "integer"},
            "fraction": {"type": "number"},
            "runs": runs,
        }
    )


def _object(required: dict[str, Any], also: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **(also or {})},
        "required": list(required),
        "additionalProperties": False,
    }
