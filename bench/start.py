"""What the runtime adds to a bare script on the same engine: start, import, memory, installed size.

    python bench/start.py runs/chest-xray/ship-*/chest-xray.foveola

Fresh processes in turn, a bare script and the runtime, each from its start to its first answer about one picture; the
bare one opens the bundle's own graph with the bundle's own settings, reads the picture with Pillow, resizes, and runs.
It checks no signature, no size, no NaN, and gives numbers and no findings. Medians, and the ratio of medians; peak
resident memory after 50 answers. The import is what `import foveola.runtime` and its predictor take beyond numpy, in a
process that has numpy already. The size is that of the base's packages beyond numpy and ONNX Runtime, as they lie here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import foveola
from foveola.runtime.bundle import KEY_VARIABLE, read_unverified
from foveola.runtime.manifest import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions
from foveola.runtime.predict import choose_engine
from foveola.runtime.selftest import first_golden_image

BASE = ("cryptography", "cffi", "pycparser", "msgspec", "pillow")  # what the base installs beyond numpy and the engine
BARE = {
    "onnxruntime": """
import os; os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np, onnxruntime as ort
from PIL import Image
options = ort.SessionOptions(); options.intra_op_num_threads = {threads}; options.inter_op_num_threads = 1
options.graph_optimization_level = ort.GraphOptimizationLevel.{level}
options.add_session_config_entry("session.intra_op.allow_spinning", "{spinning}")
session = ort.InferenceSession("{graph}", options, providers=["CPUExecutionProvider"])
def run(x): return session.run(None, {{"image": x}})
""",
    "openvino": """
import sys; sys.modules["openvino_telemetry"] = None
import numpy as np, openvino as ov
from PIL import Image
model = ov.Core().compile_model("{graph}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": {threads}, "PERFORMANCE_HINT": "LATENCY"}})
request = model.create_infer_request()
def run(x): return [np.array(one) for one in request.infer({{"image": x}}).values()]
""",
}
ASK_BARE = """
def ask():
    image = Image.open("{image}").convert("{mode}").resize(({width}, {height}), Image.Resampling.BILINEAR)
    x = np.asarray(image, np.float32).reshape({height}, {width}, {channels}).transpose(2, 0, 1)[None] / 255
    return run(np.ascontiguousarray(x))
"""
OURS = """
from pathlib import Path
from foveola.runtime import open_predictor
predictor = open_predictor(Path("{bundle}"), "{engine}")
def ask(): return predictor.predict(Path("{image}"))
"""
TELL = """
ask(); print("answered", flush=True)
for _ in range(50): ask()
import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
IMPORT = """
import numpy, time
start = time.perf_counter()
{line}
print(1e3 * (time.perf_counter() - start))
"""


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for engine in ("onnxruntime", "openvino"):
            found |= against_bare(given.bundle.resolve(), engine, Path(scratch), given.starts)
    for name, line in (("runtime", "import foveola.runtime"), ("predictor", "import foveola.runtime.predict")):
        code = IMPORT.format(line=line)
        found[f"import of {name} beyond numpy, ms"] = statistics.median(
            float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
            for _ in range(given.starts)
        )
    found["size of the base beyond numpy and onnxruntime, MB"] = sum(map(package_mb, BASE)) + own_mb()
    print("| what | |\n|---|---:|")
    for name, value in found.items():
        print(f"| {name} | {value:.2f} |")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def against_bare(bundle: Path, engine: str, scratch: Path, starts: int) -> dict[str, float]:
    """Both kinds of process in turn on one engine."""
    opened = read_unverified(bundle)
    options = choose_engine(opened.manifest, engine)
    image = scratch / "image"
    image.write_bytes(first_golden_image(opened))
    for name in options.files:
        (scratch / name).write_bytes(opened.members[name])
    spec = opened.manifest.input
    facts = {
        "bundle": bundle, "engine": engine, "image": image, "graph": scratch / options.graph, "width": spec.width,
        "height": spec.height, "channels": spec.channels, "mode": "L" if spec.channels == 1 else "RGB",
    } | settings(options)  # fmt: skip
    codes = {
        "bare": (BARE[engine] + ASK_BARE + TELL).format(**facts),
        "ours": (OURS + TELL).format(**facts),
    }
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in codes}
    for _ in range(starts):
        for name, code in codes.items():
            seen[name].append(started(code, bundle.with_suffix(".pub")))
    start = {name: statistics.median(ms for ms, _ in many) for name, many in seen.items()}
    peak = {name: statistics.median(mib for _, mib in many) for name, many in seen.items()}
    return {
        f"{engine}: bare script to its first answer, ms": start["bare"],
        f"{engine}: runtime to its first answer, ms": start["ours"],
        f"{engine}: ratio": start["ours"] / start["bare"],
        f"{engine}: bare script, peak MiB": peak["bare"],
        f"{engine}: runtime, peak MiB": peak["ours"],
        f"{engine}: ratio of the peaks": peak["ours"] / peak["bare"],
    }


def settings(options: EngineOptions) -> dict[str, object]:
    """The engine's settings as the bare script writes them."""
    if isinstance(options, OnnxRuntimeOptions):
        level = f"ORT_{'DISABLE' if options.graph_optimization == 'disable' else 'ENABLE'}_"
        level += "ALL" if options.graph_optimization == "disable" else options.graph_optimization.upper()
        return {"threads": options.threads, "level": level, "spinning": str(int(options.spinning))}
    assert isinstance(options, OpenVinoOptions)
    return {"threads": options.threads}


def started(code: str, key: Path) -> tuple[float, float]:
    """Milliseconds from a process's start to its first answer, and its peak in MiB."""
    begun = time.perf_counter()
    environment = {**os.environ, KEY_VARIABLE: str(key)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        word = child.stdout.readline().strip()
        passed = 1e3 * (time.perf_counter() - begun)
        peak = float(child.stdout.readline() or "nan")
    if child.returncode or word != "answered":
        raise SystemExit("a process did not answer")
    return passed, peak


def package_mb(name: str) -> float:
    """Bytes of an installed package's files, in MB; 0 where it is not installed."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return 0.0
    paths = (Path(str(one.locate())) for one in files)
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def own_mb() -> float:
    """The runtime's own source."""
    root = Path(foveola.__file__).parent / "runtime"
    return sum(path.stat().st_size for path in root.rglob("*.py")) / 1e6


if __name__ == "__main__":
    main()
