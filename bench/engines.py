"""Every form of a student and of its teacher on both engines, in one run, beside what the machine can do.

    python bench/engines.py --of chest-xray --set data.root=PATH --runs runs --json engines.json

Of the finished steps `student` and `teacher` of a recipe, and of an untrained ResNet-50 with linear and DeepLabV3 heads
at 512 x 512 (its speed does not depend on its weights), each form is written by the code that ships: float32, portable
int8 and NNCF's int8, and NNCF with its default settings beside them. Told are the median latency (all forms of a
network in turn, round by round), the size, the peak memory of a fresh process, the largest difference to torch and the
decisions that flip in 1,000 on real validation images, the worst task's slack there, and the share of the machine's
peak that is reached: `bench/peaks.c` measures the peaks just before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from foveola.devices.profile import Memory, Profile, load_profile
from foveola.devices.roofline import LayerWork, peak_gops
from foveola.export.graph_facts import layer_work
from foveola.export.nncf_int8 import nncf_default, nncf_int8
from foveola.export.onnx_graph import export_onnx
from foveola.export.openvino_ir import write_ir
from foveola.export.quantize import quantize_onnx
from foveola.runtime.engine import Session, open_session
from foveola.runtime.manifest import EngineOptions, InputSpec, OnnxRuntimeOptions, OpenVinoOptions
from foveola.runtime.measure import latency
from foveola.runtime.task import Task
from foveola.toolkit.answers import answer_images
from foveola.toolkit.data.arrays import Arrays, prepare_arrays
from foveola.toolkit.data.dataset import Dataset, calibration_set
from foveola.toolkit.models.dense_teacher import as_graph
from foveola.toolkit.models.network import Architecture, Network, load_network
from foveola.toolkit.models.outputs import graph_outputs, task_outputs
from foveola.toolkit.progress import SilentProgress
from foveola.toolkit.score import lock_thresholds
from foveola.toolkit.speed import machine
from foveola.toolkit.stages.data import dataset_of
from foveola.toolkit.variants.adhoc import adhoc_work
from foveola.toolkit.variants.candidates import Candidate
from foveola.toolkit.variants.form import Form, judge_form, torch_raw
from foveola.toolkit.variants.slack import ask
from foveola.toolkit.variants.timing import measure

HERE = Path(__file__).parent
COMPARED = 32  # validation images for differences and flips
# Opens one form in a process of its own, answers a few times and tells its peak memory in MiB.
MEMORY = """
import sys, msgspec, numpy as np
from foveola.runtime.engine import open_session
from foveola.runtime.manifest import EngineOptions
from foveola.runtime.measure import peak_rss_mib
options = msgspec.json.decode(sys.argv[1], type=EngineOptions)
members = {name: open(f"{sys.argv[2]}/{name}", "rb").read() for name in options.files}
session = open_session(options, members)
for _ in range(5):
    session.run(np.zeros(session.input_shape, np.float32))
print(peak_rss_mib())
"""


class Row(msgspec.Struct, kw_only=True):
    """One form, measured."""

    network: str
    form: str
    ms: float
    p95_ms: float | None
    size_mb: float
    rss_mib: float | None = None
    difference: float | None = None
    flips: float | None = None
    slack: float | None = None
    worst_task: str = ""
    gmacs_per_s: float | None = None
    peak: float | None = None  # share of the machine's that is reached, per cent


class Subject(msgspec.Struct, eq=False):
    """One network with what is needed to judge its forms; without validation images only its speed is told."""

    name: str
    network: Network
    calibration: list[NDArray[np.float32]]
    val: Arrays | None = None


def main() -> None:
    """Measure the machine, then every form of every network; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", default="chest-xray", help="a recipe whose student and teacher are finished")
    parser.add_argument("--student", help="folder of the student's step; default: RECIPE:student")
    parser.add_argument("--teacher", help="folder of the teacher's step; default: RECIPE:teacher")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="change a value of the recipe")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = measured_device(options.threads)
    rows: list[Row] = []
    for subject in subjects(options):
        say(f"--- {subject.name}")
        rows += measure_subject(subject, device, options.threads, options.rounds)
    report(device, rows, options.threads, options.json)


def measured_device(threads: int) -> Profile:
    """A profile that says of this machine what was measured just now."""
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "peaks"
        subprocess.run(
            ["cc", "-O3", "-march=native", "-pthread", str(HERE / "peaks.c"), "-o", str(program)], check=True
        )
        found = json.loads(subprocess.run([program, str(threads)], check=True, capture_output=True).stdout)
    say(f"peaks: {found}")
    profile = load_profile("generic-x86")
    peaks = {"float32": found["float32_gops"], "int8": found["int8_gops"]}
    return msgspec.structs.replace(
        profile,
        cpu=msgspec.structs.replace(profile.cpu, peak_gops=peaks),
        memory=Memory(gib=profile.memory.gib, bandwidth_gb_s=found["bandwidth_gb_s"]),
    )


