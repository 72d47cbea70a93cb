"""Laws of the report of a whole proof: simulated answers through `prove`, so that every section has something."""

from __future__ import annotations

import functools
import html
import importlib.util
import re
import sys
from types import ModuleType
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    TaskOutput,
)
from foveola.runtime.manifest import Provenance as Origin
from foveola.runtime.task import Task
from foveola.toolkit.parity.cases import Answers, Cases, References
from foveola.toolkit.parity.evidence import (
    Agreement,
    Change,
    Curve,
    Drift,
    Flip,
    Provenance,
    Subgroup,
    Transfer,
    decode_evidence,
    encode_evidence,
)
from foveola.toolkit.parity.protocol import CaseRules, Protocol, usual_protocol
from foveola.toolkit.parity.prove import Beside, Proof, prove
from foveola.toolkit.report import figures, wording
from foveola.toolkit.report.forget import group_tables, label_tables
from foveola.toolkit.report.pictures import flip_picture
from foveola.toolkit.report.render import Picture, flips_to_draw, render_report

Array = NDArray[np.float64]

LABELS = (
    "infiltration", "effusion", "atelectasis", "nodule", "mass", "pneumothorax", "consolidation", "thickening",
    "cardiomegaly", "emphysema", "oedema", "fibrosis", "pneumonia", "hernia",
)  # fmt: skip
SHARES = np.geomspace(0.25, 0.012, len(LABELS))  # of positives
TASKS = (
    Task(name="findings", kind="multilabel", classes=LABELS, critical=("pneumothorax",)),
    Task(name="view", kind="multiclass", classes=("PA", "AP", "LAT")),
    Task(name="quality", kind="ordinal", classes=("bad", "fair", "good")),
    Task(name="age", kind="regression", classes=("age",), unit="years"),
    Task(name="lungs", kind="segmentation", classes=("right_lung", "left_lung")),
    Task(name="lesions", kind="detection", classes=("nodule", "mass")),
)
ENGINES = ("onnxruntime", "openvino")
COUNT, PATIENTS = 900, 500
AGREEMENTS: tuple[tuple[str, str, Literal["decisions", "dice", "value", "boxes"]], ...] = (
    ("findings", "effusion", "decisions"),
    ("lungs", "left_lung", "dice"),
    ("age", "", "value"),
    ("lesions", "nodule", "boxes"),
)
AGREED = tuple(
    Agreement(
        engine=engine, task=task, label=label, measure=measure, cases=COUNT, patients=PATIENTS, agreement=0.9871,
        low=0.9812, flips=12,
    )
    for engine in ENGINES
    for task, label, measure in AGREEMENTS
)  # fmt: skip
BESIDE = Beside(
    transfers=tuple(
        Transfer(
            engine=engine, task="findings", label=label, fitted_on="validation", locked=0.31, refitted=0.27 + 0.01 * k,
            sensitivity=(0.801, 0.822), specificity=(0.79, 0.77),
        )
        for engine in ENGINES
        for k, label in enumerate(LABELS[:3])
    ),
    drifts=(
        Drift(engine="", what="input/brightness", cases=COUNT, reference_cases=2400, psi=0.031, ks=0.06, flagged=False),
        Drift(
            engine="onnxruntime", what="score/findings/effusion", cases=COUNT, reference_cases=2400, psi=0.41, ks=0.22,
            flagged=True,
        ),
    ),
    changes=(
        Change(what="architecture", teacher="DenseNet-121, 7.0 million weights", student="MobileNetV3, 1.5 million"),
        Change(what="precision", teacher="float32", student="int8 weights and activations"),
    ),
    provenance=Provenance(
        versions={"foveola": "0.1.0", "onnxruntime": "1.23.0"},
        hardware={"processor": "x86-64, AVX512-VNNI", "threads": "2"},
        arithmetic={"onnxruntime": "int8 kernels (QLinearConv), float32 elsewhere"},
    ),
    notes=("made for a test",),
)  # fmt: skip


def simulated_cases(rng: np.random.Generator) -> Cases:
    patients = np.sort(rng.integers(0, PATIENTS, COUNT))
    return Cases(
        keys=tuple(f"images/{n:05d}.png" for n in range(COUNT)),
        patients=tuple(f"P{n:04d}" for n in patients),
        attributes={
            "sex": tuple(np.array(["F", "M"])[patients % 2]),
            "age": tuple(str(20 + n * 7 % 75) for n in patients),
            "site": tuple(rng.choice(["north", "south", "mobile unit"], COUNT, p=[0.6, 0.39, 0.01])),
            "exposure": tuple(f"{value:.2f}" for value in rng.gamma(4.0, 0.5, COUNT)),
            "name": tuple(f"n{n}" for n in range(COUNT)),
        },
    )


