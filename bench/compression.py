"""Every lever beside the others: accuracy with intervals, latency on both engines, size and verdict, in one run.

    python bench/compression.py --of compression-phantom --runs runs --json compression.json
    python bench/compression.py --of compression-xray --set data.root=PATH/TO/cxr --runs runs

The recipe makes a bundle and a proof of each form of the teacher and of the student; what is finished is reused. Beside
them stand the teacher in torch as users run it today and its int8 form by NNCF's default settings, proved on the same
cases. All forms are timed in turn on one real image, both engines in one process after another round by round.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from foveola.export.nncf_int8 import nncf_default
from foveola.export.onnx_graph import export_onnx
from foveola.runtime.bundle import Bundle, read_unverified, write_bundle
from foveola.runtime.engine import Session, engine_of, open_session
from foveola.runtime.manifest import OnnxRuntimeOptions, OpenVinoOptions, encode_manifest
from foveola.runtime.measure import latency
from foveola.toolkit.compress.quantise import FLOAT_GRAPH
from foveola.toolkit.data.arrays import prepare_arrays
from foveola.toolkit.data.dataset import Dataset, calibration_set
from foveola.toolkit.finished import read_locked
from foveola.toolkit.models.dense_teacher import as_graph
from foveola.toolkit.models.network import load_network
from foveola.toolkit.models.outputs import graph_outputs
from foveola.toolkit.parity.evidence import EVIDENCE, Endpoint, Evidence, decode_evidence
from foveola.toolkit.parity.protocol import Protocol
from foveola.toolkit.pipeline import Outcome, run
from foveola.toolkit.progress import SilentProgress, make_progress
from foveola.toolkit.proof.recipe import prove_bundle
from foveola.toolkit.recipe import Recipe, find_recipe, read_recipe
from foveola.toolkit.ship import CORE
from foveola.toolkit.speed import machine
from foveola.toolkit.stages.data import dataset_of
from foveola.toolkit.stages.protocol import PROTOCOL_STEP
from foveola.toolkit.stages.table import STAGES
from foveola.toolkit.teachers.load import load_teacher
from foveola.toolkit.variants.adhoc import adhoc_work
from foveola.toolkit.variants.timing import measure

TORCH, NNCF = "teacher, torch", "teacher, int8 by NNCF's defaults"
ROWS = {  # step of the bundle without its `b_` -> what it is
    "teacher_int8": "teacher, int8 portable",
    "third": "teacher without a third of its channels",
    "third_recovered": "teacher without a third of its channels, recovered",
    "half": "teacher without half of its channels",
    "half_recovered": "teacher without half of its channels, recovered",
    "student": "student, float32",
    "int8": "student, int8",
    "slim_int8": "student pruned, int8",
}
ENGINES = ("onnxruntime", "openvino")


class Row(msgspec.Struct, kw_only=True):
    """One form, measured and proved."""

    form: str
    size_mb: float
    ms: dict[str, float]  # by engine, or "torch"
    verdict: str = ""
    endpoints: tuple[Endpoint, ...] = ()  # the primary ones of whole tasks


def main() -> None:
    """Run what is missing, prove NNCF's form, time everything, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", default="compression-phantom")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="change a value of the recipe")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = read_recipe(find_recipe(options.of), STAGES, options.changes)
    outcome = run(recipe, options.runs, make_progress())
    changes = tuple(options.changes)
    work = adhoc_work(f"{options.of}:teacher", None, options.runs, changes, None, None, SilentProgress())
    rows = measured(recipe, outcome, dataset_of(work), options.rounds)
    report(recipe, rows)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")