def subjects(options: argparse.Namespace) -> Iterator[Subject]:
    """Student, teacher, and an untrained ResNet-50, one after the other."""
    for role in ("student", "teacher"):
        step, origin = getattr(options, role) or f"{options.of}:{role}", options.of
        with tempfile.TemporaryDirectory() as scratch:
            work = adhoc_work(step, origin, options.runs, tuple(options.changes), None, Path(scratch), SilentProgress())
            dataset, network = dataset_of(work), load_network(work.inputs["of"])
            yield Subject(
                f"{role} ({network.architecture.backbone}, {network.input.width} x {network.input.height})",
                network,
                calibration_images(dataset, network, work.cache),
                prepare_arrays(dataset.subset("val"), network.input, cache=work.cache),
            )
    spec = InputSpec(height=512, width=512, channels=1, window="percentile")
    tasks = (
        Task(name="findings", kind="multilabel", classes=tuple(f"finding_{i}" for i in range(14))),
        Task(name="lungs", kind="segmentation", classes=("right_lung", "left_lung")),
    )
    plan = Architecture(role="teacher", backbone="resnet50", input=spec, tasks=tasks, output_stride=32)
    rng = np.random.default_rng(0)
    images = [rng.random((1, 1, 512, 512), dtype=np.float32) for _ in range(8)]
    yield Subject("untrained ResNet-50 (512 x 512)", Network(plan).eval(), images)


def calibration_images(dataset: Dataset, network: Network, cache: Path) -> list[NDArray[np.float32]]:
    """At most 128 images of the calibration split."""
    arrays = prepare_arrays(calibration_set(dataset, "calibration", 128, 16), network.input, cache=cache)
    return [np.array(arrays.images[i : i + 1]) for i in range(len(arrays))]


def measure_subject(subject: Subject, device: Profile, threads: int, rounds: int) -> list[Row]:
    """All forms of one network."""
    with tempfile.TemporaryDirectory() as scratch:
        forms = write_forms(subject, Path(scratch), threads)
        sessions: dict[str, Session] = {
            name: open_session(form.candidate.options, form.members) for name, form in forms.items()
        }
        sample = np.array(subject.val.images[:1]) if subject.val is not None else subject.calibration[0]
        times = measure(sessions, sample, rounds=rounds)
        graph, x = as_graph(subject.network), torch.from_numpy(sample)

        def eager() -> object:
            with torch.inference_mode():
                return graph(x)

        base = latency(eager, runs=10, warmup=2)
        weights = sum(one.numel() for one in subject.network.parameters()) * 4 / 1e6
        rows = [Row(network=subject.name, form="torch eager", ms=base.median_ms, p95_ms=base.p95_ms, size_mb=weights)]
        for name, form in forms.items():
            timed = times[name]
            assert timed.ms is not None
            macs = sum(layer.macs for layer in form.layers)
            rows.append(
                Row(
                    network=subject.name,
                    form=name,
                    ms=timed.ms,
                    p95_ms=timed.p95_ms,
                    size_mb=sum(map(len, form.members.values())) / 1e6,
                    rss_mib=memory(form, Path(scratch) / name.replace(" ", "-")),
                    gmacs_per_s=macs / timed.ms / 1e6,
                    peak=100 * least_ms(form.layers, device) / timed.ms,
                )
            )
        if subject.val is not None:
            judge(subject, subject.val, forms, sessions, rows, device)
        return rows


def write_forms(subject: Subject, folder: Path, threads: int) -> dict[str, Form]:
    """Write every form, by name."""
    network, spec = subject.network, subject.network.input
    floats, integers = folder / "float.onnx", folder / "int8.onnx"
    say("writing the graphs")
    export_onnx(as_graph(network), spec, graph_outputs(network), floats, opset=20)
    quantize_onnx(floats, integers, subject.calibration, min_images=8)
    whole, small = layer_work(floats), layer_work(integers)
    ort32 = OnnxRuntimeOptions(arithmetic="float32", threads=threads)
    ov32 = OpenVinoOptions(arithmetic="float32", threads=threads)
    ort8, ov8 = OnnxRuntimeOptions(threads=threads), OpenVinoOptions(threads=threads)
    nncf = OpenVinoOptions(threads=threads, quantiser="nncf")
    forms = {
        "onnxruntime float32": made(ort32, "none", {"model.onnx": floats.read_bytes()}, whole),
        "onnxruntime int8": made(ort8, "portable", {"model.onnx": integers.read_bytes()}, small),
        "openvino float32": made(ov32, "none", ir(folder / "f32", lambda xml: write_ir(floats, xml)), whole),
        "openvino int8": made(ov8, "portable", ir(folder / "int8", lambda xml: write_ir(integers, xml)), small),
    }
    say("quantising with NNCF")
    own = ir(folder / "nncf", lambda xml: nncf_int8(floats, xml, subject.calibration))
    usual = ir(folder / "usual", lambda xml: nncf_default(floats, xml, subject.calibration))
    forms["openvino int8 nncf"] = made(nncf, "nncf", own, small)
    forms["openvino int8 nncf by default"] = made(nncf, "nncf", usual, small)
    return forms


