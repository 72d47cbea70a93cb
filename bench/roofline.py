"""Does the calibrated roofline foretell times? Predictions with this machine's own peaks beside measured ones.

Probe networks calibrate the machine (`foveola.toolkit.explain.machine`); the graphs named here are none of them.

    python bench/roofline.py runs/demo/int8-*/float.onnx runs/demo/int8-*/model.onnx
    python bench/roofline.py GRAPH... --engine onnxruntime --threads 1 --rounds 3

Of each graph: the median of its measured times over the rounds, the prediction calibrated here, and that of the plain
roofline with the same peaks. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from foveola.devices.machine import examine
from foveola.devices.profile import load_profile
from foveola.devices.roofline import predict
from foveola.export.graph_facts import layer_work
from foveola.export.layer_times import layer_times
from foveola.runtime.manifest import OnnxRuntimeOptions, OpenVinoOptions
from foveola.toolkit.explain.machine import foresee, measure_machine

ENGINES = {"onnxruntime": OnnxRuntimeOptions, "openvino": OpenVinoOptions}


def main() -> None:
    """Calibrate, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="+", type=Path, metavar="GRAPH")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    options = ENGINES[asked.engine](threads=asked.threads)
    efficiency = measure_machine(options, examine(), lambda done, total, text: print(text, file=sys.stderr))
    here = efficiency.on_this(load_profile("generic-x86"))
    rows = []
    for path in asked.graphs:
        dims = [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
        image = np.random.default_rng(0).random(dims, np.float32)
        measured = median(layer_times(path, options, image).whole_ms for _ in range(asked.rounds))
        calibrated, plain = foresee(path, here, efficiency), predict(layer_work(path), here)
        assert calibrated is not None
        assert plain is not None
        rows.append(
            {
                "graph": f"{path.parent.name}/{path.name}",
                "measured_ms": measured,
                "calibrated_ms": calibrated.ms,
                "plain_ms": plain.ms,
            }
        )
    if asked.json:
        print(json.dumps({"machine": efficiency.machine, "error": efficiency.error, "graphs": rows}))
        return
    print(f"{efficiency.machine}, {asked.engine}, {asked.threads} threads; probes foretell each other within", end=" ")
    print(f"{100 * efficiency.error:.0f} % (median), {100 * efficiency.worst_error:.0f} % (worst)")
    print("| graph | measured ms | calibrated ms | plain roofline ms |\n|---|---:|---:|---:|")
    for row in rows:
        print(f"| {row['graph']} | {row['measured_ms']:.2f} | {row['calibrated_ms']:.2f} | {row['plain_ms']:.2f} |")


if __name__ == "__main__":
    main()
