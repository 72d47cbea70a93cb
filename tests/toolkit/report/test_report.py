"""Laws of the report, the terminal's table and the pictures."""

from __future__ import annotations

import html.parser
import io
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    Comparison,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    OutputDifference,
    Provenance,
    TaskOutput,
)
from foveola.runtime.task import Task
from foveola.toolkit.explain.record import Explained, Layer, Part
from foveola.toolkit.parity.evidence import Curve, Endpoint, Evidence, Flip, Subgroup, Verdict
from foveola.toolkit.report import figures, wording
from foveola.toolkit.report.pictures import WIDTH, flip_picture
from foveola.toolkit.report.render import Picture, flips_to_draw, render_report
from foveola.toolkit.report.table import Speed, summary_table
from foveola.toolkit.variants.pick import Variant
from foveola.toolkit.variants.timing import Timing

ENGINES = ("onnxruntime", "openvino")
LABELS = ("effusion", "nodule", "pneumonia", "cardiomegaly", "infiltration", "pneumothorax")
TASKS = (
    Task(name="findings", kind="multilabel", classes=LABELS),
    Task(name="sex", kind="binary", classes=("female", "male")),
    Task(name="view", kind="multiclass", classes=("PA", "AP")),
    Task(name="age", kind="regression", classes=("age",), unit="years"),
    Task(name="lungs", kind="segmentation", classes=("right_lung", "left_lung")),
    Task(name="lesions", kind="detection", classes=("nodule", "mass")),
)
MARGINS = {
    "auc": 0.03,
    "sensitivity": 0.05,
    "specificity": 0.05,
    "accuracy": 0.03,
    "mae": 1.0,
    "dice": 0.01,
    "map50": 0.05,
}
# task, label, metric, primary, teacher, difference, half width; in the order of a proof
NUMBERS = [
    ("findings", "", "auc", True, 0.871, -0.004, 0.011),
    ("findings", "", "sensitivity", True, 0.801, 0.006, 0.031),
    ("findings", "", "specificity", True, 0.793, -0.012, 0.022),
    *[
        ("findings", label, metric, False, teacher, 0.004 * (i - 3), 0.015 + 0.02 * i)
        for i, label in enumerate(LABELS)
        for metric, teacher in (("auc", 0.82), ("sensitivity", 0.702), ("specificity", 0.8))
    ],
    ("sex", "", "auc", True, 0.968, -0.002, 0.009),
    ("sex", "", "sensitivity", True, 0.602, -0.021, 0.042),
    ("sex", "", "specificity", True, 0.9, 0.011, 0.034),
    ("view", "", "accuracy", True, 0.982, 0.0, 0.0),
    ("age", "age", "mae", True, 6.41, -0.31, 0.44),
    ("lungs", "", "dice", True, 0.962, -0.003, 0.004),
    ("lungs", "right_lung", "dice", False, 0.964, -0.002, 0.004),
    ("lungs", "left_lung", "dice", False, 0.960, -0.004, 0.005),
    ("lesions", "", "map50", True, 0.412, -0.061, 0.19),
]


def judge(low: float, high: float, difference: float, margin: float) -> Verdict:
    if low > -margin:
        return "pass"
    return "fail" if high < 0 and difference <= -margin else "underpowered"


def make_endpoint(engine: str, row: tuple[str, str, str, bool, float, float, float]) -> Endpoint:
    task, label, metric, primary, teacher, difference, half = row
    difference -= 0.001 if engine == "openvino" and half else 0
    low, high, margin = difference - half, difference + half, MARGINS[metric]
    verdict = judge(low, high, difference, margin)
    because = {"pass": "above", "fail": "below zero, and the difference reaches", "underpowered": "not above"}[verdict]
    return Endpoint(
        engine=engine,
        task=task,
        label=label,
        metric=metric,
        primary=primary,
        cases=412,
        patients=301,
        positives=97 if metric in ("auc", "sensitivity") else None,
        teacher=teacher,
        student=teacher + (-difference if metric == "mae" else difference),
        difference=difference,
        low=low,
        high=high,
        margin=margin,
        verdict=verdict,
        needed_cases=1840 if verdict == "underpowered" else None,
        method="DeLong, structural components summed by patient" if metric == "auc" else "bootstrap by patient",
        reason=f"the bound {low:.4g} is {because} minus the margin, {-margin:.4g}",
    )


