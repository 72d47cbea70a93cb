"""The page and the command: closed tags, nothing loaded, all that the record tells, one JSON object."""

from __future__ import annotations

import html.parser
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from foveola.runtime.errors import FoveolaError
from foveola.toolkit.commands.table import foveola as main
from foveola.toolkit.explain.page import render_explained
from foveola.toolkit.explain.record import Explained, Foreseen, Layer, Part
from foveola.toolkit.explain.words import head_lines, layer_table, part_table, percent, sorted_layers, tail_lines
from foveola.toolkit.report.layers import bar, layers_block, noise_figure, widths_figure


class Closed(html.parser.HTMLParser):
    """Complains about tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "img", "col", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def layer(node: str, **facts: object) -> Layer:
    plain = {"operator": "Conv", "module": f"backbone.{node}", "part": "backbone blocks.0", "weighted": True}
    numbers = {"parameters": 100, "macs": 10_000, "arithmetic": "int8", "channels": 8}
    return msgspec.convert({"node": node, **plain, **numbers, **facts}, Layer)


def made_up(*layers: Layer, **facts: object) -> Explained:
    part = Part(name="backbone blocks.0", kind="backbone", layers=len(layers), float_layers=0, parameters=1, macs=1)
    base = Explained(
        name="student", step="quantize", backbone="b", input=(64, 64, 1), tasks=("signs",), quantised=True,
        layers=layers, parts=(part,),
    )  # fmt: skip
    return msgspec.structs.replace(base, **facts)


def test_a_page_closes_its_tags_loads_nothing_and_tells_every_layer(explained: Explained) -> None:
    page = render_explained(explained)

    assert Closed(page).open == []
    assert not re.search(r"<script|src=|href=\"http|@import|url\(", page)
    for one in explained.layers:
        assert f"<code>{one.node}</code>" in page
    for task in explained.tasks:
        assert f'<th scope="col" class="n">{task}</th>' in page


def test_names_from_outside_are_escaped() -> None:
    page = render_explained(made_up(layer("<b>x</b>", kept_float="<i>why</i>"), name="<script>"))

    assert "<script>" not in page
    assert "<b>x</b>" not in page
    assert "<i>why</i>" not in page


def test_equal_records_give_equal_pages(explained: Explained) -> None:
    assert render_explained(explained) == render_explained(explained)


def test_drawings_are_whole_described_and_within_their_frame() -> None:
    layers = [layer(f"c{n}", sqnr_db=40.0 - 25 * n, own_db=90.0, pruned_from=16) for n in range(3)]

    for drawing in (noise_figure(layers), widths_figure(layers)):
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        for mark in root.iter("circle"):
            assert 0 <= float(mark.get("cy", "-1")) <= 220
    assert "lowest is -10.0 dB at c2" in noise_figure(layers)


def test_bars_are_shares_of_the_longest() -> None:
    drawing = bar(1.0, 4.0, 2.0)

    assert 'width="25.0%"' in drawing
    assert 'width="50.0%"' in drawing


@pytest.mark.parametrize(("slack", "shade"), [(1.0, 0), (0.97, 1), (0.8, 2), (0.6, 3), (0.2, 4), (-0.5, 5), (None, 0)])
def test_the_less_of_a_margin_is_left_the_darker_its_cell(slack: float | None, shade: int) -> None:
    slacks = {} if slack is None else {"signs": slack}
    part = Part(
        name="p", kind="backbone", layers=1, float_layers=0, parameters=1, macs=1, slacks={**slacks, "other": 1.0}
    )

    (row,) = layers_block(made_up(layer("c"), parts=(part,), slack_images=4)).heat

    assert row.cells[0][0] == shade


def test_sensitivities_of_layers_go_before_those_of_parts_with_the_worst_first() -> None:
    found = made_up(layer("a", slacks={"signs": 0.9}), layer("b", slacks={"signs": 0.1}), slack_images=8)

    block = layers_block(found)

    assert [row.name for row in block.heat] == ["b backbone.b", "a backbone.a"]
    assert "What each task loses, layer by layer" in render_explained(found)


def test_the_terminal_puts_the_worst_or_heaviest_first() -> None:
    layers = (
        layer("slow", ms=2.0, sqnr_db=30.0, macs=1),
        layer("noisy", ms=1.0, sqnr_db=10.0, macs=2, parameters=1),
        layer("heavy", ms=0.5, macs=9, parameters=900),
    )

    firsts = {order: sorted_layers(layers, order)[0].node for order in ("time", "noise", "work", "size", "graph")}

    assert firsts == {"time": "slow", "noise": "noisy", "work": "heavy", "size": "heavy", "graph": "slow"}


def test_the_terminal_tells_what_was_pruned_kept_and_lost(explained: Explained) -> None:
    found = made_up(
        layer("a", pruned_from=16), layer("b", kept_float="asked for", slacks={"signs": 0.4}), notes=("no times",)
    )

    lines = tail_lines(found)

    assert lines == [
        "in float: b (backbone.b): asked for",
        "pruned: 1 layers, 16 → 8 channels in all",
        "sensitive: signs keeps 0.40 of its margin where b alone is quantised",
        "note: no times",
    ]
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(part_table(explained))
    console.print(layer_table(explained, "noise", 3))
    text = console.export_text()
    assert "head square" in text
    assert len(head_lines(explained)) == 3


def test_a_prediction_is_always_named_one() -> None:
    from foveola.devices.roofline import Prediction

    one = Prediction(
        ms=12.5, compute_bound=1, layers=2, peak_gops=1.0, bandwidth_gb_s=1.0, source="calibrated", error=0.1
    )
    foreseen = Foreseen(device="intel-n100", prediction=one, float_prediction=None, measured_on="here", here_ms=None)
    found = made_up(layer("a"), foreseen=foreseen)

    assert "intel-n100: about 12.50 ms, predicted by the roofline calibrated here" in "\n".join(head_lines(found))
    assert "A prediction:" in render_explained(found)


@pytest.mark.parametrize(("share", "text"), [(0.0, "0"), (1e-6, "< 0.01 %"), (0.036419, "3.6 %")])
def test_small_shares_are_written_as_far_as_anybody_reads(share: float, text: str) -> None:
    assert percent(share) == text


def test_the_command_answers_with_one_object_and_writes_the_page(tiny_run: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = ["explain", "tiny", "--runs", str(tiny_run.runs), "--html", str(page), "--limit", "0", "--json"]

    done = CliRunner().invoke(main, words, standalone_mode=False)

    assert done.exception is None, done.exception
    said = json.loads(done.stdout)
    assert msgspec.convert(said, Explained).quantised
    assert "Noise of quantisation along the depth" in page.read_text(encoding="utf-8")


def test_the_command_prints_tables_for_people(tiny_run: Any) -> None:
    words = ["explain", str(tiny_run.student), "--runs", str(tiny_run.runs), "--quick", "--sort", "work", "--all"]

    done = CliRunner().invoke(main, words, standalone_mode=False)

    assert done.exception is None, done.exception
    assert "million parameters" in done.stdout
    assert "heads.square.last" in done.stdout


def test_a_page_that_cannot_be_written_is_told_in_one_line(tiny_run: Any) -> None:
    words = ["explain", str(tiny_run.student), "--runs", str(tiny_run.runs), "--quick", "--html", "/none/page.html"]

    done = CliRunner().invoke(main, words, standalone_mode=False)

    assert isinstance(done.exception, FoveolaError)
    assert "cannot be written" in str(done.exception)
