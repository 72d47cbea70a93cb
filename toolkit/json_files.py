"""JSON files that steps leave: canonical, so that equal content is equal bytes."""

from __future__ import annotations

from pathlib import Path

import msgspec


def write_json(path: Path, value: object) -> None:
    """Write canonical JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1) + b"\n")
