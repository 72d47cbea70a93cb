"""`python -m foveola.runtime VERB`: the verbs of a device without the toolkit.

Law: with `--json` one JSON object stands on stdout and nothing else; errors are one line each on stderr; the exit code
is that of the agreement (`runtime/errors.py: ExitCode`).

    python -m foveola.runtime predict chest.foveola image.png --key maker.pub --json
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from .answer import Mask, Prediction, prediction_json
from .benchmark import options as bench_options
from .bundle import open_bundle, read_unverified
from .engine import engine_of, is_installed
from .errors import ExitCode, FoveolaError, UsageError
from .manifest import EngineOptions, TaskOutput, TensorRtOptions
from .predict import Predictor
from .selftest import self_test


def main(argv: Sequence[str] | None = None, prog: str = "python -m foveola.runtime") -> int:
    """Run one verb and give its exit code; a wrong command line ends the process with code 2, as argparse does."""
    arguments = _parser(prog).parse_args(argv)
    try:
        code, result, lines = VERBS[arguments.verb](arguments)
    except FoveolaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    words = [json.dumps(result, allow_nan=False)] if arguments.json else lines
    if words:  # of images that were all refused there is nothing to say here
        print("\n".join(words))
    return code


Answer = tuple[ExitCode, dict[str, Any], list[str]]  # exit code, the JSON object, the same in words


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Predict with a signed bundle, and inspect or test it.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str, text: str, *, key: bool = True, engine: bool = True, several: bool = False
    ) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=text, description=text)
        if several:
            one.add_argument("paths", type=Path, nargs="+", metavar="BUNDLE", help="a .foveola file, or records")
        else:
            one.add_argument("bundle", type=Path, metavar="BUNDLE", help="a .foveola file")
        one.add_argument("--json", action="store_true", help="one JSON object on stdout")
        if key:
            one.add_argument(
                "--key", type=Path, metavar="PUB", help="public key (PEM) of whoever vouches for the bundle"
            )
        if engine:
            one.add_argument(
                "--engine", metavar="E", help="onnxruntime, openvino or tensorrt; default: the bundle's first"
            )
        return one

    predict = verb("predict", "Findings, measurements, masks and boxes of images.")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--masks", type=Path, metavar="DIR", help="write each mask there as a PNG of the image's size")
    verb("inspect", "What a bundle is; no key is needed, and nobody's word is taken.", key=False, engine=False)
    verb("verify", "Who vouches for a bundle.", engine=False)
    verb("selftest", "Whether a bundle still answers as it did when it was made.")
    measure = verb("bench", "What a bundle costs on this machine: time, memory, energy.", several=True)
    bench_options.add_options(measure)
    build = verb("build-engine", "Build the TensorRT engine of a bundle on this machine.", engine=False)
    build.add_argument("--engines", type=Path, metavar="DIR", help="folder of engines; default: beside the bundle")
    build.add_argument("--force", action="store_true", help="build although a good engine is there")
    return parser


def _predict(arguments: argparse.Namespace) -> Answer:
    """All images are answered or refused on their own; one that is refused makes the exit code 1."""
    images: list[Path] = arguments.images
    names = Counter(image.name for image in images)
    if arguments.masks and max(names.values()) > 1:
        raise UsageError("--masks", f"several images are called {names.most_common(1)[0][0]}", "one folder for each")
    predictor = Predictor(open_bundle(arguments.bundle, key=arguments.key), arguments.engine)
    answers: list[dict[str, Any]] = []
    lines: list[str] = []
    code = ExitCode.DONE
    for image in images:
        try:
            prediction = predictor.predict(image)
            if arguments.masks:
                _write_masks(prediction.masks, arguments.masks, image.name)
        except FoveolaError as error:
            print(error, file=sys.stderr)
            answers.append({"file": str(image), "error": str(error)})
            code = ExitCode.REFUSED
        else:
            answers.append({"file": str(image), "prediction": prediction_json(prediction)})
            lines += [str(image), *prediction_lines(prediction)]
    return code, {"bundle": predictor.manifest.name, "engine": predictor.engine, "images": answers}, lines


def prediction_lines(prediction: Prediction) -> list[str]:
    """Write a prediction in words, one line a finding, choice, measurement, mask and positive box."""
    lines = [
        f"  {f.task:<16} {f.label:<28} {f.probability:.3f} {'>=' if f.positive else '< '} {f.threshold:.3f}"
        f"  {'POSITIVE' if f.positive else 'negative'}"
        for f in prediction.findings
    ]
    lines += [f"  {c.task:<16} {c.label:<28} {c.probabilities[c.index]:.3f}" for c in prediction.choices]
    lines += [f"  {m.task:<16} {m.name:<28} {m.value:.2f} {m.unit}".rstrip() for m in prediction.measurements]
    lines += [f"  {m.task:<16} {m.label:<28} {m.area_px} px  {100 * m.fraction:.1f} %" for m in prediction.masks]
    for b in prediction.boxes:
        if b.positive:
            lines.append(f"  {b.task:<16} {b.label:<28} {b.score:.3f}  {b.x1:.0f},{b.y1:.0f} - {b.x2:.0f},{b.y2:.0f}")
    return lines


def _write_masks(masks: Sequence[Mask], folder: Path, name: str) -> None:
    partial: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for mask in masks:
            data = BytesIO()
            Image.fromarray(mask.pixels.astype(np.uint8) * 255).save(data, "PNG")
            label = re.sub(r"[^\w.-]+", "_", f"{mask.task}.{mask.label}")
            path = folder / f"{name}.{label}.png"
            partial = path.with_name(path.name + ".partial")
            partial.write_bytes(data.getvalue())
            partial.replace(path)
    except OSError as error:
        if partial is not None:
            with suppress(OSError):  # the first error is the one to tell
                partial.unlink(missing_ok=True)
        fault = f"masks cannot be written: {error.strerror}"
        raise FoveolaError(str(folder), fault, "make room, or name another folder") from None


def _inspect(arguments: argparse.Namespace) -> Answer:
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
    return f"{task.name} ({task.kind}): {', '.join(task.classes)}{limits}"


def _verify(arguments: argparse.Namespace) -> Answer:
    bundle = open_bundle(arguments.bundle, key=arguments.key)
    name, version = bundle.manifest.name, bundle.manifest.version
    result = {"ok": True, "name": name, "version": version, "digest": bundle.digest}
    return ExitCode.DONE, result, [f"{name} {version}: the signature holds, digest {bundle.digest}"]


def _selftest(arguments: argparse.Namespace) -> Answer:
    outcome = self_test(open_bundle(arguments.bundle, key=arguments.key), arguments.engine)
    lines = [f"  {d.tensor:<24} largest {d.largest:.3g}, relative {d.relative:.3g}" for d in outcome.drifts]
    lines += [f"  {outcome.decoder_changed} image(s) are decoded to other pixels"] if outcome.decoder_changed else []
    lines += [f"  {fault}" for fault in outcome.faults]
    word = "holds" if outcome.ok else "FAILED"
    lines.append(f"self-test {word} on {outcome.engine}: {outcome.images} images, {outcome.flips} decisions flipped")
    return ExitCode.DONE if outcome.ok else ExitCode.REFUSED, msgspec.to_builtins(outcome), lines


def _bench(arguments: argparse.Namespace) -> Answer:
    from .benchmark.verb import run_bench  # with imports that no other verb needs

    return run_bench(arguments, lambda line: print(line, file=sys.stderr, flush=True))


def _build_engine(arguments: argparse.Namespace) -> Answer:
    from .tensorrt.verb import run_build  # with imports that no other verb needs

    return run_build(arguments, lambda line: print(line, file=sys.stderr, flush=True))


VERBS: dict[str, Callable[[argparse.Namespace], Answer]] = {
    "predict": _predict,
    "inspect": _inspect,
    "verify": _verify,
    "selftest": _selftest,
    "bench": _bench,
    "build-engine": _build_engine,
}

if __name__ == "__main__":
    sys.exit(main())