def measured(recipe: Recipe, outcome: Outcome, dataset: Dataset, rounds: int) -> list[Row]:
    """All rows, timed in turn."""
    folders = {step.step: step.folder for step in outcome.steps}
    with tempfile.TemporaryDirectory() as scratch:
        bundles = {ROWS[name]: read_unverified(folders[f"b_{name}"] / CORE) for name in ROWS if f"b_{name}" in folders}
        proofs = {ROWS[name]: _evidence(folders[f"p_{name}"]) for name in ROWS if f"p_{name}" in folders}
        core = nncf_core(bundles[ROWS["teacher_int8"]], folders, dataset, outcome.folder / "cache", Path(scratch))
        bundles[NNCF] = read_unverified(core)
        proofs[NNCF] = proved(core, recipe, outcome, dataset, Path(scratch))
        floats = float_graphs(bundles, folders, Path(scratch))
        times = timed(bundles, floats, folders, dataset, outcome.folder / "cache", rounds)
    weights = (folders["teacher"] / "model.safetensors").stat().st_size / 1e6
    rows = [Row(form=TORCH, size_mb=weights, ms={"torch": times[TORCH]["torch"]})]
    for form in (NNCF, *ROWS.values()):
        if form in bundles:
            evidence = proofs[form]
            rows.append(
                Row(
                    form=form,
                    size_mb=min(graph_mb(bundles[form]).values()),
                    ms=times[form],
                    verdict=evidence.verdict,
                    endpoints=tuple(one for one in evidence.endpoints if one.primary and not one.label),
                )
            )
    return rows


def _evidence(folder: Path) -> Evidence:
    return decode_evidence((folder / EVIDENCE).read_bytes())


def nncf_core(ours: Bundle, folders: Mapping[str, Path], dataset: Dataset, cache: Path, scratch: Path) -> Path:
    """The teacher's bundle with NNCF's default int8 form as its only graph."""
    say("quantising the teacher with NNCF's defaults")
    spec = ours.manifest.input
    chosen = prepare_arrays(calibration_set(dataset, "calibration", 300, 16), spec, cache=cache)
    images = [np.array(chosen.images[i : i + 1]) for i in range(len(chosen))]
    nncf_default(folders["teacher_int8"] / FLOAT_GRAPH, scratch / "openvino.xml", images)
    old = next(one for one in ours.manifest.engines if isinstance(one, OpenVinoOptions))
    manifest = msgspec.structs.replace(ours.manifest, engines=(msgspec.structs.replace(old, quantiser="nncf"),))
    members = {name: data for name, data in ours.members.items() if not name.startswith(("model.onnx", "openvino."))}
    members |= {name: (scratch / name).read_bytes() for name in ("openvino.xml", "openvino.bin")}
    members["manifest.json"] = encode_manifest(manifest)
    write_bundle(scratch / CORE, members)
    return scratch / CORE


def proved(core: Path, recipe: Recipe, outcome: Outcome, dataset: Dataset, scratch: Path) -> Evidence:
    """The proof of a bundle that is no step of the recipe, by the recipe's own protocol."""
    folders = {step.step: step.folder for step in outcome.steps}
    protocol = msgspec.json.decode((folders["protocol"] / PROTOCOL_STEP).read_bytes(), type=Protocol)
    digest = next(step.digest for step in outcome.steps if step.step == "teacher")
    return prove_bundle(
        core,
        load_teacher(folders["teacher"]),
        read_locked(folders["teacher"]),
        dataset,
        protocol=protocol,
        split=protocol.data.split,
        resamples=protocol.resamples,
        pictures=0,
        seed=recipe.seed,
        teacher_digest=digest,
        folder=scratch,
        progress=lambda done, total, text: None,
    )


def float_graphs(bundles: Mapping[str, Bundle], folders: Mapping[str, Path], scratch: Path) -> dict[str, bytes]:
    """For the forms that were proved on OpenVINO alone, the same network as a float graph, to be timed beside."""
    found = {}
    for name, form in ROWS.items():
        if form in bundles and all(isinstance(one, OpenVinoOptions) for one in bundles[form].manifest.engines):
            network, path = load_network(folders[name]), scratch / f"{name}.onnx"
            export_onnx(as_graph(network), network.input, graph_outputs(network), path, opset=20)
            found[form] = path.read_bytes()
    return found


