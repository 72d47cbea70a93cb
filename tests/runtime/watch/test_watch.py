"""The watch: what is counted, that nothing of it is lost, and that the folder stays within its size."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import pytest

import foveola.runtime.watch.watch as module
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import Manifest, encode_manifest
from foveola.runtime.prediction import Prediction, Quality
from foveola.runtime.watch.day import Day, added, decode_day, encode_day, read_folder
from foveola.runtime.watch.edges import LATENCY_S, TEMPERATURE_C, edges_of
from foveola.runtime.watch.observe import Seen, observe
from foveola.runtime.watch.watch import Limits, Watch

Open = Callable[..., Watch]
Answered = Callable[..., Prediction]


class Clock(Protocol):
    def days(self, count: int) -> None: ...


class Sensors(Protocol):
    celsius: float | None
    throttled: int | None


def days_of(watch: Watch) -> list[Day]:
    bundles, days, faults = read_folder(watch.folder)
    assert not faults
    assert bundles
    return days


def whole(watch: Watch) -> Day:
    (day,) = days_of(watch)
    return day


# --- what is counted


def test_counts_are_those_that_numpy_makes_of_the_same_values(
    open_watch: Open, answered: Answered, watched_manifest: Manifest
) -> None:
    rng = np.random.default_rng(1)
    chances, bright, slow = rng.random(300), rng.normal(0.5, 0.2, 300), rng.gamma(2, 0.05, 300)
    watch = open_watch(Limits(flush_s=1e9))
    for chance, brightness, latency in zip(chances.tolist(), bright.tolist(), slow.tolist(), strict=True):
        watch.record(answered(chance), {"brightness": brightness}, latency)
    watch.close()

    found, reference = whole(watch).histograms, watched_manifest.reference
    assert reference is not None
    for name, values, edges in (
        ("score/nodule/yes", chances, reference.answers["nodule/yes"].edges),
        ("input/brightness", bright, reference.inputs["brightness"].edges),
        ("latency_s", slow, LATENCY_S),
    ):
        expected = np.histogram(values, [-math.inf, *edges, math.inf])[0].tolist()
        assert (found[name].edges, list(found[name].counts)) == (edges, expected), name
    assert found["positive/nodule/yes"].counts == (int((chances < 0.5).sum()), int((chances >= 0.5).sum()))


def test_no_box_is_an_answer_too(open_watch: Open, answered: Answered) -> None:
    watch = open_watch()
    for boxes in (0, 0, 1, 3):
        watch.record(answered(boxes=boxes))

    assert whole(watch).histograms["boxes/spots"].counts[:4] == (2, 1, 0, 1)


def test_an_unfit_image_is_counted_with_its_reasons_and_without_a_score(open_watch: Open, answered: Answered) -> None:
    watch = open_watch()
    measures = {"focus": 0.1, "white": 0.5}
    quality = Quality(fit=False, reasons=("not sharp (0.1)", "too white (0.5)", "new"), measures=measures, novelty=9.0)
    watch.record(answered(quality=quality), {"brightness": 0.5})
    watch.record(answered(quality=Quality(fit=True, measures={"focus": 0.5, "white": 0.1}, novelty=1.0)))

    day = whole(watch)
    assert (day.images, day.unfit_images) == (2, 1)
    assert day.unfit == {"focus-low": 1, "white-high": 1, "novelty": 1}
    assert sum(day.histograms["quality/focus"].counts) == sum(day.histograms["quality/novelty"].counts) == 2
    assert sum(day.histograms["score/nodule/yes"].counts) == sum(day.histograms["boxes/spots"].counts) == 1


def test_temperature_and_throttling_are_counted(open_watch: Open, answered: Answered, sensors: Sensors) -> None:
    watch = open_watch()
    watch.record(answered())
    sensors.throttled = 8
    watch.record(answered())
    sensors.throttled, sensors.celsius = 1, None  # the machine was started anew, and its sensor is gone
    watch.record(answered())

    day = whole(watch)
    assert day.throttles == 3
    assert day.histograms["temperature_c"].counts[TEMPERATURE_C.index(60.0) + 1] == 2
    assert sum(day.histograms["temperature_c"].counts) == 2


def test_a_refusal_is_counted_by_its_kind(open_watch: Open) -> None:
    watch = open_watch()
    for kind in ("modality", "modality", "deadline"):
        watch.refused(kind)

    assert whole(watch).refused == {"modality": 2, "deadline": 1}
    assert whole(watch).images == 0


def test_what_is_no_number_is_not_counted(open_watch: Open, answered: Answered) -> None:
    watch = open_watch()
    watch.record(answered(), {"brightness": math.nan, "contrast": math.inf}, math.nan)

    assert not {"input/brightness", "input/contrast", "latency_s"} & whole(watch).histograms.keys()


def test_what_another_process_observed_counts_alike(
    open_watch: Open, answered: Answered, watched_manifest: Manifest, tmp_path: Path
) -> None:
    seen = observe(answered(0.7, boxes=2), watched_manifest, {"brightness": 0.4})
    sent = msgspec.json.decode(msgspec.json.encode(seen), type=Seen)
    watch = open_watch()
    watch.count(sent, 0.05)
    there = whole(watch)
    other = Watch(tmp_path / "other", watched_manifest, Limits(flush_s=0), now=lambda: datetime(2026, 3, 2))
    other.record(answered(0.7, boxes=2), {"brightness": 0.4}, 0.05)

    names = there.histograms.keys() - {"temperature_c"}
    assert {name: there.histograms[name] for name in names} == {name: whole(other).histograms[name] for name in names}


def test_a_bundle_without_reference_and_fitness_is_watched_too(
    open_watch: Open, answered: Answered, watched_manifest: Manifest
) -> None:
    watch = open_watch(manifest=msgspec.structs.replace(watched_manifest, reference=None, fitness=None))
    watch.record(answered(), {"brightness": 0.5, "contrast": 0.2, "sharpness": 0.01})

    assert {"input/sharpness", "score/nodule/yes", "mask/lungs/lung"} <= whole(watch).histograms.keys()


def test_every_histogram_has_edges_that_rise(watched_manifest: Manifest) -> None:
    for name, edges in edges_of(watched_manifest).items():
        assert list(edges) == sorted(set(edges)), name
        assert len(edges) < 64, name


# --- days


def test_each_day_has_its_own_file(open_watch: Open, answered: Answered, clock: Clock) -> None:
    watch = open_watch(Limits(flush_s=1e9))
    for _ in range(3):
        watch.record(answered())
        watch.record(answered())
        clock.days(1)
    watch.close()

    assert [(day.day, day.images) for day in days_of(watch)] == [(f"2026-03-0{n}", 2) for n in (2, 3, 4)]


def test_a_day_is_read_as_it_was_written(open_watch: Open, answered: Answered) -> None:
    watch = open_watch()
    watch.record(answered(), {"brightness": 0.5}, 0.1)
    watch.refused("full")

    day = whole(watch)
    assert decode_day(encode_day(day), "it") == day


def test_a_restart_goes_on_with_the_same_day(open_watch: Open, answered: Answered) -> None:
    for _ in range(3):
        watch = open_watch()
        watch.record(answered())
        watch.close()

    assert whole(open_watch()).images == 3


def test_two_writers_and_many_threads_lose_nothing(open_watch: Open, answered: Answered) -> None:
    watches = [open_watch(), open_watch()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: watches[n % 2].record(answered(), {}, 0.1), range(120)))
    for watch in watches:
        watch.close()

    assert whole(watches[0]).images == sum(whole(watches[0]).histograms["latency_s"].counts) == 120


def test_two_bundles_of_one_day_are_kept_apart(
    open_watch: Open, answered: Answered, watched_manifest: Manifest
) -> None:
    open_watch().record(answered())
    watch = open_watch(manifest=msgspec.structs.replace(watched_manifest, version="4"))
    watch.record(answered())

    assert [day.images for day in days_of(watch)] == [1, 1]
    assert {one.version for one in read_folder(watch.folder)[0].values()} == {"3", "4"}


def test_an_unknown_field_is_refused() -> None:
    data = encode_day(Day(day="2026-03-02", bundle="0" * 16))[:-2] + b',"patient":"Doe"}'

    with pytest.raises(FoveolaError, match=r"not a day of the watch.*patient"):
        decode_day(data, "it")


def test_counts_beyond_all_bounds_stay_at_the_bound() -> None:
    day = decode_day(
        b'{"day":"2026-03-02","bundle":"0000000000000000","histograms":{"a":{"edges":[1.0],"counts":[1099511627776,1]}}}',
        "it",
    )

    assert added(day, day).histograms["a"].counts == (2**40, 2)


# --- what goes wrong

KILLED = """
import os, sys
from pathlib import Path
from foveola.runtime.prediction import Prediction
from foveola.runtime.manifest import decode_manifest
from foveola.runtime.watch.watch import Limits, Watch
watch = Watch(Path(sys.argv[1]), decode_manifest(Path(sys.argv[2]).read_bytes()), Limits(flush_s=0))
for n in range(1_000_000):
    watch.record(Prediction(), {"brightness": 0.5}, 0.1)
    print(n + 1, flush=True)
