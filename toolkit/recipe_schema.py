"""The JSON Schema of recipes, for editors that complete and check while one types.

It is made from the same structs that `recipe.py` checks against, so that the two cannot drift. What a schema cannot say
(a step names an earlier step) stays with `foveola plan`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from ..runtime.task import Task
from .recipe import NAME_PATTERN
from .search.section import SECTION, Search
from .stage import DataStage, Stage

_FIELD = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.MULTILINE)
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema(stages: Mapping[str, type[Stage]], devices: Collection[str]) -> dict[str, Any]:
    """Make the schema of all recipes that these stages and devices allow."""
    refs, defs = msgspec.json.schema_components([Task, Search, *stages.values()], ref_template="#/$defs/{name}")
    task, search, *kinds = (defs.pop(ref["$ref"].rsplit("/", 1)[1]) for ref in refs)
    choices = {name: _stage(name, stages[name], kind) for name, kind in zip(stages, kinds, strict=True)}
    data = [choices[name] for name in stages if issubclass(stages[name], DataStage)]
    steps = [choices[name] for name in stages if not issubclass(stages[name], DataStage)]
    return {
        "$schema": DIALECT,
        "title": "Foveola recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "device", "data", "tasks", "steps"],
        "properties": {
            "name": {"type": "string", "pattern": NAME_PATTERN},
            "device": {"enum": sorted(devices)},
            "seed": {"type": "integer", "minimum": 0, "default": 0},
            "data": {"oneOf": data},
            "tasks": {"type": "object", "minProperties": 1, "additionalProperties": _described(Task, _task(task))},
            "steps": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": NAME_PATTERN, "not": {"const": "data"}},
                "additionalProperties": {"oneOf": steps},
            },
            SECTION: _described(Search, search),
        },
        "$defs": {name: {**inner, "description": _clean(inner)} for name, inner in defs.items()},
    }


def _stage(name: str, stage: type[Stage], schema: dict[str, Any]) -> dict[str, Any]:
    properties = {"stage": {"const": name}, **_described(stage, schema)["properties"]}
    about = _paragraphs(stage)[""]
    required = ["stage", *schema["required"]]
    return {**schema, "title": name, "description": about, "properties": properties, "required": required}


def _task(schema: dict[str, Any]) -> dict[str, Any]:
    """Leave the name out of a task: it is the key."""
    properties = {key: value for key, value in schema["properties"].items() if key != "name"}
    return {**schema, "properties": properties, "required": [key for key in schema["required"] if key != "name"]}


def _described(cls: type[msgspec.Struct], schema: dict[str, Any]) -> dict[str, Any]:
    """Give every property the words that its class's docstring (or that of a base) has for it."""
    words: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        words.update(_paragraphs(base))
    properties = {
        key: {**value, "description": words[key]} if key in words else value
        for key, value in schema["properties"].items()
    }
    return {**schema, "description": words[""], "properties": properties}


def _clean(schema: dict[str, Any]) -> str:
    return inspect.cleandoc(schema.get("description", ""))


def _paragraphs(cls: type) -> dict[str, str]:
    """Split a docstring into what it says of the class (key "") and of each field under `Args:`."""
    about, _, fields = inspect.cleandoc(cls.__doc__ or "").partition("\nArgs:\n")
    found = {"": " ".join(about.split())}
    for name, text in _FIELD.findall(fields.partition("\n\n")[0]):
        found[name] = " ".join(text.split())
    return found
