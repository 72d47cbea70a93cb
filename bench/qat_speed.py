"""Is a student trained with rounding slower than one that was only calibrated? Both int8 graphs, timed in turn.

    python bench/qat_speed.py runs/chest-xray/int8-1520c40dcd1d runs/chest-xray/rounded-8-b2d119857440
    python bench/qat_speed.py --untrained mobilenetv4_conv_small --size 320

The two folders are finished `quantize` steps, of a student and of its `qat` step. Without them an untrained network is
taken (its speed does not depend on its weights): quantised on noise, and again after some steps of training with its
rounding. Told are the operators of both graphs and, on ONNX Runtime and on OpenVINO, the median and the 95th
percentile of an answer, both graphs in turn in every round. It ends with 1 if an engine takes longer than `--tolerance`
over the graph that was trained.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch

from foveola.export.fake_quant import QuantisedGraph
from foveola.export.openvino_ir import write_ir
from foveola.export.quantize import calibrate_graph, write_int8
from foveola.runtime.engine import Session, open_session
from foveola.runtime.manifest import InputSpec, OnnxRuntimeOptions, OpenVinoOptions
from foveola.runtime.task import Task
from foveola.toolkit.compress.qat_network import export_float, folded_copy, put_into_graph, shared_weights
from foveola.toolkit.models.network import Architecture, Network
from foveola.toolkit.variants.timing import measure

TASKS = (
    Task(name="findings", kind="multilabel", classes=("a", "b", "c", "d")),
    Task(name="lungs", kind="segmentation", classes=("right", "left")),
    Task(name="boxes", kind="detection", classes=("a", "b", "c")),
)
STEPS = 5  # of training for an untrained network


def main() -> int:
    """Compare the graphs, time them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("calibrated", nargs="?", type=Path, help="folder of the quantize step of the student")
    parser.add_argument("trained", nargs="?", type=Path, help="folder of the quantize step of its qat step")
    parser.add_argument("--untrained", default="mobilenetv4_conv_small", help="without folders: a backbone of timm")
    parser.add_argument("--size", type=int, default=320, help="side of its input")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=0.05, help="share by which the trained one may be slower")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        if options.trained:
            graphs = {"calibrated": options.calibrated / "model.onnx", "trained": options.trained / "model.onnx"}
        else:
            graphs = untrained(options.untrained, options.size, Path(scratch))
        compare(graphs)
        return time_both(graphs, Path(scratch), options.threads, options.rounds, options.tolerance)


def untrained(backbone: str, size: int, folder: Path) -> dict[str, Path]:
    """Both graphs of an untrained network."""
    torch.manual_seed(0)
    spec = InputSpec(height=size, width=size, channels=1)
    network = folded_copy(Network(Architecture(role="student", backbone=backbone, input=spec, tasks=TASKS)))
    export_float(network, folder / "float.onnx", 20)
    noise = np.random.default_rng(0).random((4, 1, 1, size, size), np.float32)
    calibrated = calibrate_graph(folder / "float.onnx", noise, min_images=1)
    shared = shared_weights(network, calibrated.model)
    graph = QuantisedGraph(calibrated, trained=lambda name: name in shared).train()
    optimizer = torch.optim.AdamW([one for one in graph.parameters() if one.requires_grad], lr=1e-3)
    for image in noise[:STEPS]:
        loss = torch.stack([x.square().mean() for x in graph(torch.from_numpy(image)).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model = put_into_graph(calibrated.model, graph.weights())
    learned = msgspec.structs.replace(calibrated, model=model, ranges=graph.ranges())
    graphs = {name: folder / f"{name}.onnx" for name in ("calibrated", "trained")}
    write_int8(calibrated, graphs["calibrated"])
    write_int8(learned, graphs["trained"])
    return graphs


def compare(graphs: Mapping[str, Path]) -> None:
    """Say whether both graphs have the same operators and quantisers."""
    nodes = {name: onnx.load(path).graph.node for name, path in graphs.items()}
    places = {
        name: {(one.op_type, *one.input) for one in found if "Linear" in one.op_type} for name, found in nodes.items()
    }
    counts = {name: Counter(one.op_type for one in found) for name, found in nodes.items()}
    same = counts["calibrated"] == counts["trained"]
    quantisers = sum(counts["trained"][kind] for kind in ("QuantizeLinear", "DequantizeLinear"))
    apart = len(places["calibrated"] ^ places["trained"])
    print(f"operators: {'the same' if same else 'different'}; {quantisers} quantisers, {apart} in other places")


def sessions_of(engine: str, graphs: Mapping[str, Path], folder: Path, threads: int) -> dict[str, Session]:
    """Both graphs, opened in one engine."""
    found = {}
    for name, path in graphs.items():
        if engine == "onnxruntime":
            found[name] = open_session(OnnxRuntimeOptions(threads=threads), {"model.onnx": path.read_bytes()})
        else:
            xml = folder / f"{name}.xml"
            write_ir(path, xml)
            members = {"openvino.xml": xml.read_bytes(), "openvino.bin": xml.with_suffix(".bin").read_bytes()}
            found[name] = open_session(OpenVinoOptions(threads=threads), members)
    return found


def time_both(graphs: Mapping[str, Path], folder: Path, threads: int, rounds: int, tolerance: float) -> int:
    """Print the table; 1 where the trained graph is slower than it may be."""
    print(f"\n{threads} threads, {rounds} rounds\n")
    print("| engine | calibrated, ms (95th) | trained, ms (95th) | trained / calibrated |\n|---|---|---|---|")
    late = False
    for engine in ("onnxruntime", "openvino"):
        sessions = sessions_of(engine, graphs, folder, threads)
        shape = tuple(int(side) for side in sessions["trained"].input_shape)
        tensor = np.random.default_rng(0).random(shape, np.float32)
        timed = measure(sessions, tensor, rounds=rounds)
        first, second = timed["calibrated"], timed["trained"]
        assert first.ms is not None
        assert second.ms is not None
        late |= second.ms > first.ms * (1 + tolerance)
        cells = [f"{one.ms:.2f} ({one.p95_ms:.2f})" for one in (first, second)]
        print(f"| {engine} | {cells[0]} | {cells[1]} | {second.ms / first.ms:.3f} |")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