def make_curves(task: str, label: str) -> list[Curve]:
    x = np.linspace(0, 1, 41)
    bins = np.linspace(0.05, 0.95, 9)
    curves = []
    for i, engine in enumerate(("teacher", *ENGINES)):
        power = 0.22 + 0.015 * i
        observed = np.clip(bins + 0.05 * np.sin(6 * bins + i), 0, 1)
        counts = tuple(int(n) for n in 90 - 80 * bins)
        curves.append(Curve(engine=engine, task=task, label=label, kind="roc", x=tuple(x), y=tuple(x**power)))
        curves.append(
            Curve(engine=engine, task=task, label=label, kind="calibration", x=tuple(bins), y=tuple(observed), n=counts)
        )
    return curves


def make_flips() -> list[Flip]:
    kinds = ("lost", "disagree", "gained", "unknown")
    return [
        Flip(
            engine=ENGINES[i % 2],
            task=("findings", "lungs", "lesions")[i % 3],
            label=("pneumothorax", "left_lung", "nodule")[i % 3],
            case=f"images/{i:05d}.png",
            patient=f"P{i:04d}",
            reference="present" if i % 4 != 3 else "",
            teacher=0.91 - 0.02 * i,
            student=0.31 + 0.01 * i,
            kind=kinds[i % 4],  # type: ignore[arg-type]
            severity=1 - 0.05 * i,
        )
        for i in range(12)
    ]


def make_evidence(rows: list[tuple[str, str, str, bool, float, float, float]] = NUMBERS) -> Evidence:
    """A proof with everything in it; its verdict follows from its rows."""
    endpoints = tuple(make_endpoint(engine, row) for engine in ENGINES for row in rows)
    found = {endpoint.verdict for endpoint in endpoints if endpoint.primary}
    groups = [
        ("sex", "female", 190),
        ("sex", "male", 222),
        ("view", "AP", 171),
        ("view", "PA", 241),
        ("age", "under 20", 14),
    ]
    return Evidence(
        bundle="chest-xray",
        bundle_digest="3f" * 32,
        teacher_digest="a1" * 32,
        data_digest="b2" * 32,
        split="test",
        cases=412,
        patients=301,
        alpha=0.025,
        resamples=2000,
        seed=7,
        endpoints=endpoints,
        subgroups=tuple(
            Subgroup(engine=e, task=t, attribute=a, value=v, cases=n, difference=0.01 * ((i * 7 + j) % 5 - 3))
            for t in ("findings", "sex")
            for i, (a, v, n) in enumerate(groups)
            for j, e in enumerate(ENGINES)
        ),
        flips=tuple(make_flips()),
        flip_counts={
            f"{e}/{t}/{label}/{k}": 3 * i + j + 1
            for j, e in enumerate(ENGINES)
            for i, (t, label) in enumerate([("findings", "pneumothorax"), ("lungs", "left_lung"), ("view", "AP/PA")])
            for k in ("lost", "gained")
        },
        curves=tuple(
            c for t, ls in (("findings", LABELS), ("sex", ("male",))) for label in ls for c in make_curves(t, label)
        ),
        notes=("3 cases without an answer of the student on openvino count as its worst answer.",),
        verdict="fail" if "fail" in found else "underpowered" if "underpowered" in found else "pass",
    )


def make_manifest() -> Manifest:
    thresholds = {"findings": (0.31, 0.22, 0.4, 0.35, 0.28, 0.19), "sex": (0.47,), "lesions": (0.3, 0.3)}
    differences = tuple(
        OutputDifference(tensor=t.name, largest=0.31, mean=0.0121, decisions=1536, flips=2) for t in TASKS
    )
    return Manifest(
        format=FORMAT,
        name="chest-xray",
        version="1.0.0",
        device="intel-n100",
        input=InputSpec(height=384, width=384, channels=1, window="percentile"),
        outputs=tuple(TaskOutput(task=t, tensors=(t.name,), thresholds=thresholds.get(t.name, ())) for t in TASKS),
        engines=(OnnxRuntimeOptions(), OpenVinoOptions()),
        calibration=Calibration(method="percentile", images=96, min_images=64, images_digest="c3" * 32),
        comparisons=tuple(Comparison(engine=e, images=96, outputs=differences) for e in ENGINES),  # type: ignore[arg-type]
        provenance=Provenance(
            recipe="chest-xray",
            recipe_digest="d4" * 32,
            data_digest="b2" * 32,
            teacher_digest="a1" * 32,
            student_digest="e5" * 32,
            seed=7,
            versions={"torch": "2.15.0", "onnxruntime": "1.23.0", "foveola": "0.1.0"},
        ),
    )


