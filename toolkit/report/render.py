"""The proof as one HTML file that can be read offline, printed and filed.

- One file: style and pictures are inside, there is no script, and the page's own policy forbids loading anything.
- Equal inputs give equal bytes. Latencies come from outside (`speeds`): leave them out of a report that goes into a
  bundle, since no two measurements are equal.
- This file only arranges; it computes no statistic. What it says is in `Evidence` and `Manifest` already.
- All text from outside is escaped by the template engine.

    html = render_report(evidence, manifest, pictures=pictures, speeds=speeds, machine="Intel N100, 2 threads")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from jinja2 import Environment
from markupsafe import Markup

from ...runtime.manifest import Manifest
from ..explain.record import Explained
from ..parity.evidence import VERDICTS, Evidence, Flip, Verdict
from ..parity.flips import exemplars
from ..parity.measured import MIN_PATIENTS
from ..parity.protocol import Protocol
from ..parity.subgroups import LEAST_LABELS
from ..variants.pick import Variant
from ..variants.table import row_words
from . import figures, wording
from . import tables as report_tables
from .blocks import blocks_of, scales_of
from .forget import group_tables, label_tables
from .layers import layers_block
from .page import page_environment, printed_digest
from .pictures import WIDTH
from .table import Speed

TEMPLATE = "report.html.j2"
FLIPS_LISTED = 100  # rows of the list of flips; all of them are counted
COUNTS_SHOWN = 12  # lines of the counts of flips; with more, the sums by task are in sight and the labels folded
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
    protocol: Protocol | None = None,
    forms: Sequence[Variant] = (),
    layers: Explained | None = None,
) -> str:
    """One HTML page of a proof.

    Args:
        evidence: the proof.
        manifest: of the bundle that was proved.
        pictures: flips, in the order in which they are to be looked at (`flips_to_draw`).
        speeds: size and latency of each artefact, if they were measured.
        machine: on what `speeds` were measured.
        protocol: under which the proof was made, for what it fixed beside the margins; None: only what the evidence
            itself tells.
        forms: in which the student was tried, and why each ships or does not.
        layers: what the student is made of, layer by layer, with times of this machine.

    Returns:
        The page; write it as UTF-8.

    Raises:
        FoveolaError: the proof was made under another protocol.
    """
    report_tables.check_same(evidence, protocol)
    series = (figures.TEACHER, *wording.engines(evidence))
    return (
        _environment(manifest)
        .get_template(TEMPLATE)
        .render(
            evidence=evidence,
            manifest=manifest,
            protocol=protocol,
            pictures=pictures,
            speeds=_bars(speeds),
            machine=machine,
            forms=[(one.chosen, row_words(one)) for one in forms],
            layers=layers_block(layers) if layers else None,
            headline=wording.headline(evidence),
            confidence=wording.confidence(evidence.alpha),
            power=f"{100 * evidence.power:g}",
            engines=wording.engines(evidence),
            series=series,
            legend=figures.legend(series),
            tally=_tally(evidence),
            usual_calibration=USUAL_CALIBRATION,
            footer=f"bundle {printed_digest(evidence.bundle_digest)}",
            input_facts=_input_facts(manifest),
            engine_facts=[_engine_facts(options) for options in manifest.engines],
            **_endpoint_parts(evidence, manifest, series),
            **_other_parts(evidence, manifest, series, protocol),
        )
    )


def _endpoint_parts(evidence: Evidence, manifest: Manifest, series: Sequence[str]) -> dict[str, object]:
    """Give the template the tasks with their endpoints, and the axes on which those are drawn."""
    scales = scales_of(evidence)
    blocks = blocks_of(evidence, manifest, scales, series)
    return {
        "blocks": blocks,
        "besides": [
            row for block in blocks for row in (*block.primary, *block.secondary) if row.resampled or row.limits
        ],
        "axis": figures.forest_axis(scales.primary),
        "ground": figures.forest_ground(scales.primary),
        "secondary": sum(len(block.secondary) for block in blocks),
        "secondary_axis": figures.forest_axis(scales.secondary),
        "secondary_ground": figures.forest_ground(scales.secondary),
    }


def _other_parts(
    evidence: Evidence, manifest: Manifest, series: Sequence[str], protocol: Protocol | None
) -> dict[str, object]:
    """Give the template all that stands beside the endpoints; what there is nothing of is empty."""
    counts = _flip_counts(evidence)
    return {
        "judged": report_tables.judged(evidence, manifest, protocol),
        "rules": report_tables.rules_of(protocol),
        "label_tables": label_tables(evidence),
        "group_tables": group_tables(evidence),
        "screening_level": f"{2 * evidence.alpha:g}",
        "few": MIN_PATIENTS,
        "least_labels": LEAST_LABELS,
        "flip_counts": counts,
        "flip_totals": _totals(counts) if len(counts) > COUNTS_SHOWN else [],
        "flip_words": FLIP_WORDS,
        "flips": evidence.flips[:FLIPS_LISTED],
        "fitted_on": list(dict.fromkeys(row.fitted_on for row in evidence.transfers)),
        "calibration_errors": report_tables.calibration_errors(evidence, series),
        "agreed": report_tables.agreed(evidence.agreements),
        "shifts": report_tables.shifts(evidence.drifts),
        "gaps": report_tables.gaps(evidence),
        "fitness": manifest.fitness,
    }


def _environment(manifest: Manifest) -> Environment:
    """Give the template its words; everything else is escaped."""
    environment = page_environment()
    environment.filters |= {
        "milliseconds": wording.milliseconds,
        "number": wording.number,
        "share": wording.share,
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


def _totals(lines: Sequence[FlipCount]) -> list[FlipCount]:
    """Sum the labels of each task and engine."""
    table: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for line in lines:
        table.setdefault((line.task, line.engine), []).append(line.counts)
    return [
        FlipCount(engine, task, "", tuple(map(sum, zip(*counts, strict=True))))
        for (task, engine), counts in table.items()
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
    """Choose flips for pictures, in the order of `exemplars`: each case once, and the tasks in turn.

    One bad image does not fill the page, and a task with many decisions leaves room for masks and boxes. Lost critical
    findings come before all turns.

    Args:
        flips: as in `Evidence`.
        count: how many at most.
    """
    first: dict[str, Flip] = {}
    for flip in exemplars(flips):
        first.setdefault(flip.case, flip)
    seen: Counter[str] = Counter()
    turns: list[tuple[bool, int, int]] = []
    for place, flip in enumerate(first.values()):
        seen[flip.task] += 1
        turns.append((not flip.critical, seen[flip.task], place))
    return exemplars([list(first.values())[place] for _, _, place in sorted(turns)[:count]])
