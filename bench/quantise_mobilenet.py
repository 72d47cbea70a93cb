"""What 8 bits cost a MobileNetV3-class student: NNCF with fast and with full bias correction, and the portable graph.

    foveola run demo --set steps.student.backbone=mobilenetv3_large_100
    python bench/quantise_mobilenet.py demo:student --set steps.student.backbone=mobilenetv3_large_100 --json out.json

The student is a finished step. All forms are calibrated on the same images and asked about the same cases of the test
split; the loss is that of the float graph's score less theirs, in points: AUC, Dice, mAP50, skill (1 - error /
constant's error), each times 100. Intervals are the 2.5th and 97.5th percentile of a paired bootstrap over cases.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from foveola.export.nncf_int8 import nncf_default, nncf_int8
from foveola.export.openvino_ir import write_ir
from foveola.runtime.engine import open_session
from foveola.runtime.manifest import OpenVinoOptions
from foveola.toolkit.answers import RawAnswers
from foveola.toolkit.compress.quantise import FLOAT_GRAPH, INT8_GRAPH, quantise_student
from foveola.toolkit.data.arrays import Arrays, prepare_arrays
from foveola.toolkit.data.dataset import Dataset, calibration_set
from foveola.toolkit.models.network import Network, load_network
from foveola.toolkit.progress import SilentProgress
from foveola.toolkit.score import score_answers
from foveola.toolkit.stages.data import dataset_of
from foveola.toolkit.variants.adhoc import adhoc_work
from foveola.toolkit.variants.slack import SCALES, Run, ask, slacks

FLOAT = "float32"
BEST = {"method": "auto", "equalise": "auto", "rounding": "auto", "bias_correction": "auto"}


class Loss(msgspec.Struct, kw_only=True):
    """One task of one form."""

    task: str
    points: float  # lost; negative where something was gained
    low: float
    high: float
    slack: float  # of the margin towards the float graph


class Row(msgspec.Struct, kw_only=True):
    """One form."""

    form: str
    seconds: float  # that making it took
    size_mb: float
    losses: tuple[Loss, ...]


def main() -> None:
    """Make all forms, ask them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", help="RECIPE:STEP of the student, or its folder with --of")
    parser.add_argument("--of", help="recipe that has the data, where STEP is a folder")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="change a value of the recipe")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("quantise-mobilenet"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--cases", type=int, default=0, help="ask about so many cases at most; 0: all")
    parser.add_argument("--images", type=int, default=256, help="that calibrate")
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--mixed", type=float, help="a further form: least slack of mixed precision")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = adhoc_work(
        options.step, options.of, options.runs, tuple(options.changes), None, options.out, SilentProgress()
    )
    dataset, student = dataset_of(work), work.inputs["of"]
    network = load_network(student)
    cases = dataset.subset(options.split)
    if options.cases and options.cases < len(cases):
        cases = cases.take(np.linspace(0, len(cases) - 1, options.cases).round().astype(int))
    arrays = prepare_arrays(cases, network.input, cache=work.cache)
    options.out.mkdir(parents=True, exist_ok=True)
    made = make_forms(student, network, dataset, options.out, work.cache, options.images, options.mixed)
    answers = {}
    for name, (folder, _) in made.items():
        say(f"asking {name} about {len(arrays)} cases")
        answers[name] = ask(opened(folder), network, arrays.images)
    lost = losses(network, answers, arrays, options.resamples)
    rows = [
        Row(
            form=name,
            seconds=seconds,
            size_mb=sum(file.stat().st_size for file in graph_files(folder)) / 1e6,
            losses=tuple(lost[name]),
        )
        for name, (folder, seconds) in made.items()
    ]
    report(network, answers[FLOAT], arrays, rows)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")


def make_forms(
    student: Path, network: Network, dataset: Dataset, out: Path, cache: Path, images: int, mixed: float | None
) -> dict[str, tuple[Path, float]]:
    """Folder of each form's graph, and the seconds that it took."""
    chosen = calibration_set(dataset, "calibration", images, 1)
    pictures = prepare_arrays(chosen, network.input, cache=cache).images
    inputs = [np.array(pictures[i : i + 1]) for i in range(len(pictures))]

    def ours(**knobs: object) -> Callable[[Path], None]:
        settings: dict[str, object] = {"method": "minmax"} | knobs
        return lambda folder: void(
            quantise_student(
                student, dataset, split="calibration", images=images, min_images=1, opset=20, weight_bits=8,
                folder=folder, cache=cache, progress=lambda done, total, text: None, log=say,
                **settings,  # type: ignore[arg-type]
            )
        )  # fmt: skip

    def plain(folder: Path) -> None:
        (folder / "model.onnx").write_bytes((out / "ours-minmax" / FLOAT_GRAPH).read_bytes())

    source = out / "ours-minmax" / FLOAT_GRAPH
    makers: dict[str, Callable[[Path], None]] = {
        "ours, minmax": ours(),
        FLOAT: plain,
        "NNCF, fast bias correction": lambda folder: nncf_default(source, folder / "openvino.xml", inputs),
        "NNCF, full bias correction": lambda folder: void(nncf_int8(source, folder / "openvino.xml", inputs)),
        "ours, bias correction": ours(bias_correction="on"),
        "ours, adaround": ours(rounding="adaround"),
        "ours, what pays": ours(**BEST),
    }
    if mixed is not None:
        makers["ours, what pays, mixed"] = ours(**BEST, least_slack=mixed)
    made = {}
    for name, maker in makers.items():
        folder = out / name.replace(", ", "-").replace(" ", "-")
        folder.mkdir(exist_ok=True)
        say(f"making {name}")
        begin = time.perf_counter()
        maker(folder)
        made[name] = (folder, time.perf_counter() - begin)
    return {FLOAT: made.pop(FLOAT), **made}


