"""The proof as one HTML file that can be read offline, printed and filed.

- One file: style and pictures are inside, there is no script, and the page's own policy forbids loading anything.
- Equal inputs give equal bytes. Latencies come from outside (`speeds`): leave them out of a report that goes into a
  bundle, since no two measurements are equal.
- This file only arranges; it computes no statistic. What it says is in `Evidence` and `Manifest` already.
- All text from outside is escaped by the template engine.

    html = render_report(evidence, manifest, pictures=pictures, speeds=speeds, machine="Intel N100, 2 threads")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from jinja2 import Environment
from markupsafe import Markup

from ..runtime.manifest import Manifest
from . import figures, wording
from .page import page_environment, printed_digest
from .parity.evidence import VERDICTS, Evidence, Flip, Verdict
from .pictures import WIDTH
from .report_blocks import FEW_CASES, blocks_of
from .table import Speed

TEMPLATE = "report.html.j2"
FLIPS_LISTED = 100  # rows of the list of flips; all of them are counted
USUAL_CALIBRATION = 128  # images; fewer are pointed out

FLIP_WORDS = {
    "lost": "teacher right, student wrong",
    "gained": "teacher wrong, student right",
    "unknown": "decisions differ, reference not known",
    "disagree": "answers differ most",
}


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A flip with the picture of its case (`toolkit.pictures.flip_picture`)."""

    flip: Flip
    png: bytes
    caption: str = ""


class FlipCount(msgspec.Struct, frozen=True):
    """How many decisions of one label flipped on one engine."""

    engine: str
    task: str
    label: str
    counts: tuple[int, ...]  # in the order of FLIP_WORDS


def render_report(
    evidence: Evidence,
    manifest: Manifest,
    *,
    pictures: Sequence[Picture] = (),
    speeds: Sequence[Speed] = (),
    machine: str = "",
) -> str:
    """One HTML page of a proof.

    Args:
        evidence: the proof.
        manifest: of the bundle that was proved.
        pictures: the worst flips, worst first.
        speeds: size and latency of each artefact, if they were measured.
        machine: on what `speeds` were measured.

    Returns:
        The page; write it as UTF-8.
    """
    template = _environment(manifest).get_template(TEMPLATE)
    scale = figures.forest_scale([endpoint for endpoint in evidence.endpoints if endpoint.primary])
    series = (figures.TEACHER, *wording.engines(evidence))
    return template.render(
        evidence=evidence,
        manifest=manifest,
        pictures=pictures,
        speeds=_bars(speeds),
        machine=machine,
        headline=wording.headline(evidence),
        confidence=wording.confidence(evidence.alpha),
        engines=wording.engines(evidence),
        tally=_tally(evidence),
        blocks=blocks_of(evidence, manifest, scale, series),
        axis=figures.forest_axis(scale),
        ground=figures.forest_ground(scale),
        legend=figures.legend(series),
        flip_counts=_flip_counts(evidence),
        flip_words=FLIP_WORDS,
        flips=evidence.flips[:FLIPS_LISTED],
        usual_calibration=USUAL_CALIBRATION,
        few_cases=FEW_CASES,
        footer=f"bundle {printed_digest(evidence.bundle_digest)}",
        input_facts=_input_facts(manifest),
        engine_facts=[_engine_facts(options) for options in manifest.engines],
    )


def _environment(manifest: Manifest) -> Environment:
    """Give the template its words; everything else is escaped."""
    environment = page_environment()
    environment.filters |= {
        "milliseconds": wording.milliseconds,
        "size": wording.size,
        "speed_up": wording.speed_up,
    }
    environment.tests["wide"] = _is_wide
    tasks = {output.task.name: output.task for output in manifest.outputs}
    environment.globals |= {
        "answer": lambda value, flip: wording.answer(value, tasks.get(flip.task)),
        "answer_name": lambda flip: wording.answer_name(tasks.get(flip.task)),
    }
    return environment


def _tally(evidence: Evidence) -> dict[Verdict, int]:
    """Primary endpoints by verdict."""
    primary = [endpoint.verdict for endpoint in evidence.endpoints if endpoint.primary]
    return {verdict: primary.count(verdict) for verdict in VERDICTS}


def _flip_counts(evidence: Evidence) -> list[FlipCount]:
    """`engine/task/label/kind` keys as table rows; a label may itself hold a stroke."""
    table: dict[tuple[str, str, str], dict[str, int]] = {}
    for key, count in evidence.flip_counts.items():
        engine, task, rest = key.split("/", 2)
        label, _, kind = rest.rpartition("/")
        table.setdefault((task, label, engine), {})[kind] = count
    return [
        FlipCount(engine, task, label, tuple(counts.get(kind, 0) for kind in FLIP_WORDS))
        for (task, label, engine), counts in sorted(table.items())
    ]


def _bars(speeds: Sequence[Speed]) -> list[tuple[Speed, Markup]]:
    longest = max((max(speed.latency_ms, speed.p95_ms) for speed in speeds), default=1.0)
    return [(speed, figures.latency_bar(speed.latency_ms, speed.p95_ms, longest)) for speed in speeds]


def _input_facts(manifest: Manifest) -> str:
    spec = manifest.input
    window = "full range" if spec.window == "full" else f"percentiles {spec.low:g} to {spec.high:g}"
    crop = "cropped to the field of view, " if spec.crop == "fov" else ""
    fit = "padded to keep the aspect ratio" if spec.fit == "pad" else "stretched"
    return f"{spec.width} × {spec.height} pixels, {spec.channels} channel(s), {crop}{fit}, intensities: {window}"


def _engine_facts(options: msgspec.Struct) -> tuple[str, str]:
    """Engine and its settings as one line."""
    settings: dict[str, object] = msgspec.to_builtins(options)
    return str(settings.pop("engine")), ", ".join(f"{key} = {value}" for key, value in sorted(settings.items()))


def _is_wide(png: bytes) -> bool:
    """Whether a picture has two panels; its width stands in the first chunk of every PNG (ISO/IEC 15948, 11.2.2)."""
    return int.from_bytes(png[16:20], "big") == WIDTH


def flips_to_draw(flips: Iterable[Flip], count: int) -> list[Flip]:
    """Choose the worst flips for pictures, each case once, so that one bad image does not fill the page.

    Args:
        flips: as in `Evidence`, worst first.
        count: how many at most.
    """
    first: dict[str, Flip] = {}
    for flip in flips:
        first.setdefault(flip.case, flip)
    return list(first.values())[:count]