"""


def test_a_killed_process_leaves_whole_files_and_what_it_had_flushed(
    tmp_path: Path, watched_manifest: Manifest
) -> None:
    (tmp_path / "manifest.json").write_bytes(encode_manifest(watched_manifest))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "watch"), str(tmp_path / "manifest.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(40)]
        process.kill()
        told += [int(line) for line in process.stdout if line.endswith("\n")]

    _, days, faults = read_folder(tmp_path / "watch")
    assert not faults
    assert told[-1] <= sum(day.images for day in days) <= told[-1] + 1
    assert sum(sum(day.histograms["latency_s"].counts) for day in days) == sum(day.images for day in days)


def test_a_full_disk_stops_no_answer_and_loses_no_count(
    open_watch: Open, answered: Answered, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = open_watch()

    def full(path: Path, data: bytes) -> None:
        raise FoveolaError(str(path), "cannot be written: No space left on device", "make room")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_file", full)
        watch.record(answered())
        watch.refused("deadline")
        assert "No space left" in watch.fault
    watch.record(answered())

    assert watch.fault == ""
    assert (whole(watch).images, whole(watch).refused) == (2, {"deadline": 1})


def test_a_folder_that_vanished_is_told_and_nothing_is_raised(open_watch: Open, answered: Answered) -> None:
    watch = open_watch()
    for path in watch.folder.iterdir():
        path.unlink()
    watch.folder.rmdir()
    watch.record(answered())

    assert "No such file" in watch.fault


def test_a_broken_day_is_set_aside_and_today_is_counted(open_watch: Open, answered: Answered) -> None:
    watch = open_watch()
    watch.record(answered())
    (path,) = watch.folder.glob("2026*.json")
    path.write_bytes(path.read_bytes()[:-20])
    watch.record(answered())

    assert whole(watch).images == 1
    assert path.with_name(path.name + ".broken").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, watched_manifest: Manifest) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(FoveolaError, match=r"file/watch: cannot be written"):
        Watch(tmp_path / "file" / "watch", watched_manifest)


# --- how much is kept


def test_the_oldest_days_go(open_watch: Open, answered: Answered, clock: Clock) -> None:
    watch = open_watch(Limits(flush_s=0, days=5))
    for _ in range(9):
        watch.record(answered())
        clock.days(1)

    assert [day.day[-2:] for day in days_of(watch)] == ["06", "07", "08", "09", "10"]


def test_the_folder_stays_within_its_bytes(open_watch: Open, answered: Answered, clock: Clock) -> None:
    watch = open_watch(Limits(flush_s=0, bytes=2**16))
    sizes = []
    for _ in range(90):
        watch.record(answered(), {"brightness": 0.5, "contrast": 0.2, "sharpness": 0.1}, 0.1)
        sizes.append(sum(path.stat().st_size for path in watch.folder.glob("2026*")))
        clock.days(1)

    assert 2**15 < max(sizes) <= 2**16


def test_a_clock_that_leaps_deletes_nothing_else(open_watch: Open, answered: Answered, clock: Clock) -> None:
    watch = open_watch(Limits(flush_s=0, days=5))
    for leap in (1, 1, 30_000, -40_000, 10_001):
        watch.record(answered())
        clock.days(leap)
    watch.record(answered())

    assert sum(day.images for day in days_of(watch)) >= 5
    assert {"2026-03-02", "2026-03-03"} <= {day.day for day in days_of(watch)}


def test_a_bundle_without_days_is_forgotten(
    open_watch: Open, answered: Answered, watched_manifest: Manifest, clock: Clock
) -> None:
    open_watch().record(answered())
    clock.days(1)
    newer = msgspec.structs.replace(watched_manifest, version="4")
    watch = open_watch(Limits(flush_s=0, days=1), manifest=newer)
    watch.record(answered())

    assert [one.version for one in read_folder(watch.folder)[0].values()] == ["4"]


def test_the_disk_is_spared(open_watch: Open, answered: Answered, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[Path] = []
    monkeypatch.setattr(module, "write_file", lambda path, data: writes.append(path))
    watch = open_watch(Limits(flush_s=3600))
    for _ in range(50):
        watch.record(answered())

    assert len(writes) == 2  # the bundle, and the first image


def test_limits_that_keep_nothing_are_refused() -> None:
    wrong: tuple[Callable[[], Limits], ...] = (
        lambda: Limits(days=0),
        lambda: Limits(bytes=100),
        lambda: Limits(flush_s=-1),
        lambda: Limits(sense_s=math.nan),
    )
    for make in wrong:
        with pytest.raises(ValueError, match="keeps nothing"):
            make()
