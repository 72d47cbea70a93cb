"""Laws of watching: the scores of each epoch are read from the resume point, and what is hopeless is stopped."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from foveola.toolkit.checkpoint import Epoch
from foveola.toolkit.progress import SilentProgress
from foveola.toolkit.search.quiet import Quiet
from foveola.toolkit.search.watch import HopelessError, Watch


def close_epoch(folder: Path, count: int) -> None:
    """What a training leaves at the end of an epoch."""
    point = folder / "student-0123456789ab.partial/checkpoint"
    point.mkdir(parents=True, exist_ok=True)
    history = [Epoch(i, 0.1, {}, 0.1 * i, {"lungs": 0.1 * i}) for i in range(count)]
    (point / "progress.json").write_bytes(msgspec.json.encode({"history": history, "best_score": 0.0}))


def test_each_epoch_is_judged_once_by_its_scores(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int, float]] = []

    def judge(step: str, epoch: int, epochs: int, scores: dict[str, float]) -> str:
        seen.append((step, epoch, epochs, scores["lungs"]))
        return "hopeless" if epoch == 3 else ""

    watch = Watch(SilentProgress(), "trial 1", tmp_path, Quiet(None), judge)
    watch.begin("student", 1, 2, "first run")
    watch.advance(1, 10, "epoch 1/5, loss 3.0")
    close_epoch(tmp_path, 2)  # a resumed training brings two at once
    watch.advance(2, 10, "epoch 2/5: lungs 0.1")
    close_epoch(tmp_path, 3)

    with pytest.raises(HopelessError) as stopped:
        watch.advance(3, 10, "epoch 3/5: lungs 0.2")

    assert seen == [("student", 1, 5, 0.0), ("student", 2, 5, 0.1), ("student", 3, 5, 0.2)]
    assert stopped.value.folder.name == "student-0123456789ab.partial"
