"""What leaves the device: small counts are hidden, drift is told, and the picture shows no more than that."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from foveola.runtime.__main__ import main
from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.manifest import Manifest
from foveola.runtime.prediction import Prediction
from foveola.runtime.watch.day import watched_of
from foveola.runtime.watch.picture import draw
from foveola.runtime.watch.summary import Summary, decode_export, encode_export, summarise, told
from foveola.runtime.watch.telling import export_lines
from foveola.runtime.watch.watch import Limits, Watch
from foveola.toolkit.commands.table import foveola

Open = Callable[..., Watch]
Answered = Callable[..., Prediction]


@pytest.fixture
def weeks(open_watch: Open, answered: Answered, clock: Any) -> Callable[..., Path]:
    """Watch so many days; from `shifted` on images are brighter."""

    def make(days: int = 60, shifted: int = 10**6, a_day: int = 20, brighter: float = 0.15) -> Path:
        rng = np.random.default_rng(2)
        watch = open_watch(Limits(flush_s=1e9))
        for day in range(days):
            for _ in range(a_day):
                bright = rng.normal(0.5 + brighter * (day >= shifted), 0.1)
                watch.record(answered(rng.beta(2, 5)), {"brightness": bright}, rng.gamma(20, 0.002))
            watch.refused("modality")
            clock.days(1)
        watch.close()
        return watch.folder

    return make


def brightness_index(summary: Summary) -> float:
    (index,) = [shift.psi for shift in summary.shifts if shift.what == "input/brightness"]
    assert index is not None
    return index


# --- drift


def test_brighter_images_are_a_large_shift_and_the_rest_is_steady(weeks: Callable[..., Path]) -> None:
    (one,) = summarise(weeks(shifted=30)).bundles

    verdicts = {shift.what: shift.verdict for shift in one.shifts}
    assert one.verdict == verdicts.pop("input/brightness") == "large"
    assert set(verdicts.values()) == {"steady"}
    bases = {shift.what: shift.basis for shift in one.shifts}
    assert (bases["input/brightness"], bases["latency_s"]) == ("reference", "earlier days")


def test_the_same_images_are_steady(weeks: Callable[..., Path]) -> None:
    assert summarise(weeks()).bundles[0].verdict == "steady"


def test_a_few_images_are_too_few(weeks: Callable[..., Path]) -> None:
    assert summarise(weeks(days=2, shifted=0)).bundles[0].verdict == "too few"


def test_of_a_few_images_no_figure_tells_in_which_bin_they_lay(open_watch: Open, answered: Answered) -> None:
    """PSI and KS of a single image against the reference's deciles would name its bin."""
    told_of = []
    for brightness in (0.1, 0.9):
        watch = open_watch(Limits(flush_s=1e9))
        watch.record(answered(0.2), {"brightness": brightness})
        watch.close()
        told_of.append(summarise(watch.folder).bundles[0].shifts)
        shutil.rmtree(watch.folder)

    assert told_of[0] == told_of[1]
    assert {shift.verdict for shift in told_of[0]} == {"too few"}
    assert {shift.images for shift in told_of[0]} == {0}


def test_the_week_in_which_it_began_is_seen(weeks: Callable[..., Path]) -> None:
    (one,) = summarise(weeks(days=56, shifted=28)).bundles

    indices = [week.psi["input/brightness"] for week in one.by_window]
    assert len(indices) == 8
    assert max(indices[:4]) < 0.25 < min(indices[4:])


def test_the_period_is_the_askers(weeks: Callable[..., Path]) -> None:
    folder = weeks(days=60, shifted=55)

    assert summarise(folder, 5).bundles[0].verdict == "large"
    assert brightness_index(summarise(folder, 60).bundles[0]) < 0.25
    with pytest.raises(UsageError, match=r"--days.*0 is no period"):
        summarise(folder, 0)


def test_a_trusted_reference_takes_the_place_of_the_folders_own(
    weeks: Callable[..., Path], watched_manifest: Manifest
) -> None:
    folder = weeks(shifted=0)
    path = next(folder.glob("bundle.*.json"))
    forged = json.loads(path.read_bytes())
    forged["reference"]["inputs"]["brightness"]["counts"] = [1, 1, 1, 1, 1, 1, 1, 1, 1, 500]
    path.write_text(json.dumps(forged), encoding="utf-8")
    fooled = summarise(folder).bundles[0]
    honest = summarise(folder, trusted=watched_of(watched_manifest)).bundles[0]

    indices = [brightness_index(one) for one in (fooled, honest)]
    assert indices[0] < 0.7 * indices[1]


# --- small counts


@given(st.integers(0, 10**6))
def test_a_told_count_is_hidden_or_a_multiple_of_five(count: int) -> None:
    shown = told(count)

    assert (shown is None) == (0 < count < 5)
    assert shown is None or (shown % 5 == 0 and abs(shown - count) <= 2)


