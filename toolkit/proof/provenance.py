"""Where a proof was made: versions, processor, and the arithmetic that the engines really used.

- No name of a machine, person or path is read, and no time: two runs on one machine say the same.
- What an engine computed is asked of the engine itself, by opening the graph as the device does; the manifest's word
  `int8` alone is a promise. ONNX Runtime tells its kernels when one answer is profiled, OpenVINO in its compiled model.
- Needs no torch: the machine in the field says it too.

    provenance_of(bundle, ["onnxruntime", "openvino"])
    here(["onnxruntime"])           # versions and hardware alone
    arithmetic(bundle, "openvino")  # "int8 in 62 of 66 convolutions and matrix products, float32 in 4; ..."
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...runtime.bundle import Bundle
from ...runtime.engine import INPUT, engine_of, open_session
from ...runtime.manifest import EngineName, EngineOptions, OnnxRuntimeOptions, TensorRtOptions
from ..parity.evidence import Provenance

CPU_FACTS = Path("/proc/cpuinfo")
# Sets of instructions that decide how integers and short floats are computed; the names are those of Linux.
INSTRUCTIONS = (
    "sse4_2", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
    "amx_bf16", "neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
PACKAGES = {  # package -> module; a version is told when the module is loaded
    "foveola": "foveola",
    "cryptography": "cryptography",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "pillow": "PIL",
    "scipy": "scipy",
    "timm": "timm",
    "torch": "torch",
}
MATHS = ("conv", "gemm", "matmul", "fullyconnected", "deconvolution", "attention")  # layers worth counting
ROUNDING = ("quantizelinear", "dequantizelinear", "fakequantize")
PRECISIONS = {
    "u8": "int8", "i8": "int8", "uint8": "int8", "int8": "int8",
    "f32": "float32", "float": "float32", "f16": "float16", "float16": "float16",
    "bf16": "bfloat16", "bfloat16": "bfloat16", "double": "float64", "f64": "float64",
}  # fmt: skip


class Layer(msgspec.Struct, frozen=True):
    """One layer as an engine ran it."""

    kind: str  # the engine's own word: QLinearConv, Convolution
    precision: str  # of its input: int8, float32, ...
    kernel: str = ""  # the engine's name of the code, where it tells


def provenance_of(bundle: Bundle, engines: Sequence[EngineName]) -> Provenance:
    """Describe this machine and what each engine computes on it.

    Args:
        bundle: whose graphs are asked.
        engines: of the bundle, installed here.
    """
    found = here(engines)
    return msgspec.structs.replace(found, arithmetic={engine: arithmetic(bundle, engine) for engine in engines})


def here(engines: Iterable[EngineName] = ()) -> Provenance:
    """Describe this machine: versions of the packages in use and of the engines, processor, system."""
    versions = {name: _version(name) for name, module in PACKAGES.items() if module in sys.modules}
    versions |= {engine: _version(engine) for engine in engines}
    return Provenance(
        versions=dict(sorted({**versions, "python": platform.python_version()}.items())),
        hardware=_hardware(),
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not known"


def _hardware() -> dict[str, str]:
    facts = read_cpu(CPU_FACTS.read_text(encoding="utf-8", errors="replace")) if CPU_FACTS.exists() else {}
    if "processor" not in facts:
        facts["processor"] = platform.processor() or "not told by the system"
    # The kernel's release is left out: it is free text, and people put names into it.
    return {
        **facts,
        "architecture": platform.machine() or "not known",
        "cores": str(_cores()),
        "system": " ".join(filter(None, (platform.system(), *platform.libc_ver()))),
    }


def read_cpu(text: str) -> dict[str, str]:
    """Take from Linux's `/proc/cpuinfo` the model and the instructions that change numbers; nothing else.

    A model is not told on every ARM board; then implementer and part stand for it.
    """
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    flags = set(fields.get("flags", fields.get("features", "")).split())
    found = {"instructions": ", ".join(one for one in INSTRUCTIONS if one in flags) or "none of those looked for"}
    model = fields.get("model name") or " ".join(
        f"{name} {fields[name]}" for name in ("cpu implementer", "cpu part") if fields.get(name)
    )
    return {"processor": " ".join(model.split()), **found} if model else found


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def arithmetic(bundle: Bundle, engine: EngineName) -> str:
    """Say in one line what an engine computes when it runs the bundle's graph on this machine.

    Read back from a session that is opened with the manifest's settings; where it cannot be, the line says so and
    repeats what the manifest promises.

    Raises:
        MissingPartError: the engine is not installed.
        FoveolaError: the engine refuses the graph.
    """
    options = next(one for one in bundle.manifest.engines if engine_of(one) == engine)
    layers = _LAYERS[engine](options, bundle.members)
    return f"{describe(layers, options.arithmetic)}; {settings(options)}"


def settings(options: EngineOptions) -> str:
    """Say under which settings an engine runs, as far as they change numbers."""
    if isinstance(options, TensorRtOptions):
        return "every precision typed in the graph, TF32 off"
    threads = f"{options.threads} thread{'s' if options.threads != 1 else ''}"
    if isinstance(options, OnnxRuntimeOptions):
        return f"graph optimisation {options.graph_optimization}, {threads}"
    return f"inference precision {options.inference_precision}, {threads}"


def describe(layers: Sequence[Layer], promised: str) -> str:
    """Say how many convolutions and matrix products were computed in which arithmetic.

    Args:
        layers: as the engine ran them; empty where it did not tell.
        promised: arithmetic by the manifest.
    """
    maths = [layer for layer in layers if any(word in layer.kind.lower() for word in MATHS)]
    if not maths:
        return f"{promised} by the manifest, not read back from the engine"
    counts = Counter(layer.precision for layer in maths)
    rounded = any(layer.kind.lower() in ROUNDING for layer in layers)
    first, *others = counts.most_common()
    if counts["int8"]:
        first = ("int8", counts["int8"])
        others = [(name, count) for name, count in counts.most_common() if name != "int8"]
    words = f"{first[0]} in {first[1]} of {len(maths)} convolutions and matrix products"
    words += "".join(f", {name} in {count}" for name, count in others)
    if rounded and not counts["int8"]:
        words += " (fake-quantised: values are rounded to 8 bits and computed in float)"
    return words + _kernels(maths)


def _kernels(maths: Sequence[Layer]) -> str:
    """Name the code that ran, the most used first; empty where the engine does not tell."""
    counts = Counter(layer.kernel for layer in maths if layer.kernel)
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return f" (kernels {', '.join(f'{name} {count}' for name, count in ordered)})" if ordered else ""


def _onnx_layers(options: EngineOptions, members: Mapping[str, bytes]) -> list[Layer]:
    """Profile one answer to an empty image: ONNX Runtime then tells each kernel with the types it took."""
    opened = open_session(options, members)
    shape = opened.input_shape
    session: Any = getattr(opened, "_session", None)
    if session is None or not all(isinstance(side, int) for side in shape):
        return []
    assert isinstance(options, OnnxRuntimeOptions)
    chosen, kind = session.get_session_options(), type(session)  # the very settings of the device's session
    with tempfile.TemporaryDirectory() as scratch:  # the profile is a file, there is no other way to it
        chosen.enable_profiling = True
        chosen.profile_file_prefix = str(Path(scratch) / "profile")
        profiled = kind(members[options.graph], chosen, providers=["CPUExecutionProvider"])
        profiled.run(None, {INPUT: np.zeros(tuple(int(side) for side in shape), np.float32)})
        events: list[dict[str, Any]] = msgspec.json.decode(Path(profiled.end_profiling()).read_bytes())
    return [
        _onnx_layer(event["args"])
        for event in events
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time") and "args" in event
    ]


def _precision(name: str) -> str:
    """Call a type by one name, whichever engine speaks of it."""
    return PRECISIONS.get(name, name)


def _onnx_layer(facts: Mapping[str, Any]) -> Layer:
    """Read one event of the profile; types stand as `[{"uint8": [1, 16, 8, 8]}, ...]`."""
    types = [next(iter(one)) for one in facts.get("input_type_shape", []) if one]
    kind = str(facts.get("op_name", ""))
    precision = _precision(str(types[0])) if types else "not told"
    return Layer(kind, precision)


def _openvino_layers(options: EngineOptions, members: Mapping[str, bytes]) -> list[Layer]:
    """Read the compiled model back: each of its nodes has the type of layer, its precision and the kernel's name."""
    request: Any = getattr(open_session(options, members), "_request", None)
    if request is None:
        return []
    layers = []
    for node in request.get_compiled_model().get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if not all(name in facts for name in ("layerType", "runtimePrecision", "primitiveType")):
            continue
        kind, precision, kernel = (
            facts[name].astype(str) for name in ("layerType", "runtimePrecision", "primitiveType")
        )
        layers.append(Layer(kind, _precision(str(precision)), kernel))
    return layers


def _no_layers(options: EngineOptions, members: Mapping[str, bytes]) -> list[Layer]:
    """TensorRT tells no layer's arithmetic; its graph is typed, so that it can be no other."""
    return []


_LAYERS = {"onnxruntime": _onnx_layers, "openvino": _openvino_layers, "tensorrt": _no_layers}
