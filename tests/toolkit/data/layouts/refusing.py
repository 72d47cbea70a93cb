"""What tests of refusals share: the real command that says one line, and a table that is spoilt in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from foveola.toolkit import cli

Make = Callable[[Path], Path]


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 1) -> str:
    """The one line of an import (layout, ROOT, options) that is refused and leaves ROOT's manifest as it was."""
    manifest = Path(str(args[1])) / "manifest.csv"
    before = manifest.read_text() if manifest.exists() else None
    found = cli.main(["data", "import", *map(str, args)])
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[1/1]")]
    assert found == code
    assert len(lines) == 1, lines
    assert (manifest.read_text() if manifest.exists() else None) == before
    return lines[0]


def edited(make: Make, file: str, old: str, new: str) -> Make:
    """A maker whose data set says something else in one file."""

    def edit(root: Path) -> Path:
        path = make(root) / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return root

    return edit