def make_chest(size: int = 320) -> np.ndarray:
    """A 16-bit something with two dark lungs, for the eye."""
    y, x = np.mgrid[0:size, 0:size] / size
    image = 0.55 + 0.2 * y + 0.05 * np.sin(40 * y)
    for centre in (0.3, 0.7):
        image -= 0.4 * (((x - centre) / 0.15) ** 2 + ((y - 0.5) / 0.3) ** 2 < 1)
    image += 0.02 * np.random.default_rng(0).standard_normal((size, size))
    return np.asarray(np.clip(image, 0, 1) * 4095, np.uint16)


def make_mask(size: int = 320, *, shift: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size] / size
    return np.asarray(((x - 0.7 - shift) / 0.15) ** 2 + ((y - 0.5 + shift) / 0.3) ** 2 < 1, bool)


def make_pictures(evidence: Evidence) -> list[Picture]:
    image = make_chest()
    box = np.array([[200, 90, 250, 150]])
    masks = flip_picture(image, make_mask(), make_mask(shift=0.01), make_mask(shift=0.06))
    boxes = flip_picture(
        image,
        reference_boxes=box,
        teacher_boxes=np.array([[202, 92, 254, 148, 0.8, 0]]),
        student_boxes=np.zeros((0, 6)),
    )
    by_task = {"findings": flip_picture(image, reference_boxes=box), "lungs": masks, "lesions": boxes}
    return [
        Picture(flip=flip, png=by_task[flip.task], caption="Site B, portable, AP.")
        for flip in flips_to_draw(evidence.flips, 6)
    ]


def make_speeds() -> list[Speed]:
    return [
        Speed(
            artefact="teacher",
            engine="torch",
            size_bytes=112_400_000,
            latency_ms=381.0,
            p95_ms=402.0,
            ratio=1.0,
            note="float32, eager",
        ),
        Speed(
            artefact="model.onnx",
            engine="onnxruntime",
            size_bytes=1_830_000,
            latency_ms=5.21,
            p95_ms=6.04,
            ratio=73.1,
            note="int8",
        ),
        Speed(
            artefact="openvino.xml + .bin",
            engine="openvino",
            size_bytes=1_910_000,
            latency_ms=4.48,
            p95_ms=4.97,
            ratio=85.0,
            note="int8",
        ),
    ]


def make_forms() -> list[Variant]:
    slow = Timing(ms=9.1, source="measured")
    return [
        Variant(
            name="onnxruntime int8",
            engine="onnxruntime",
            arithmetic="int8",
            quantiser="portable",
            timing=slow,
            slack=0.9,
            why="1.8 times slower than onnxruntime float32: no VNNI",
        ),
        Variant(
            name="onnxruntime float32",
            engine="onnxruntime",
            arithmetic="float32",
            quantiser="none",
            timing=Timing(ms=5.0, source="predicted"),
            chosen=True,
            why="the fastest",
        ),
    ]