def one_hot(index: Array, width: int, sure: Array) -> Array:
    scores = np.repeat(((1 - sure) / (width - 1))[:, None], width, axis=1)
    scores[np.arange(len(index)), index.astype(int)] = sure
    return scores


def simulated_boxes(rng: np.random.Generator) -> tuple[list[Array], list[Array], list[Array]]:
    """Reference, teacher's and student's boxes; the student misses some."""
    truths, teacher, student = [], [], []
    for n in range(COUNT):
        count = int(rng.integers(0, 3)) if n % 2 else 0
        corner = rng.integers(20, 180, (count, 2)).astype(np.float64)
        label = rng.integers(0, 2, (count, 1)).astype(np.float64)
        box = np.concatenate([corner, corner + 50, label], axis=1)
        score = 0.35 + 0.6 * rng.random((count, 1))
        found = np.concatenate([box[:, :4] + rng.normal(0, 3, (count, 4)), score, label], axis=1)
        false = np.array([[5.0, 5.0, 40.0, 40.0, 0.5 * rng.random(), float(n % 2)]])
        truths.append(box)
        teacher.append(np.concatenate([found, false]) if n % 4 == 0 else found)
        moved = teacher[-1] + np.array([1.0, 1.0, 1.0, 1.0, 0.01, 0.0]) * rng.normal(0, 1, (len(teacher[-1]), 1))
        student.append(moved[: len(moved) - (n % 40 == 1)])
    return truths, teacher, student


def simulated_answers(rng: np.random.Generator, cases: Cases) -> tuple[References, Answers, dict[str, Answers]]:
    """References, teacher and students; the rarer a label, the worse the students know it, and men's oedema most."""
    truth = (rng.random((COUNT, len(LABELS))) < SHARES).astype(np.float64)
    truth[rng.random(truth.shape) < 0.01] = np.nan
    logits = -2.0 + 3.2 * np.nan_to_num(truth) + 1.1 * rng.standard_normal(truth.shape)
    view, quality = (rng.integers(0, 3, COUNT).astype(np.float64) for _ in range(2))
    men = np.array([value == "M" for value in cases.attributes["sex"]])
    years = np.array([float(value) for value in cases.attributes["age"]])
    dice = rng.beta(40, 2, (COUNT, 2))
    truths, boxes, moved = simulated_boxes(rng)
    decided = [np.where(rng.random(COUNT) < 0.06, (index + 1) % 3, index) for index in (view, quality)]
    sure = 0.5 + 0.5 * rng.random(COUNT)
    aged = years + rng.normal(0, 5, COUNT)

    def answers(loss: float, found: list[Array]) -> Answers:
        noise = loss * (0.05 / SHARES) ** 0.5 * rng.standard_normal(truth.shape)
        noise[men, 10] -= 3.0 * loss * np.nan_to_num(truth[men, 10]) * 4
        changed = [np.where(rng.random(COUNT) < loss / 40, (index + 1) % 3, index) for index in decided]
        return Answers(
            scores={
                "findings": 1 / (1 + np.exp(-(logits + noise))),
                "view": one_hot(changed[0], 3, sure),
                "quality": one_hot(changed[1], 3, sure),
                "age": (aged + loss * rng.standard_normal(COUNT))[:, None],
            },
            dice={"lungs": np.clip(dice - loss * 0.02 * (rng.random((COUNT, 2)) < 0.05), 0, 1)},
            boxes={"lesions": tuple(found)},
            thresholds={"findings": (0.3,) * len(LABELS), "lesions": (0.3, 0.3)},
        )

    students = {"onnxruntime": answers(0.3, moved), "openvino": answers(0.35, moved)}
    refused = students["openvino"].scores["findings"]
    refused[:3] = np.nan
    return (
        References(
            scores={"findings": truth, "view": view[:, None], "quality": quality[:, None], "age": years[:, None]},
            boxes={"lesions": tuple(truths)},
        ),
        answers(0.0, boxes),
        students,
    )