def timed(
    bundles: Mapping[str, Bundle],
    floats: Mapping[str, bytes],
    folders: Mapping[str, Path],
    dataset: Dataset,
    cache: Path,
    rounds: int,
) -> dict[str, dict[str, float]]:
    """Medians in milliseconds by form and engine; the torch teacher answers with its boxes, as users run it."""
    found: dict[str, dict[str, float]] = {form: {} for form in bundles}
    by_input: dict[int, list[str]] = {}
    for form, bundle in bundles.items():
        by_input.setdefault(bundle.manifest.input.height, []).append(form)
    for forms in by_input.values():
        spec = bundles[forms[0]].manifest.input
        image = np.array(prepare_arrays(dataset.subset("val"), spec, cache=cache).images[:1])
        sessions: dict[str, Session] = {}
        for form in forms:
            for one in bundles[form].manifest.engines:
                sessions[f"{engine_of(one)}|{form}"] = open_session(one, dict(bundles[form].members))
            if form in floats:
                threads = next(
                    one.threads for one in bundles[form].manifest.engines if isinstance(one, OpenVinoOptions)
                )
                plain = OnnxRuntimeOptions(arithmetic="float32", threads=threads)
                sessions[f"onnxruntime|{form}"] = open_session(plain, {"model.onnx": floats[form]})
        say(f"timing {len(sessions)} forms in turn, {rounds} rounds")
        for name, timing in measure(sessions, image, rounds=rounds).items():
            engine, _, form = name.partition("|")
            assert timing.ms is not None
            found[form][engine] = timing.ms
    found[TORCH] = {"torch": torch_ms(folders["teacher"], dataset, cache)}
    return found


def torch_ms(folder: Path, dataset: Dataset, cache: Path) -> float:
    """Median of the teacher in torch, eager, boxes and all."""
    teacher = load_teacher(folder)
    images: NDArray[np.float32] = prepare_arrays(dataset.subset("val"), teacher.input, cache=cache).images[:1]
    x = torch.from_numpy(np.array(images))

    def eager() -> object:
        with torch.inference_mode():
            return teacher.answer(x)

    return latency(eager, runs=30, warmup=5).median_ms


def graph_mb(bundle: Bundle) -> dict[str, float]:
    """Size of the graph for each engine."""
    return {
        engine_of(one): sum(len(bundle.members[name]) for name in one.files) / 1e6 for one in bundle.manifest.engines
    }


def report(recipe: Recipe, rows: list[Row]) -> None:
    """Print the speeds, the accuracies, and the bars."""
    base = {row.form: row for row in rows}
    torch_time, nncf_time = base[TORCH].ms["torch"], base[NNCF].ms["openvino"]
    print(f"machine: {machine()}; recipe {recipe.name}\n")
    print("| form | MB | ms, ONNX Runtime | ms, OpenVINO | x torch teacher | x NNCF teacher | verdict |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for row in rows:
        best = min(row.ms.values())
        cells = [f"{row.ms[engine]:.2f}" if engine in row.ms else "-" for engine in ENGINES]
        if "torch" in row.ms:
            cells = [f"{row.ms['torch']:.1f} (torch)", "-"]
        ratios = [f"{torch_time / best:.1f}", f"{nncf_time / best:.1f}" if row.form != TORCH else "-"]
        print("| " + " | ".join([row.form, f"{row.size_mb:.2f}", *cells, *ratios, row.verdict or "-"]) + " |")
    columns = list(dict.fromkeys((one.task, one.metric) for row in rows for one in row.endpoints))
    print("\nStudent minus teacher, with its two-sided interval, on OpenVINO; * passes.\n")
    print("| form | " + " | ".join(f"{task} {metric}" for task, metric in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for row in rows[1:]:
        own = {(one.task, one.metric): one for one in row.endpoints if one.engine == "openvino"}
        print(f"| {row.form} | " + " | ".join(_difference(own.get(column)) for column in columns) + " |")
    fastest = min((row for row in rows if row.form != TORCH), key=lambda row: min(row.ms.values()))
    least = min(fastest.ms.values())
    print(
        f"\nfastest: {fastest.form}, {least:.2f} ms: {torch_time / least:.0f} times the torch teacher, "
        f"{nncf_time / least:.1f} times the NNCF teacher, verdict {fastest.verdict}"
    )


def _difference(one: Endpoint | None) -> str:
    if one is None or one.difference is None:
        return "-"
    star = " *" if one.verdict == "pass" else ""
    if one.low is None or one.high is None:
        return f"{one.difference:+.3f}{star}"
    return f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]{star}"


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
