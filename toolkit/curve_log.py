"""The curve of a training as CSV: one row a step, kept outside of the step's result, since it holds times.

    epoch,step,learning_rate,images_per_second,loss,findings,lungs

A resumed training cuts the file back to its last finished epoch. Any spreadsheet reads it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

HEAD = ("epoch", "step", "learning_rate", "images_per_second", "loss")


class CurveLog:
    """Appends steps to a file; without a path it does nothing.

    Args:
        path: the CSV; its folder is made.
        epochs: finished epochs of which the rows are kept.
    """

    def __init__(self, path: Path | None, epochs: int) -> None:
        self.path = path
        self.columns: list[str] = list(HEAD)
        self.rows: list[dict[str, str]] = []
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[dict[str, str]] = []
        if epochs and path.is_file():
            with path.open(newline="", encoding="utf-8") as stream:
                kept = [row for row in csv.DictReader(stream) if (row["epoch"] or "").isdigit()]
            kept = [row for row in kept if int(row["epoch"]) <= epochs]
            self.columns = list(kept[0]) if kept else self.columns
        self._write(kept)

    def add(
        self, epoch: int, step: int, *, rate: float, images_per_second: float, loss: float, losses: Mapping[str, float]
    ) -> None:
        """Note one step; epochs and steps count from 1."""
        told = (str(epoch), str(step), f"{rate:.6g}", f"{images_per_second:.1f}", f"{loss:.6g}")
        self.rows.append(dict(zip(HEAD, told, strict=True)) | {name: f"{value:.6g}" for name, value in losses.items()})

    def flush(self) -> None:
        """Bring the rows to the file; a loss that is seen for the first time becomes a new column."""
        if self.path is None or not self.rows:
            self.rows = []
            return
        new = [name for row in self.rows for name in row if name not in self.columns]
        if new:
            with self.path.open(newline="", encoding="utf-8") as stream:
                before = list(csv.DictReader(stream))
            self.columns += dict.fromkeys(new)
            self._write(before)
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self.columns).writerows(self.rows)
        self.rows = []

    def _write(self, rows: list[dict[str, str]]) -> None:
        assert self.path is not None
        with self.path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.columns)
            writer.writeheader()
            writer.writerows(rows)