@functools.cache
def simulated() -> tuple[Proof, Protocol]:
    rng = np.random.default_rng(3)
    cases = simulated_cases(rng)
    references, teacher, students = simulated_answers(rng, cases)
    usual = usual_protocol(TASKS, "chest-xray")
    floors = {**usual.tasks["findings"].endpoints}
    floors["auc"] = msgspec.structs.replace(floors["auc"], margin=0.02, floor=0.8)
    findings = msgspec.structs.replace(usual.tasks["findings"], endpoints=floors)
    protocol = msgspec.structs.replace(
        usual,
        resamples=200,
        data=CaseRules(digest="c" * 64, subgroups=("sex", "age", "site", "exposure")),
        tasks={**usual.tasks, "findings": findings},
    )
    proof = prove(
        TASKS, cases, references, teacher, students, protocol=protocol, beside=BESIDE,
        bundle="chest-xray", bundle_digest="3f" * 32, teacher_digest="a1" * 32, data_digest="c" * 64, split="test",
    )  # fmt: skip
    evidence = msgspec.structs.replace(proof.evidence, agreements=AGREED)
    return msgspec.structs.replace(proof, evidence=evidence), protocol


def make_manifest() -> Manifest:
    thresholds = {"findings": (0.3,) * len(LABELS), "lesions": (0.3, 0.3)}
    return Manifest(
        format=FORMAT,
        name="chest-xray",
        version="1.0.0",
        device="intel-n100",
        input=InputSpec(height=384, width=384, channels=1, window="percentile"),
        outputs=tuple(TaskOutput(task=t, tensors=(t.name,), thresholds=thresholds.get(t.name, ())) for t in TASKS),
        engines=(OnnxRuntimeOptions(), OpenVinoOptions()),
        calibration=Calibration(method="percentile", images=200, min_images=128, images_digest="c3" * 32),
        provenance=Origin(
            recipe="chest-xray", recipe_digest="d4" * 32, data_digest="b2" * 32, teacher_digest="a1" * 32,
            student_digest="e5" * 32, seed=7, versions={"foveola": "0.1.0"},
        ),
    )  # fmt: skip


def make_pictures(flips: tuple[Flip, ...]) -> list[Picture]:
    y, x = np.mgrid[0:160, 0:160]
    image = (60 + 40 * np.sin(x / 9) + 0.5 * y).astype(np.uint8)
    mask = (x - 100) ** 2 + (y - 80) ** 2 < 900
    found: list[Picture] = []
    for flip in flips_to_draw(flips, 12):
        masks = (mask, mask, np.roll(mask, 9, axis=1)) if flip.task == "lungs" else ()
        found.append(Picture(flip=flip, png=flip_picture(image, *masks)))
    return found


@functools.cache
def whole_report() -> str:
    proof, protocol = simulated()
    pictures = make_pictures(proof.evidence.flips)
    return render_report(proof.evidence, make_manifest(), pictures=pictures, protocol=protocol)


def section(text: str, name: str) -> str:
    """The words of one section, without tags."""
    start = text.index(f'<section id="{name}">')
    inside = re.split(r'<section id="', text[start + 10 :])[0]
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", re.sub(r"base64,[A-Za-z0-9+/=]+", "", inside)).split()))


def section_names(text: str) -> set[str]:
    return set(re.findall(r'<section id="(\w+)">', text))


def with_evidence(**changes: Any) -> str:
    return render_report(msgspec.structs.replace(simulated()[0].evidence, **changes), make_manifest())


BESIDES: dict[str, dict[str, Any]] = {
    "points": {"transfers": ()},
    "probabilities": {"reliability": ()},
    "agreement": {"agreements": ()},
    "drift": {"drifts": ()},
    "gaps": {"policies": {}},
    "changes": {"changes": ()},
    "notes": {"notes": ()},
    "forgotten": {"subgroups": ()},
}


@pytest.mark.parametrize("name", BESIDES)
def test_a_section_is_there_when_there_is_something_and_only_then(name: str) -> None:
    assert name in section_names(whole_report())
    assert name not in section_names(with_evidence(**BESIDES[name]))
    assert f'href="#{name}"' not in with_evidence(**BESIDES[name])


def test_every_link_of_the_contents_has_its_section() -> None:
    text = whole_report()

    links = re.findall(r'href="#(\w+)"', text)

    assert set(links) == section_names(text)
    assert len(links) == len(set(links))


