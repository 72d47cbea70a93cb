"""Latency side by side in one run on one machine: the teacher as users run it today, and the finished bundle.

    python bench/latency.py --bundle runs/chest-xray/<ship step>/chest-xray.foveola --image some-xray.jpg

Batch 1, a real image, medians over rounds in which every contender runs once in turn, so that a machine that slows down
slows all of them. The teacher has random weights (its latency does not depend on them): ResNet-50 at 512 x 512 with
linear and DeepLabV3 heads. Ratios are against the teacher in torch eager.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from foveola.export.nncf_int8 import nncf_default
from foveola.export.onnx_graph import export_onnx
from foveola.export.openvino_ir import write_ir
from foveola.runtime.bundle import read_unverified
from foveola.runtime.engine import Session, engine_of, open_session
from foveola.runtime.image import decode_image, prepare
from foveola.runtime.manifest import EngineOptions, InputSpec, OnnxRuntimeOptions, OpenVinoOptions
from foveola.runtime.predict import Predictor
from foveola.runtime.task import Task
from foveola.toolkit.models.network import Architecture, Network
from foveola.toolkit.speed import machine

TASKS = (
    Task(name="findings", kind="multilabel", classes=tuple(f"finding_{i}" for i in range(14))),
    Task(name="lungs", kind="segmentation", classes=("right_lung", "left_lung")),
)
Call = Callable[[], object]


def main() -> None:
    """Build all contenders, time them in turn, print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a finished bundle")
    parser.add_argument("--image", type=Path, required=True, help="a radiograph")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--size", type=int, default=512, help="side of the teacher's input")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = options.image.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        contenders = teacher_calls(Path(scratch), data, options.size, options.threads) | student_calls(
            options.bundle, data
        )
        times = interleave(contenders, options.rounds)
    report(times, options.json)


def teacher_calls(folder: Path, data: bytes, size: int, threads: int) -> dict[str, Call]:
    """The teacher in torch eager, ONNX Runtime and OpenVINO float32, and OpenVINO int8 by NNCF's defaults."""
    spec = InputSpec(height=size, width=size, channels=1, window="percentile")
    network = Network(
        Architecture(role="teacher", backbone="resnet50", input=spec, tasks=TASKS, output_stride=32)
    ).eval()
    names = tuple(task.name for task in TASKS)
    say("exporting the teacher")
    export_onnx(network, spec, names, folder / "teacher.onnx", opset=20)
    write_ir(folder / "teacher.onnx", folder / "teacher.xml")
    say("quantising the teacher with NNCF (8 images: ranges do not change its speed)")
    x_CHW, _ = prepare(decode_image(data), spec)
    rng = np.random.default_rng(0)
    images = [(x_CHW[None] + rng.normal(0, 0.05, x_CHW[None].shape)).clip(0, 1).astype(np.float32) for _ in range(8)]
    nncf_default(folder / "teacher.onnx", folder / "nncf.xml", images)
    members = {name.name: name.read_bytes() for name in folder.iterdir() if name.is_file()}
    ort = OnnxRuntimeOptions(graph="teacher.onnx", arithmetic="float32", threads=threads)
    f32 = OpenVinoOptions(graph="teacher.xml", weights="teacher.bin", arithmetic="float32", threads=threads)
    int8 = OpenVinoOptions(graph="nncf.xml", weights="nncf.bin", threads=threads)
    x = torch.from_numpy(x_CHW[None])

    def eager() -> object:
        with torch.inference_mode():
            return network(x)

    def run(session: Session) -> Call:
        return lambda: session.run(x_CHW[None])

    return {
        "teacher ResNet-50, torch eager": eager,
        "teacher, ONNX Runtime float32": run(open_session(ort, members)),
        "teacher, OpenVINO float32": run(open_session(f32, members)),
        "teacher, OpenVINO int8 by NNCF": run(open_session(int8, members)),
    }


def student_calls(path: Path, data: bytes) -> dict[str, Call]:
    """The bundle on each engine: bare engine, `Predictor.run`, and from the file's bytes to the findings."""
    bundle = read_unverified(path)
    calls: dict[str, Call] = {}
    for options in bundle.manifest.engines:
        engine = engine_of(options)
        predictor, bare = Predictor(bundle, engine), bare_engine(bundle.members, options)
        x_CHW, _ = prepare(decode_image(data), bundle.manifest.input)
        tensor = x_CHW[None]
        calls[f"student bundle, {engine}: bare engine"] = lambda bare=bare, tensor=tensor: bare(tensor)  # type: ignore[misc]
        calls[f"student bundle, {engine}: runtime on the same tensor"] = lambda p=predictor, t=tensor: p.run(t)  # type: ignore[misc]
        calls[f"student bundle, {engine}: file's bytes to findings"] = lambda p=predictor: p.predict(data)  # type: ignore[misc]
    return calls


def bare_engine(members: dict[str, bytes], options: EngineOptions) -> Callable[[np.ndarray], object]:
    """The engine's own API with the same settings and nothing of ours around it."""
    if isinstance(options, OnnxRuntimeOptions):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        session = onnxruntime.InferenceSession(members[options.graph], settings, providers=["CPUExecutionProvider"])
        return lambda tensor: session.run(None, {"image": tensor})
    import openvino

    assert isinstance(options, OpenVinoOptions)
    core = openvino.Core()
    model = core.read_model(members[options.graph], openvino.Tensor(np.frombuffer(members[options.weights], np.uint8)))
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": options.threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", hints).create_infer_request()

    def infer(tensor: np.ndarray) -> object:
        request.set_input_tensor(openvino.Tensor(tensor, shared_memory=True))
        request.infer()
        return [one.data for one in request.output_tensors]

    return infer


def interleave(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, one of each a round; the quick ones are repeated within their turn and averaged."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        say(f"warming up: {name}")
        for _ in range(3):
            call()
    for number in range(rounds):
        for name, call in calls.items():
            repeats = 1 if name.startswith("teacher") else 20
            time.sleep(0.05)  # the threads of the contender before spin for a while
            call()  # brings this contender's weights back into the caches
            start = time.perf_counter_ns()
            for _ in range(repeats):
                call()
            times[name].append((time.perf_counter_ns() - start) / 1e6 / repeats)
        say(f"round {number + 1} of {rounds}")
    return times


def report(times: dict[str, list[float]], path: Path | None) -> None:
    """Print medians and ratios, and the runtime's overhead over the bare engine."""
    median = {name: float(np.median(values)) for name, values in times.items()}
    base = next(iter(median.values()))
    print(f"machine: {machine()}\n")
    print("| what | median ms | faster than the torch teacher |\n|---|---:|---:|")
    for name, value in median.items():
        print(f"| {name} | {value:.2f} | {base / value:.1f} x |")
    overhead = {}
    for name in median:
        if name.endswith(": bare engine"):
            ours = [
                b - a
                for a, b in zip(
                    times[name], times[name.replace("bare engine", "runtime on the same tensor")], strict=True
                )
            ]
            overhead[name.split(", ")[1].split(":")[0]] = float(np.median(ours))
    for engine, value in overhead.items():
        print(f"\nruntime over the bare {engine} call: {value:+.3f} ms (median of paired rounds)")
    if path is not None:
        path.write_text(
            json.dumps({"machine": machine(), "median_ms": median, "overhead_ms": overhead}, indent=1) + "\n"
        )


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
