"""Laws of costs: pruning is believed at its word, and a latency that nobody can know is told before the search."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import searching

from foveola.devices.profile import load_profile
from foveola.runtime.errors import FoveolaError, UsageError
from foveola.toolkit.search.cost import Meter
from foveola.toolkit.search.quiet import Quiet
from foveola.toolkit.search.row import Cost
from foveola.toolkit.search.trial import shrunk

DEVICE = load_profile("generic-x86")
INT8 = "  int8: {stage: quantize, of: student, min_images: 2, images: 4}\n"
TARGETS = {
    "no pruning": ("", 10.0, 4.0),
    "a speed-up": ("speedup: 2.0", 5.0, 1.0),
    "a latency": ("latency_ms: 4.0", 4.0, 0.64),
    "half of the channels": ("ratio: 0.5", 2.5, 0.25),
}


@pytest.mark.parametrize(("target", "latency", "size"), TARGETS.values(), ids=TARGETS)
def test_an_untrained_candidate_is_believed_what_its_pruning_promises(
    tmp_path: Path, target: str, latency: float, size: float
) -> None:
    pruned = f"  slim: {{stage: prune, of: student, {target}}}\n" + INT8.replace("of: student", "of: slim")
    draft = searching.draft(tmp_path, *([(INT8, pruned)] if target else []))

    found = shrunk(Cost(latency_ms=10.0, size_mb=4.0), draft.read(draft.trial({})))

    assert found.latency_ms == pytest.approx(latency)
    assert found.size_mb == pytest.approx(size)


def meter(folder: Path, device: str = "", **knobs: object) -> Meter:
    profile = load_profile(device) if device else DEVICE
    cpu = msgspec.structs.replace(profile.cpu, architecture="aarch64", instructions=("neon",), peak_gops={})
    elsewhere = msgspec.structs.replace(profile, id="elsewhere", cpu=cpu, known_as=("no such board",))
    given = {"engines": (), "precisions": (), "latency": "auto", "cache": folder, "quiet": Quiet(None), **knobs}
    return Meter(elsewhere, **given)  # type: ignore[arg-type]


def test_a_latency_that_nobody_can_know_is_told_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no peak or bandwidth to predict a latency from, and is not at hand"):
        meter(tmp_path)


def test_what_is_no_such_device_cannot_measure_for_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this machine is no elsewhere: "):
        meter(tmp_path, latency="measured")


def test_a_precision_that_the_device_lacks_is_told(tmp_path: Path) -> None:
    cpu = DEVICE.cpu

    with pytest.raises(FoveolaError, match="nothing to write for onnxruntime"):
        Meter(
            msgspec.structs.replace(DEVICE, cpu=cpu),
            ("onnxruntime",),
            ("float16",),
            latency="auto",
            cache=tmp_path,
            quiet=Quiet(None),
        )