def void(_: object) -> None:
    """Nothing."""


def graph_files(folder: Path) -> list[Path]:
    """What an engine reads."""
    files = [folder / "openvino.xml", folder / "openvino.bin"]
    return files if files[0].exists() else [folder / INT8_GRAPH]


def opened(folder: Path) -> Run:
    """A form in OpenVINO, which runs all of them: what differs is then the form and not the engine."""
    if not (folder / "openvino.xml").exists():
        (folder / "ir").mkdir(exist_ok=True)
        write_ir(folder / INT8_GRAPH, folder / "ir" / "openvino.xml")
        folder = folder / "ir"
    members = {name: (folder / name).read_bytes() for name in ("openvino.xml", "openvino.bin")}
    return open_session(OpenVinoOptions(), members).run


def losses(network: Network, answers: dict[str, RawAnswers], arrays: Arrays, resamples: int) -> dict[str, list[Loss]]:
    """Points lost by form and task, with intervals over cases; the same cases are drawn for all forms."""
    drop = points_lost(network, answers, arrays)
    random = np.random.default_rng(0)
    drawn = []
    for turn in range(resamples):
        places = random.integers(0, len(arrays), len(arrays))
        some = {name: one.take(places.tolist()) for name, one in answers.items()}
        drawn.append(points_lost(network, some, taken(arrays, places)))
        if (turn + 1) % 10 == 0:
            say(f"resample {turn + 1} of {resamples}")
    found: dict[str, list[Loss]] = {}
    for form, tasks in drop.items():
        slack = slacks(network, answers[FLOAT], answers[form], arrays)
        for name, points in tasks.items():
            many = [one[form][name] for one in drawn] or [points]
            low, high = np.percentile(many, [2.5, 97.5])
            one = Loss(task=name, points=points, low=float(low), high=float(high), slack=slack.get(name, 1.0))
            found.setdefault(form, []).append(one)
    return found


def points_lost(network: Network, answers: dict[str, RawAnswers], arrays: Arrays) -> dict[str, dict[str, float]]:
    """Score of the float graph less that of each form, in points of the metric."""
    kinds = {task.name: SCALES.get(task.kind, 1.0) for task in network.tasks}
    by_form = {
        form: score_answers(network.tasks, one, arrays, network.target_scale).by_task for form, one in answers.items()
    }
    before = by_form[FLOAT]
    return {
        form: {name: 100 * (before[name] - after[name]) / kinds[name] for name in before if name in after}
        for form, after in by_form.items()
    }


def taken(arrays: Arrays, places: NDArray[np.int64]) -> Arrays:
    """Some cases, without their pictures."""
    return Arrays(
        images=arrays.images[:0],
        scalars={name: values[places] for name, values in arrays.scalars.items()},
        masks={name: values[places] for name, values in arrays.masks.items()},
        boxes={name: tuple(many[i] for i in places) for name, many in arrays.boxes.items()},
        geometries=tuple(arrays.geometries[i] for i in places),
        samples=tuple(arrays.samples[i] for i in places),
    )


def report(network: Network, plain: RawAnswers, arrays: Arrays, rows: list[Row]) -> None:
    """Print one Markdown table."""
    scores = score_answers(network.tasks, plain, arrays, network.target_scale).by_task
    names = [loss.task for loss in rows[0].losses]
    told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    print(f"Float scores on {len(arrays)} cases (class tasks: twice the AUC less one): {told}\n")
    print(f"| points lost | MB | made in | {' | '.join(names)} | least slack |")
    print("|---" * (len(names) + 4) + "|")
    for row in rows:
        cells = [f"{one.points:+.2f} ({one.low:+.2f} to {one.high:+.2f})" for one in row.losses]
        least = min((one.slack for one in row.losses), default=1.0)
        print(f"| {row.form} | {row.size_mb:.2f} | {row.seconds:.0f} s | {' | '.join(cells)} | {least:.2f} |")


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
