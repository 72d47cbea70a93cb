"""Latency and size of every artefact beside its teacher, in one run on one machine; batch 1, medians.

The figures go into `speeds.json` and the run's report, never into the bundle: another machine has others, and equal
inputs must give equal bundles.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from ..runtime.bundle import Bundle, read_unverified
from ..runtime.engine import engine_of, runs_anywhere
from ..runtime.errors import FoveolaError
from ..runtime.image import decode_image, prepare
from ..runtime.measure import Latency, latency
from ..runtime.predict import Predictor
from .data.dataset import Dataset
from .explain.record import LAYERS_FILE, read_explained
from .json_files import write_json
from .models.network import Teacher
from .parity.evidence import EVIDENCE, decode_evidence
from .proof.provenance import here
from .proof.recipe import read_pictures
from .report.render import render_report
from .report.table import Speed
from .teachers.built import BuiltTeacher
from .teachers.load import load_teacher
from .teachers.team import Team
from .variants.table import VARIANTS, read_variants

SPEEDS = "speeds.json"


def measure_bundle(
    bundle_folder: Path,
    teacher_folder: Path,
    proof_folder: Path,
    dataset: Dataset,
    *,
    repeats: int,
    folder: Path,
    progress: Callable[[int, int, str], None],
) -> list[Speed]:
    """Measure teacher (torch, eager) and bundle (each engine, with and without decoding), and write the full report."""
    path = next(iter(sorted(bundle_folder.glob("*.foveola"))))
    bundle = read_unverified(path)
    sample = (dataset.subset("test") if len(dataset.subset("test")) else dataset).samples[0]
    data = sample.path.read_bytes()
    here = [options for options in bundle.manifest.engines if runs_anywhere(options)]
    total = 1 + 2 * len(here)
    progress(0, total, "timing the teacher")
    teacher = load_teacher(teacher_folder)
    base = time_teacher(teacher, data, max(5, repeats // 5))
    speeds = [
        _speed(
            f"{name_teacher(teacher)}, torch eager, network alone",
            "torch",
            (teacher_folder / "model.safetensors").stat().st_size,
            base,
            base,
        )
    ]
    for number, options in enumerate(here):
        engine = engine_of(options)
        progress(1 + 2 * number, total, f"timing the bundle on {engine}")
        predictor = Predictor(bundle, engine)
        tensor, _ = prepare(decode_image(data), bundle.manifest.input)
        size = _graph_bytes(bundle, engine)
        alone = latency(lambda: predictor.run(tensor[None]), runs=repeats)  # noqa: B023 - called at once
        whole = latency(lambda: predictor.predict(data), runs=repeats)  # noqa: B023
        speeds.append(_speed(f"student {options.arithmetic}, network alone", engine, size, alone, base))
        speeds.append(_speed(f"student {options.arithmetic}, from the file's bytes", engine, size, whole, base))
    write_json(folder / SPEEDS, speeds)
    evidence = decode_evidence((proof_folder / EVIDENCE).read_bytes())
    page = render_report(
        evidence,
        bundle.manifest,
        pictures=read_pictures(proof_folder),
        speeds=speeds,
        machine=machine(),
        forms=read_variants(bundle_folder / VARIANTS),
        layers=read_explained(bundle_folder / LAYERS_FILE),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    progress(total, total, "measured")
    return speeds


def read_speeds(folder: Path) -> list[Speed]:
    """What `measure_bundle` measured; empty where there is nothing."""
    path = folder / SPEEDS
    return msgspec.json.decode(path.read_bytes(), type=list[Speed]) if path.exists() else []


def time_teacher(teacher: Teacher, data: bytes, runs: int) -> Latency:
    """One forward pass of the teacher in torch eager, float32, on this machine's CPU: raw outputs and boxes."""
    x_CHW, _ = prepare(decode_image(data), teacher.input)
    x = torch.from_numpy(x_CHW[None])

    def call() -> object:
        with torch.inference_mode():
            return teacher.answer(x)

    return latency(call, runs=runs, warmup=2)


def name_teacher(teacher: Teacher) -> str:
    """A team, and a teacher of several encoders, is timed as what it costs: all of them, one after the other."""
    if isinstance(teacher, Team):
        return f"team of {len(teacher.members)} teachers"
    if isinstance(teacher, BuiltTeacher) and len(teacher.backbones) > 1:
        return f"teacher of {len(teacher.backbones)} encoders"
    return "teacher"


def machine() -> str:
    """Name the machine in one line: processor and number of threads."""
    hardware = here().hardware
    return f"{hardware['processor']}, {torch.get_num_threads()} threads, {platform.system()}"


def _graph_bytes(bundle: Bundle, engine: str) -> int:
    for options in bundle.manifest.engines:
        if engine_of(options) == engine:
            return sum(len(bundle.members[name]) for name in options.files)
    raise FoveolaError(f"engine {engine!r}", "is not in the bundle")


def _speed(artefact: str, engine: str, size: int, measured: Latency, base: Latency) -> Speed:
    return Speed(
        artefact=artefact,
        engine=engine,
        size_bytes=size,
        latency_ms=measured.median_ms,
        p95_ms=measured.p95_ms,
        ratio=base.median_ms / measured.median_ms,
    )
