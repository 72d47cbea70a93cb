"""The verbs `inspect` and `verify`: what a bundle is, and who vouches for it."""

from __future__ import annotations

import argparse

import msgspec

from ..bundle import open_bundle, read_unverified
from ..dicom.rule import SourceRule
from ..engine import engine_of, is_installed
from ..errors import ExitCode
from ..fitness.manifest import Fitness
from ..manifest import EngineOptions, TaskOutput, TensorRtOptions
from .verb import Answer


def inspect(arguments: argparse.Namespace) -> Answer:
    """Tell what a bundle is, and take nobody's word."""
    bundle = read_unverified(arguments.bundle)
    manifest = bundle.manifest
    sizes = {name: len(data) for name, data in bundle.members.items()}
    result = {
        "digest": bundle.digest,
        "core_digest": bundle.core_digest,
        "signed": "model.sig" in bundle.members,
        "members": sizes,
        "manifest": msgspec.to_builtins(manifest),
    }
    spec = manifest.input
    lines = [
        f"{manifest.name} {manifest.version} for {manifest.device}",
        f"digest      {bundle.digest}",
        f"signature   {'present, not checked here' if result['signed'] else 'none'}",
        f"input       {spec.width} x {spec.height}, {'grey' if spec.channels == 1 else 'colour'}, {spec.fit}",
        *(f"engine      {_engine_words(o)}" for o in manifest.engines),
        *(f"task        {_task_words(output)}" for output in manifest.outputs),
        *(f"DICOM       {words}" for words in _source_words(manifest.source)),
        *([f"fitness     {_fitness_words(manifest.fitness)}"] if manifest.fitness is not None else []),
        *(f"member      {name} {size} bytes" for name, size in sizes.items()),
        f"calibrated  on {manifest.calibration.images} images ({manifest.calibration.method})",
    ]
    return ExitCode.DONE, result, lines


def _engine_words(options: EngineOptions) -> str:
    engine = engine_of(options)
    threads = "" if isinstance(options, TensorRtOptions) else f", {options.threads} threads"
    return f"{engine} {options.arithmetic}{threads}, {'installed' if is_installed(engine) else 'not installed here'}"


def _task_words(output: TaskOutput) -> str:
    task = output.task
    limits = " at " + ", ".join(f"{limit:.3g}" for limit in output.thresholds) if output.thresholds else ""
    if task.kind == "embedding":
        return f"{task.name} (embedding): {task.size} numbers"
    return f"{task.name} ({task.kind}): {', '.join(task.classes)}{limits}"


def _source_words(rule: SourceRule | None) -> list[str]:
    """Write the rule of the input, a line for each field that asks for something."""
    if rule is None:
        return []
    plain = SourceRule()
    asked = {name: value for name, value in msgspec.structs.asdict(rule).items() if value != getattr(plain, name)}
    return [f"{name.replace('_', ' ')}: {_value_words(value)}" for name, value in asked.items()]


def _value_words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _fitness_words(fitness: Fitness) -> str:
    novelty = " and novelty" if fitness.novelty is not None else ""
    refused = f"{fitness.alarms} of {fitness.images} good images refused"
    return f"{fitness.kind}: {', '.join(bound.measure for bound in fitness.bounds)}{novelty}; {refused}"


def verify(arguments: argparse.Namespace) -> Answer:
    """Check the signature; a `NotVouchedError` where it does not hold."""
    bundle = open_bundle(arguments.bundle, key=arguments.key)
    name, version = bundle.manifest.name, bundle.manifest.version
    result = {"ok": True, "name": name, "version": version, "digest": bundle.digest}
    return ExitCode.DONE, result, [f"{name} {version}: the signature holds, digest {bundle.digest}"]