def made(options: EngineOptions, quantiser: str, members: dict[str, bytes], layers: tuple[LayerWork, ...]) -> Form:
    """A form that is written."""
    candidate = msgspec.convert({"options": options, "quantiser": quantiser}, Candidate, from_attributes=True)
    return Form(candidate, members, layers, (), 0)


def ir(folder: Path, write: Callable[[Path], object]) -> dict[str, bytes]:
    """The two files of an IR."""
    folder.mkdir()
    xml = folder / "openvino.xml"
    write(xml)
    return {name: (folder / name).read_bytes() for name in ("openvino.xml", "openvino.bin")}


def memory(form: Form, folder: Path) -> float:
    """Peak memory of a fresh process that runs a form, MiB."""
    folder.mkdir()
    for name, data in form.members.items():
        (folder / name).write_bytes(data)
    options = msgspec.json.encode(form.candidate.options).decode()
    told = subprocess.run([sys.executable, "-c", MEMORY, options, str(folder)], check=True, capture_output=True)
    return float(told.stdout.split()[-1])


def least_ms(layers: Sequence[LayerWork], device: Profile) -> float:
    """The least time that the arithmetic could take: every layer's operations at the peak of its own numbers.

    Bytes are left out: these networks' activations fit the caches of this machine, whose bandwidth is not measured.
    """
    total = 0.0
    for layer in layers:
        peak = peak_gops(device, layer.arithmetic)
        assert peak is not None
        total += 2 * layer.macs / peak / 1e6
    return total


def judge(
    subject: Subject,
    val: Arrays,
    forms: dict[str, Form],
    sessions: dict[str, Session],
    rows: list[Row],
    device: Profile,
) -> None:
    """Fill in differences, flips and slack."""
    say("asking every form about the validation images")
    reference = answer_images(subject.network, val.images)
    pairs = torch_raw(subject.network, val, COMPARED)
    outputs = task_outputs(subject.network, lock_thresholds(subject.network.tasks, reference, val))
    for row in rows:
        form = forms.get(row.form)
        if form is None:
            continue
        form.session = sessions[row.form]
        form.answers = ask(form.session.run, subject.network, val.images)
        found = judge_form(form, subject.network, reference, outputs, val, pairs, device)
        row.difference, row.flips, row.slack, row.worst_task = (
            found.difference,
            found.flips,
            found.slack,
            found.worst_task,
        )


def report(device: Profile, rows: list[Row], threads: int, path: Path | None) -> None:
    """Print the machine, a table a network, and the two bars."""
    peaks = device.cpu.peak_gops
    print(
        f"machine: {machine()}; {threads} threads; measured peaks: float32 {peaks['float32']:.0f}, int8 "
        f"{peaks['int8']:.0f} thousand million operations a second, memory {device.memory.bandwidth_gb_s:.0f} GB/s"
    )
    for network in dict.fromkeys(row.network for row in rows):
        own = {row.form: row for row in rows if row.network == network}
        print(f"\n{network}\n")
        print("| form | ms | 95 % | MB | peak MiB | difference | flips in 1,000 | slack | of peak |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for row in own.values():
            print("| " + " | ".join(cells(row)) + " |")
        for engine in ("onnxruntime", "openvino"):
            ratio = own[f"{engine} float32"].ms / own[f"{engine} int8"].ms
            print(f"\nint8 against float32 on {engine}: {ratio:.2f} times as fast")
        ratio = own["openvino int8"].ms / own["openvino int8 nncf by default"].ms
        print(f"\nportable int8 against NNCF's default on OpenVINO: {100 * ratio:.0f} % of its time")
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode({"peaks": peaks, "rows": rows}), indent=1))


def cells(row: Row) -> list[str]:
    """One row in words; what was not measured is a dash."""

    def number(value: float | None, pattern: str) -> str:
        return "-" if value is None else format(value, pattern)

    slack = "-" if row.slack is None else f"{row.slack:.2f} ({row.worst_task})"
    return [
        row.form,
        f"{row.ms:.2f}",
        number(row.p95_ms, ".2f"),
        f"{row.size_mb:.1f}",
        number(row.rss_mib, ".0f"),
        number(row.difference, ".2g"),
        number(row.flips, ".2f"),
        slack,
        "-" if row.peak is None else f"{row.peak:.0f} %",
    ]


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