def full_report(evidence: Evidence | None = None) -> str:
    evidence = evidence or make_evidence()
    return render_report(
        evidence,
        make_manifest(),
        pictures=make_pictures(evidence),
        speeds=make_speeds(),
        machine="2 cores, AVX512-VNNI",
        forms=make_forms(),
    )


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page; complains about tags that do not close."""

    VOID = frozenset({"meta", "br", "img", "col", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.folded: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.extend((tag, name, value or "") for name, value in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.folded if "details" in self.open else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def report() -> str:
    return full_report()


def test_the_page_is_balanced_and_starts_as_html(report: str) -> None:
    page = Page(report)

    assert report.startswith("<!DOCTYPE html>\n<html lang=")
    assert page.open == []


def test_the_page_loads_nothing_from_outside(report: str) -> None:
    page = Page(report)
    loading = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"}
    targets = [value for _, name, value in page.attributes if name in loading]

    assert targets
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in targets)
    assert not re.search(r"https?:|@import|url\(|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", report))
    assert not {tag for tag, _, _ in page.attributes} & {"link", "iframe", "object", "embed"}


def test_the_page_forbids_loading_and_has_no_script(report: str) -> None:
    page = Page(report)
    policy = next(value for tag, name, value in page.attributes if (tag, name) == ("meta", "content"))

    assert "default-src 'none'" in policy
    assert "<script" not in report
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_links_within_the_page_have_a_target(report: str) -> None:
    page = Page(report)
    names = {value for _, name, value in page.attributes if name == "id"}

    assert {value[1:] for _, name, value in page.attributes if name == "href"} <= names
    assert len(names) == len([1 for _, name, _ in page.attributes if name == "id"])


def test_equal_inputs_give_equal_bytes_in_another_process() -> None:
    code = (
        "import hashlib, importlib.util as u, sys; s = u.spec_from_file_location('maker', sys.argv[1]);"
        "m = u.module_from_spec(s); s.loader.exec_module(m);"
        "print(hashlib.sha256(m.full_report().encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, __file__],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(digests) == 1


def test_names_from_outside_are_text_and_never_markup() -> None:
    evil = "<script>alert(1)</script><img src=//evil>\"'{{ 7 * 7 }}"
    endpoint = msgspec.structs.replace(
        make_endpoint("onnxruntime", NUMBERS[1]), label=evil, reason=evil, method=evil, task=evil
    )
    base = make_evidence()
    flip = msgspec.structs.replace(base.flips[0], case=evil, patient=evil, label=evil, reference=evil, task=evil)
    curve = msgspec.structs.replace(base.curves[0], task=evil, label=evil)
    group = Subgroup(engine="onnxruntime", task=evil, attribute=evil, value=evil, cases=3, difference=0.01)
    evidence = msgspec.structs.replace(
        base, endpoints=(endpoint,), flips=(flip,), curves=(curve,), subgroups=(group,), notes=(evil,), split=evil,
        bundle_digest='"; } body { display: none } @import "x',
        flip_counts={f"onnxruntime/{evil.replace('/', '')}/l/lost": 1},
    )  # fmt: skip
    manifest = msgspec.structs.replace(make_manifest(), name=evil, device=evil)

    text = render_report(
        evidence, manifest, pictures=[Picture(flip=flip, png=flip_picture(make_chest()), caption=evil)], machine=evil
    )

    style = text[text.index("<style>") : text.index("</style>")]
    assert "<script" not in text
    assert "<img src=//" not in text
    assert "@import" not in style
    assert "{{ 7 * 7 }}" in Page(text).text
    assert "alert(1)" in Page(text).text


@pytest.mark.parametrize(
    ("rows", "verdict", "words"),
    [
        (NUMBERS[:1], "pass", "Passed: on every primary endpoint"),
        (NUMBERS, "underpowered", "Undecided: nothing failed, but 4 of 20"),
        ([*NUMBERS, ("view", "", "accuracy", True, 0.9, -0.2, 0.05)], "fail", "Failed: the compressed model is worse"),
    ],
)  # fmt: skip
def test_the_banner_says_the_verdict_in_one_sentence(
    rows: list[tuple[str, str, str, bool, float, float, float]], verdict: str, words: str
) -> None:
    evidence = make_evidence(rows)

    text = Page(render_report(evidence, make_manifest())).text

    assert evidence.verdict == verdict
    assert words in text
    assert ("This is not a pass." in text) == (verdict == "underpowered")


def test_primary_rows_are_in_sight_and_labels_are_folded(report: str) -> None:
    page = Page(report)

    assert "Mean sensitivity" in page.text
    assert "mAP at IoU 0.5" in page.text
    assert "cardiomegaly" not in page.text.split("Task by task")[0].split("Flips:")[0]
    assert any("cardiomegaly" in words for words in page.folded)


def test_every_section_is_there(report: str) -> None:
    names = {value for tag, name, value in Page(report).attributes if (tag, name) == ("section", "id")}

    assert names == {
        "endpoints", "protocol", "notes", "forgotten", "flips", "tasks", "artefacts", "forms", "engines", "calibration",
        "provenance", "reading",
    }  # fmt: skip


def test_every_form_says_why_it_ships_or_does_not(report: str) -> None:
    said = Page(report).text

    assert "1.8 times slower than onnxruntime float32: no VNNI" in said
    assert "about 5.00" in said
    assert "<b>onnxruntime float32</b>" in report
    assert "<b>onnxruntime int8</b>" not in report


def test_a_student_is_shown_layer_by_layer_where_that_is_known(report: str) -> None:
    layer = Layer(
        node="conv_2", operator="Conv", module="backbone.stem", part="backbone stem", weighted=True, parameters=320,
        macs=1000, arithmetic="float32", kept_float="asked <for>", sqnr_db=21.5,
    )  # fmt: skip
    part = Part(
        name="backbone stem", kind="backbone", layers=1, float_layers=1, parameters=320, macs=1000, least_db=21.5
    )
    layers = Explained(
        name="n", step="quantize", backbone="b", input=(8, 8, 1), tasks=("sex",), quantised=True, layers=(layer,),
        parts=(part,),
    )  # fmt: skip

    page = render_report(make_evidence(), make_manifest(), layers=layers)

    assert Page(page).open == []
    assert 'href="#layers"' in page
    assert 'id="layers"' in page
    assert "Asked &lt;for&gt;." in page
    assert 'id="layers"' not in report


def test_a_proof_without_anything_still_gives_a_page() -> None:
    bare = msgspec.structs.replace(
        make_evidence(),
        endpoints=(),
        subgroups=(),
        flips=(),
        flip_counts={},
        curves=(),
        notes=(),
        verdict="underpowered",
    )

    text = Page(render_report(bare, make_manifest())).text

    assert "the proof has no primary endpoint" in text
    assert "decided alike in every case" in text


def test_an_endpoint_without_an_estimate_says_so() -> None:
    nothing = msgspec.structs.replace(
        make_endpoint("onnxruntime", NUMBERS[0]),
        teacher=None, student=None, difference=None, low=None, high=None, verdict="underpowered", needed_cases=None,
        reason="only one class among the cases",
    )  # fmt: skip
    evidence = msgspec.structs.replace(make_evidence(), endpoints=(nothing,), verdict="underpowered")

    text = Page(render_report(evidence, make_manifest())).text

    assert "no estimate" in text
    assert "Only one class among the cases." in text


def test_few_calibration_images_are_pointed_out() -> None:
    manifest = make_manifest()
    usual = msgspec.structs.replace(manifest.calibration, min_images=128, images=200)

    assert "from 128 to 64" in Page(render_report(make_evidence(), manifest)).text
    enough = render_report(make_evidence(), msgspec.structs.replace(manifest, calibration=usual))
    assert "lowered the least number" not in Page(enough).text


def test_a_label_with_a_stroke_keeps_its_name_in_the_table_of_flips(report: str) -> None:
    assert "AP/PA" in Page(report).text


def test_the_answers_in_a_flip_are_named_by_their_task() -> None:
    grade = Task(name="grade", kind="ordinal", classes=("none", "mild", "severe"))

    assert (wording.answer(2.0, grade), wording.answer_name(grade)) == ("severe", "grade")
    assert wording.answer(-1.0, grade) == "no answer"
    assert (wording.answer(0.5, TASKS[0]), wording.answer_name(TASKS[0])) == ("0.500", "probability")
    assert (wording.answer(61.25, TASKS[3]), wording.answer_name(TASKS[3])) == ("61.2", "years")


def test_latencies_come_with_their_warning_or_not_at_all(report: str) -> None:
    warning = "Latency belongs to the machine on which it was measured"

    assert warning in Page(report).text
    assert warning not in Page(render_report(make_evidence(), make_manifest())).text


def test_the_forest_plot_puts_every_margin_in_the_same_place() -> None:
    scale = figures.Scale(-2.0, 2.0)
    rows = [make_endpoint("onnxruntime", row) for row in NUMBERS]

    drawn = [ElementTree.fromstring(figures.forest_row(row, scale)) for row in rows]

    lines = [[e.get("x1") for e in svg.iter("line") if e.get("class") == "margin"] for svg in drawn]
    assert lines == [["25%"]] * len(rows) or lines == [["25.00%"]] * len(rows)


def test_an_interval_is_drawn_where_its_numbers_are() -> None:
    endpoint = msgspec.structs.replace(
        make_endpoint("onnxruntime", NUMBERS[0]), difference=-0.01, low=-0.02, high=0.01, margin=0.02
    )

    svg = ElementTree.fromstring(figures.forest_row(endpoint, figures.Scale(-2.0, 2.0)))

    bar = next(e for e in svg.iter("line") if e.get("class") == "interval")
    mark = next(e for e in svg.iter("svg") if e.find("g[@class='mark']") is not None)
    assert (bar.get("x1"), bar.get("x2"), mark.get("x")) == ("25.00%", "62.50%", "37.50%")


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    endpoint = make_endpoint("onnxruntime", NUMBERS[-1])

    inside = figures.forest_row(endpoint, figures.Scale(-10.0, 10.0))
    beyond = figures.forest_row(endpoint, figures.Scale(-2.0, 2.0))

    assert "M8-5L1 0L8 5" not in inside
    assert beyond.count("M8-5L1 0L8 5") == 2


@pytest.mark.parametrize(("difference", "place", "inwards"), [(0.1, "100.00%", -16), (-0.1, "0.00%", 16)])
def test_a_difference_beyond_the_axis_keeps_its_whole_mark_beside_one_arrow(
    difference: float, place: str, inwards: int
) -> None:
    endpoint = msgspec.structs.replace(
        make_endpoint("onnxruntime", NUMBERS[0]),
        difference=difference, low=difference - 0.01, high=difference + 0.01, margin=0.02,
    )  # fmt: skip

    svg = ElementTree.fromstring(figures.forest_row(endpoint, figures.Scale(-2.0, 2.0)))

    (mark,) = (e for e in svg.iter("svg") if e.find("g[@class='mark']") is not None)
    group = mark.find("g[@class='mark']")
    assert group is not None
    assert (mark.get("x"), group.get("transform")) == (place, f"translate({inwards})")
    assert [e.get("d") for e in svg.iter("path") if e.get("class") == "cap"] == ["M8-5L1 0L8 5"]


def test_verdicts_and_series_differ_in_shape_and_not_only_in_colour() -> None:
    series = ("teacher", *ENGINES)
    curves = [curve for curve in make_curves("findings", "nodule") if curve.kind == "calibration"]
    drawn = ElementTree.fromstring(figures.calibration_figure(curves, series))
    shapes = {(e.tag, e.get("class")) for e in drawn.iter() if (e.get("class") or "").startswith("mark")}

    assert len(set(figures.MARKS.values())) == 3
    assert shapes == {("circle", "mark s0"), ("circle", "mark s1"), ("rect", "mark s2")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_enough_in_light_and_dark(report: str, scheme: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", report, re.DOTALL)
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", blocks[0 if scheme == "light" else 1]))
    pairs = [(text, "paper") for text in ("ink", "soft", "pass", "fail", "open", "s1")]
    pairs += [("soft", "panel"), ("ink", "pass-ground"), ("ink", "fail-ground"), ("ink", "open-ground")]

    # WCAG 2.2, success criterion 1.4.3
    assert not [pair for pair in pairs if contrast(colours[pair[0]], colours[pair[1]]) < 4.5]


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_rounding_never_hides_on_which_side_of_the_margin_a_bound_lies() -> None:
    endpoint = msgspec.structs.replace(make_endpoint("onnxruntime", NUMBERS[0]), low=-0.03004, margin=0.03)

    count = wording.bound_digits(endpoint)

    assert wording.number(endpoint.low, count) != wording.number(-endpoint.margin, count)
    assert wording.number(endpoint.low, 3) == wording.number(-endpoint.margin, 3)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (wording.number(-0.0001), "0.000"),
        (wording.number(-0.012), "−0.012"),
        (wording.number(None), "–"),
        (wording.signed(0.012), "+0.012"),
        (wording.signed(0.0001), "0.000"),
        (wording.size(999), "999 B"),
        (wording.size(1_830_000), "1.83 MB"),
        (wording.size(999_900), "1 MB"),
        (wording.speed_up(73.06), "73×"),
        (wording.milliseconds(381.4), "381 ms"),
        (wording.confidence(0.025), "95"),
        (wording.listed(("a", "b", "c")), "a, b and c"),
        (wording.sentence("only one class"), "Only one class."),
    ],
)
def test_numbers_are_written_as_people_read_them(text: str, wanted: str) -> None:
    assert text == wanted


def printed(evidence: Evidence, speeds: list[Speed], width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(summary_table(evidence, speeds))
    return stream.getvalue()


def test_the_terminal_table_fits_a_hundred_columns_and_needs_no_colour() -> None:
    rows = [*NUMBERS, ("a_task_with_a_long_name", "a label of length", "sensitivity", True, 0.9, -0.2, 0.05)]

    text = printed(make_evidence(rows), make_speeds())

    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert text.isascii()
    assert "…" not in text
    for word in (
        "pass",
        "FAIL",
        "underpowered",
        "73x",
        "1.83 MB",
        "5.21 ms",
        "-0.063 <= -0.050",
        "needs about 1 840 cases",
    ):
        assert word in text


def test_the_terminal_table_has_every_primary_endpoint_with_its_engines_together() -> None:
    evidence = make_evidence()

    lines = [line.split() for line in printed(evidence, []).splitlines()]

    rows = [line for line in lines if set(line) & set(ENGINES)]
    assert len(rows) == sum(endpoint.primary for endpoint in evidence.endpoints)
    assert [next(engine for engine in ENGINES if engine in row) for row in rows] == list(ENGINES) * (len(rows) // 2)


def test_square_brackets_in_a_name_are_not_markup_on_the_terminal() -> None:
    rows = [("findings", "[red]x[/red]", "auc", True, 0.9, 0.0, 0.01)]

    assert "[red]x[/red]" in re.sub(r"\s+", "", printed(make_evidence(rows), []))


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def test_a_picture_without_answers_shows_the_image_once() -> None:
    picture = opened(flip_picture(make_chest()))

    assert picture.mode == "RGB"
    assert picture.width == picture.height < WIDTH


def test_a_picture_has_the_teacher_on_the_left_and_the_student_on_the_right() -> None:
    png = flip_picture(make_chest(), make_mask(), make_mask(), make_mask(shift=0.05))
    pixels = np.asarray(opened(png)).astype(int)
    warm = pixels[..., 0] - pixels[..., 2] > 60
    cold = pixels[..., 2] - pixels[..., 0] > 60

    assert pixels.shape[1] == WIDTH
    assert warm[:, : WIDTH // 2].any()
    assert not warm[:, WIDTH // 2 :].any()
    assert cold[:, WIDTH // 2 :].any()
    assert not cold[:, : WIDTH // 2].any()


def test_a_picture_is_the_same_twice_holds_no_metadata_and_leaves_its_inputs() -> None:
    image, mask = make_chest(), make_mask()
    before = image.copy()

    pngs = {flip_picture(image, mask, mask, ~mask) for _ in range(2)}

    assert len(pngs) == 1
    assert opened(pngs.pop()).info == {}
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "most"),
    [
        (np.zeros((64, 64), np.uint8), 300),
        (np.full((64, 64, 3), 200, np.uint8), 300),
        (np.zeros((1000, 50), np.uint16), 400),
        (np.zeros((50, 1000), np.uint16), 100),
        (np.zeros((1, 1), np.uint8), 300),
    ],
    ids=["grey", "colour", "tall", "wide", "one pixel"],
)
def test_any_image_becomes_a_picture_of_bounded_size(image: np.ndarray, most: int) -> None:
    box = np.array([[0, 0, 5000, 5000]])

    picture = opened(flip_picture(image, reference_boxes=box, teacher_boxes=box, student_boxes=np.zeros((0, 6))))

    assert picture.width == WIDTH
    assert picture.height <= most


def test_fine_structures_show_what_was_missed() -> None:
    vessel = np.zeros((254, 254), bool)
    vessel[100, 20:200] = True
    seen = vessel.copy()
    seen[:, 110:] = False

    pixels = np.asarray(opened(flip_picture(np.zeros((254, 254), np.uint8), vessel, seen, vessel)))

    missed = (pixels[:, : WIDTH // 2 - 2].min(axis=2) > 200).sum()
    assert missed == 90


def test_each_case_is_drawn_once_and_the_worst_first() -> None:
    flips = list(make_evidence().flips)

    chosen = flips_to_draw([flips[0], flips[0], *flips[1:]], 3)

    assert chosen == flips[:3]