def test_no_small_count_leaves(weeks: Callable[..., Path]) -> None:
    """Wherever the export names a count it is None, 0 or a multiple of five, whatever lies in the files."""
    export = json.loads(encode_export(summarise(weeks(days=12, a_day=3))))

    def check(value: object, inside: str = "") -> None:
        if isinstance(value, dict):
            for name, one in value.items():
                check(one, name if name in ("images", "counts", "unfit", "refused", "unfit_images") else inside)
        elif isinstance(value, list):
            for one in value:
                check(one, inside)
        elif inside and value is not None and isinstance(value, int):
            assert value % 5 == 0, inside

    check(export)
    counts = export["bundles"][0]["histograms"]["input/brightness"]["counts"]
    assert None in counts
    assert export["bundles"][0]["by_day"][0]["images"] is None
    assert all(not week["shares"] for week in export["bundles"][0]["by_window"])  # fewer than fifty a week


def test_shares_hide_cells_of_fewer_than_five(open_watch: Open, answered: Answered) -> None:
    watch = open_watch(Limits(flush_s=1e9))
    for n in range(100):
        watch.record(answered(0.9 if n < 4 else 0.01))
    watch.close()

    week = summarise(watch.folder).bundles[0].by_window[-1]
    assert week.shares["positive/nodule/yes"] == (95, 0)


# --- files


def test_an_export_is_read_as_it_was_written(weeks: Callable[..., Path]) -> None:
    export = summarise(weeks())

    assert decode_export(encode_export(export), "it") == export


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.update(format=2),
        lambda one: one.update(patient="Doe"),
        lambda one: one.update(last="yesterday"),
        lambda one: one.update(images=-1),
    ],
    ids=["format", "field", "date", "count"],
)
def test_an_export_that_is_none_is_refused(weeks: Callable[..., Path], change: Callable[[dict[str, Any]], Any]) -> None:
    export = json.loads(encode_export(summarise(weeks(days=2))))
    change(export["bundles"][0])

    with pytest.raises(FoveolaError, match=r"^it: "):
        decode_export(json.dumps(export).encode(), "it")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="holds no day"):
        summarise(tmp_path)
    with pytest.raises(FoveolaError, match="cannot be read"):
        summarise(tmp_path / "absent")


def test_a_broken_file_is_told_and_the_others_are_read(weeks: Callable[..., Path]) -> None:
    folder = weeks(days=5)
    shutil.copy(next(folder.glob("2026-03-02*")), folder / "2026-03-20.0123456789abcdef.json")
    (folder / "2026-03-21.0123456789abcdef.json").write_bytes(b"[" * 100_000)
    export = summarise(folder)

    assert len(export.faults) == 2
    assert export.bundles[0].images == 100
    assert any(line.startswith("left out    2026-03-20") for line in export_lines(export))


# --- the picture


class Tags(HTMLParser):
    """Collects what a page asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.asks: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asks += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "onload", "onclick")]
        self.open += [] if tag in ("meta", "rect", "line", "i") else [tag]

    def handle_endtag(self, tag: str) -> None:
        if tag != "i" and tag not in ("rect", "line"):
            assert self.open.pop() == tag


def test_the_picture_is_whole_and_asks_for_nothing(weeks: Callable[..., Path]) -> None:
    page = draw(summarise(weeks(shifted=30)))
    tags = Tags()
    tags.feed(page)

    assert (tags.asks, tags.open) == ([], [])
    pictures = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(pictures) >= 5
    for picture in pictures:
        for box in ElementTree.fromstring(picture).iter("rect"):
            assert float(box.attrib["height"]) >= 0
            assert float(box.attrib["y"]) >= -0.1
            assert 0 <= float(box.attrib["x"]) <= 900
    assert '<tr class="large"><td>input/brightness</td>' in page


def test_names_in_the_picture_are_escaped(weeks: Callable[..., Path]) -> None:
    export = summarise(weeks(days=3))
    evil = msgspec.structs.replace(
        export.bundles[0], name="<script>alert(1)</script>", refused={"<b>": 5}, unfit={"&": None}
    )

    assert "<script" not in (page := draw(msgspec.structs.replace(export, bundles=(evil,), faults=("<i>",))))
    assert "<b>" not in page
    assert "&lt;i&gt;" in page


# --- the verb


def test_the_verb_tells_draws_and_writes(
    weeks: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, html, out = str(weeks(shifted=30)), tmp_path / "a.html", tmp_path / "a.json"
    words = ["watch", "show", folder, "--days", "20", "--html", str(html), "--out", str(out)]

    assert main(words) == 0
    told_there = capsys.readouterr().out
    by_click = CliRunner().invoke(foveola, words)
    assert by_click.exit_code == 0, by_click.output
    assert by_click.stdout == told_there
    assert "input/brightness" in told_there
    assert "verdict     large" in told_there
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert decode_export(out.read_bytes(), "it").bundles[0].days == 20
    assert main(["watch", "show", folder, "--days", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_bytes())


def test_the_verb_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "show", str(tmp_path)]) == 1
    assert re.fullmatch(r".*: holds no day of a watch; name the folder .*\n", capsys.readouterr().err)
