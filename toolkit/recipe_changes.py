"""`--set steps.slim.ratio=0.3`: one value of a recipe, changed before anything is checked.

A change may add a field that the file leaves out, but no step and no task: a mistyped name would make a new one. From
then on the value's place in faults is the option, not a line of the file.
"""

from __future__ import annotations

from ..runtime.errors import UsageError
from .data.faults import did_you_mean
from .recipe_reader import Reader
from .yaml12 import FaultsError, Path, Value, parse_value


def apply_change(reader: Reader, top: dict[str, Value], change: str) -> Path | None:
    """Apply one `FIELD=VALUE` to a recipe as read; give the keys it set, or None after a fault."""
    field, equals, text = change.partition("=")
    keys = tuple(field.strip().split("."))
    place = f"--set {field.strip()}"
    if not equals or not all(keys):
        reader.faults.append(UsageError(place, "not of the form FIELD=VALUE", "for example --set data.root=FOLDER"))
        return None
    try:
        value = parse_value(text, place)
    except FaultsError as error:
        reader.faults.extend(error.faults)
        return None
    node: Value = top
    for depth, key in enumerate(keys[:-1], 1):
        named = isinstance(node, dict) and key not in node and keys[0] in ("steps", "tasks") and depth == 2
        if named or not isinstance(node, dict):
            known = node if isinstance(node, dict) else ()
            what = {"steps": "step", "tasks": "task"}[keys[0]] if named else "field"
            reader.faults.append(UsageError(place, f"no {what} {key!r} in the recipe", did_you_mean(key, known)))
            return None
        node = node.setdefault(key, {})
    if not isinstance(node, dict):
        reader.faults.append(UsageError(place, f"{'.'.join(keys[:-1])} has no fields"))
        return None
    node[keys[-1]] = value
    reader.origins[keys] = place
    return keys