def test_the_whole_report_loads_nothing_and_holds_no_script() -> None:
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", whole_report())

    assert "<script" not in text
    assert not re.search(r"https?:|@import|url\(|<link|<iframe|\son\w+=", text)


def test_the_whole_report_is_the_same_when_everything_is_made_again() -> None:
    module = fresh_module()

    assert module.whole_report() == whole_report()


def fresh_module() -> ModuleType:
    """This file again, with caches of its own: everything is simulated and drawn a second time."""
    spec = importlib.util.spec_from_file_location("report_proof_again", __file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_what_was_fixed_before_is_said_with_who_fixed_it() -> None:
    proof, protocol = simulated()

    said = section(whole_report(), "protocol")

    assert protocol.digest in said
    assert "one-sided level 0.025" in said
    assert "planned power 80 %" in said
    assert "sex, age, site and exposure" in said
    assert "critical: pneumothorax" in said
    assert "findings Mean AUC yes 0.020 protocol 0.800" in said  # margin and floor of its own
    assert "Mean sensitivity yes 0.020 protocol, the usual one –" in said
    assert "Mean absolute error yes" in said
    assert "5 % of a constant's error" in said
    assert proof.evidence.protocol_digest == protocol.digest


def test_a_proof_is_not_shown_under_another_protocol() -> None:
    proof, protocol = simulated()
    other = msgspec.structs.replace(protocol, seed=99)

    with pytest.raises(FoveolaError, match="protocol: the proof was made under") as refused:
        render_report(proof.evidence, make_manifest(), protocol=other)

    assert other.digest[:12] in str(refused.value)


def test_without_the_protocol_itself_its_digest_and_margins_are_still_shown() -> None:
    said = section(with_evidence(), "protocol")

    assert simulated()[1].digest in said
    assert "set for this task" in said
    assert "critical: pneumothorax" not in said


def test_an_endpoint_shows_the_margin_it_could_prove_and_the_cases_it_needs() -> None:
    base = simulated()[0].evidence
    row = msgspec.structs.replace(
        next(e for e in base.endpoints if e.primary), verdict="underpowered", cases=900, provable_margin=0.0312
    )

    more = with_evidence(endpoints=(msgspec.structs.replace(row, needed_cases=4321),))
    enough = with_evidence(endpoints=(msgspec.structs.replace(row, needed_cases=400),))

    assert 'data-name="provable">0.031<' in more
    assert f'data-name="cases needed">{wording.thousands(4321)}<' in more
    assert 'data-name="cases needed">(400)<' in enough


def test_secondary_endpoints_are_folded_under_the_primary_ones() -> None:
    base = simulated()[0].evidence
    row = msgspec.structs.replace(base.endpoints[0], metric="brier", primary=False, label="")

    text = with_evidence(endpoints=(*base.endpoints, row))

    folded = text[text.index("Secondary endpoints") : text.index('<section id="protocol">')]
    assert "Mean Brier score" in folded
    assert text.rindex("<details>", 0, text.index("Secondary endpoints")) > text.index('<section id="endpoints">')


def test_the_rarest_label_stands_first() -> None:
    table = label_tables(simulated()[0].evidence)[0]

    counts = [int(row.count) for row in table.rows]

    assert counts == sorted(counts)
    assert len(counts) == len(LABELS)
    assert table.counted == "Positives"
    assert [engine for engine, _ in table.correlations] == list(ENGINES)


def test_harm_to_a_rare_label_and_to_a_group_is_flagged_and_small_groups_are_marked() -> None:
    tables = {table.task: table for table in group_tables(simulated()[0].evidence)}
    labels = label_tables(simulated()[0].evidence)[0]

    oedema = next(row for row in labels.rows if row.value == "oedema")
    men = next(row for row in tables["findings"].rows if row.value == "M")
    unit = next(row for row in tables["findings"].rows if row.value == "mobile unit")

    assert all(cell.flag for cell in (*oedema.cells, *men.cells))
    assert unit.few
    assert "name" not in {row.attribute for row in tables["findings"].rows}
    assert {row.value for row in tables["findings"].rows if row.attribute == "age"} == {
        "18-39",
        "40-64",
        "65-79",
        "80+",
    }


def test_the_wall_shows_lost_critical_findings_first_and_then_the_surest() -> None:
    flips = simulated()[0].evidence.flips

    chosen = flips_to_draw(flips, 12)

    critical = [flip.critical for flip in chosen]
    assert critical == sorted(critical, reverse=True)
    assert critical[0]
    sure = [flip.certainty for flip in chosen if not flip.critical and flip.certainty is not None]
    assert sure == sorted(sure, reverse=True)
    assert {"findings", "view", "quality", "lesions"} <= {flip.task for flip in chosen}
    assert len({flip.case for flip in chosen}) == 12


def test_the_pictures_say_how_sure_the_teacher_was() -> None:
    said = section(whole_report(), "forgotten")

    assert re.search(r"certainty of the teacher \d+ %", said)
    assert "critical pneumothorax" in said


def test_a_policy_that_nobody_explained_is_still_shown() -> None:
    said = section(with_evidence(policies={"something new": 7}), "gaps")

    assert "Something new. 7" in said


def test_without_a_reference_standard_only_agreement_is_described() -> None:
    text = with_evidence(
        endpoints=(), subgroups=(), curves=(), reliability=(), verdict="underpowered", policies={}, transfers=()
    )

    assert "without a reference standard nothing can be proved" in text
    assert "compared on onnxruntime and openvino" in text
    assert "0.9871" in section(text, "agreement")
    assert "tasks" not in section_names(text)


def test_names_from_outside_are_text_in_every_new_section() -> None:
    evil = "<script>alert(1)</script>{{ 7 * 7 }}"
    base = simulated()[0].evidence
    text = with_evidence(
        transfers=(msgspec.structs.replace(base.transfers[0], label=evil, fitted_on=evil, task=evil, engine=evil),),
        agreements=(msgspec.structs.replace(base.agreements[0], label=evil, task=evil, engine=evil),),
        drifts=(msgspec.structs.replace(base.drifts[1], what=evil, engine=evil),),
        changes=(Change(what=evil, teacher=evil, student=evil),),
        policies={evil: 1},
        reliability=(msgspec.structs.replace(base.reliability[0], label=evil, task=evil),),
        provenance=Provenance(versions={evil: evil}, hardware={evil: evil}, arithmetic={evil: evil}),
        subgroups=(
            Subgroup(
                engine=evil, task=evil, metric="auc", attribute=evil, value=evil, cases=30, difference=-0.1, margin=0.01
            ),
        ),
        protocol_digest=evil,
    )  # fmt: skip

    assert "<script" not in text
    assert "{{ 7 * 7 }}" in text


def test_evidence_of_the_first_format_is_refused_in_one_line() -> None:
    data = encode_evidence(simulated()[0].evidence)

    assert decode_evidence(data) == simulated()[0].evidence
    with pytest.raises(FoveolaError, match=r"evidence.json: format 1 is not read") as refused:
        decode_evidence(data.replace(b'"format": 2', b'"format": 1'))
    assert "\n" not in str(refused.value)


def test_a_froc_curve_is_drawn_on_a_logarithmic_axis_from_an_eighth_to_eight() -> None:
    curve = Curve(
        engine="teacher", task="lesions", label="mass", kind="froc", x=(0.0, 0.125, 1.0, 8.0, 20.0),
        y=(0.1, 0.2, 0.5, 0.9, 1.0),
    )  # fmt: skip

    path = re.search(r'<path d="(M[^"]*)" class="curve s0"', figures.froc_figure([curve], ("teacher",)))

    assert path is not None
    points = [tuple(map(float, point.split())) for point in path[1][1:].split("L")]
    assert [x for x, _ in points] == pytest.approx([36.0, 36.0, 136.0, 236.0])
    assert [y for _, y in points] == pytest.approx([188.0, 168.0, 108.0, 28.0])


def test_the_bootstrap_and_the_limits_of_agreement_stand_beside_the_judged_interval() -> None:
    said = section(whole_report(), "endpoints")

    row = next(e for e in simulated()[0].evidence.endpoints if e.metric == "auc" and not e.label)
    assert row.resampled is not None
    assert f"{row.resampled[0]:+.3f} to {row.resampled[1]:+.3f}".replace("-", "\N{MINUS SIGN}") in said
    assert "Limits of agreement (Bland and Altman)" in said
    assert "Bootstrap and limits of agreement" not in with_evidence(endpoints=())


def test_a_froc_curve_stands_with_its_task() -> None:
    text = whole_report()

    assert "FROC curves of teacher, onnxruntime" in text
    assert "False positives an image" in text
