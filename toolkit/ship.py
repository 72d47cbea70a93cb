"""From a quantised student to the file that ships: the core that is proved, then core, proof and signature in one.

The core holds the graphs, the manifest with the locked thresholds, the self-test and the bill of materials. Thresholds
are locked on the validation split with the artefact that ships, not with the network in torch.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..devices.profile import Profile
from ..export.compare import compare_engines
from ..export.sbom import sbom_json
from ..export.signing import make_keys, sign_members
from ..runtime.answer import decode, tempered
from ..runtime.box_map import comparable, comparable_outputs
from ..runtime.bundle import Bundle, read_unverified, write_bundle
from ..runtime.dicom.rule import SourceRule
from ..runtime.engine import Session, engine_of
from ..runtime.errors import FoveolaError, MissingPartError, ProofFailedError, UnderpoweredError
from ..runtime.features import answer_features, input_features, quality_features
from ..runtime.fitness.judge import Gate
from ..runtime.histogram import Reference, histograms
from ..runtime.image import decode_image, prepare
from ..runtime.manifest import (
    FORMAT,
    Arithmetic,
    Comparison,
    EngineName,
    InputSpec,
    InputType,
    Manifest,
    Provenance,
    TaskOutput,
    encode_manifest,
)
from ..runtime.seen import SEEN, encode_seen
from ..runtime.selftest import GOLDEN, Asked, make_golden
from .answers import RawAnswers
from .compress.lessons import read_taught
from .compress.prune.record import pruning_of
from .data.arrays import prepare_arrays
from .data.dataset import Dataset
from .explain.record import LAYERS_FILE
from .fitness.bundle import bundle_fitness
from .fitness.knobs import FitnessKnobs
from .json_files import write_json
from .models.network import load_network
from .models.outputs import task_outputs
from .parity.evidence import EVIDENCE, PROOF, decode_evidence
from .proof.recipe import SHIPPED, SHIPPED_REPORT
from .score import lock_thresholds
from .stage import digest_path
from .temperature import read_temperatures, warmed
from .variants.form import Pairs, torch_raw
from .variants.make import Nncf, Pick, make_variants
from .variants.table import VARIANTS

CORE = "core.foveola"
Progress = Callable[[float, float, str], None]
VERSIONED = ("foveola", "numpy", "onnx", "onnxruntime", "openvino", "pillow", "torch", "timm")


def make_core(
    of: Path,
    dataset: Dataset,
    *,
    engines: Sequence[EngineName],
    precisions: Sequence[Arithmetic] = (),
    nncf: Nncf = "on",
    weight_only: bool = False,
    pick: Pick = "auto",
    input_type: InputType = "float32",
    compare: int,
    golden: int,
    name: str,
    version: str,
    source: SourceRule | None = None,
    fitness: FitnessKnobs | None = None,
    device: Profile,
    recipe_digest: str,
    seed: int,
    folder: Path,
    cache: Path,
    progress: Progress,
) -> Bundle:
    """Write `core.foveola`, and the account of the forms that were tried (`variants.json`).

    Args:
        of: folder of a quantised student, or of a student for a float bundle.
        dataset: its validation split chooses among the forms, locks thresholds and compares with torch; its calibration
            split gives the self-test images, which are then inside the bundle.
        engines: which of the device's engines, the preferred first; none: all.
        precisions: which of their precisions are tried; none: all.
        weight_only: whether float32 with weights as bytes is tried.
        nncf: whether NNCF's int8 is tried on OpenVINO, and whether under accuracy control.
        pick: how one form of each engine is chosen (see `variants.make`).
        input_type: of the graphs; `uint16` takes a detector's words.
        compare: number of images on which each artefact is held against torch.
        golden: number of images of the self-test.
        name: of the bundle.
        version: of the bundle.
        source: which DICOM objects it answers about.
        fitness: what to find out about which images are fit; None: nothing. Its account is `fitness.json`.
        device: decides what is written and how.
        recipe_digest: where it comes from.
        seed: of the recipe.
        folder: where the results go.
        cache: where decoded images are kept.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: an engine that the device does not have, a graph that it refuses, no validation images.
    """
    network = load_network(of)
    val = prepare_arrays(dataset.subset("val"), network.input, cache=cache)
    if len(val) == 0:
        raise FoveolaError(str(dataset.root), "no case in split 'val'", "thresholds are locked there; add some")
    fits = read_temperatures(of)
    warmth = {fit.task: fit.temperature for fit in fits}

    def locked_outputs(answers: RawAnswers) -> tuple[TaskOutput, ...]:
        return task_outputs(network, lock_thresholds(network.tasks, warmed(answers, warmth), val), warmth)

    made = make_variants(
        of,
        network,
        dataset,
        val,
        device,
        engines=engines,
        precisions=precisions,
        nncf=nncf,
        weight_only=weight_only,
        pick=pick,
        input_type=input_type,
        compare=compare,
        features=fitness is not None and fitness.novelty,
        outputs=locked_outputs,
        cache=cache,
        progress=lambda done, total, text: progress(0.8 * done / total, 1, text),
    )
    write_json(folder / VARIANTS, made.variants)
    if not made.sessions:
        here = ", ".join(engine_of(one) for one in made.options)
        raise MissingPartError(name, f"none of its engines ({here}) is installed here", "install one of them")
    progress(0.8, 1, "locking thresholds, comparing every artefact with torch")
    outputs = locked_outputs(next(iter(made.answers.values())))
    pairs = torch_raw(network, val, compare)
    comparisons = tuple(_compare(*one, network.input, outputs, pairs) for one in made.sessions.items())
    manifest = Manifest(
        format=FORMAT,
        name=name,
        version=version,
        device=device.id,
        input=network.input,
        input_type=input_type,
        outputs=outputs,
        engines=made.options,
        calibration=made.calibration,
        comparisons=comparisons,
        temperatures=fits,
        source=source,
        fitness=bundle_fitness(fitness, made.sessions, dataset, network.input, folder, progress),
        budget=device.budget,
        provenance=Provenance(
            recipe=name,
            recipe_digest=recipe_digest,
            data_digest=dataset.digest,
            teacher_digest=read_taught(of),
            student_digest=digest_path(of / "model.safetensors", str(of)),
            seed=seed,
            network=network.architecture.backbone,
            pruning=pruning_of(of, network.architecture),
            versions={package: importlib.metadata.version(package) for package in VERSIONED},
        ),
    )
    progress(0.9, 1, "writing self-test and bill of materials")
    return _finish(folder / CORE, manifest, made.members, made.sessions, dataset, golden)


class _Asked(msgspec.Struct, frozen=True, eq=False):
    """Who gives the self-test's expected answers: an engine, or for TensorRT its graph in another engine."""

    engine: EngineName
    manifest: Manifest
    run: Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]


def _finish(
    path: Path,
    manifest: Manifest,
    graphs: Mapping[str, bytes],
    sessions: Mapping[EngineName, Session],
    dataset: Dataset,
    golden: int,
) -> Bundle:
    """Put everything else beside the graphs, and write the bundle."""
    members = dict(graphs)
    members[SEEN] = encode_seen(sample.sha256 for sample in dataset.samples if sample.split != "test")
    asked = [_Asked(engine, manifest, session.run) for engine, session in sessions.items()]
    manifest = msgspec.structs.replace(manifest, reference=describe_reference(asked[0], dataset.subset("val"), "val"))
    members["manifest.json"] = encode_manifest(manifest)
    calibrated_on = dataset.subset("calibration") if len(dataset.subset("calibration")) else dataset.subset("val")
    images = [sample.path.read_bytes() for sample in calibrated_on.samples[:golden]]
    members[GOLDEN] = make_golden(asked, images)
    members["sbom.cdx.json"] = sbom_json(manifest, members)
    return write_bundle(path, members)


def describe_reference(predictor: Asked, dataset: Dataset, split: str) -> Reference | None:
    """Histograms of images and answers, by which a drift can be seen later.

    An image that is refused is left out, and counted nowhere; None where all are.
    """
    inputs: dict[str, list[float]] = {}
    answers: dict[str, list[float]] = {}
    patients: list[str] = []
    manifest = predictor.manifest
    gate = None if manifest.fitness is None else Gate(manifest.fitness, predictor.engine)
    for sample in dataset.samples:
        try:
            picture = decode_image(sample.path)
            x_CHW, geometry = prepare(picture, manifest.input)
            raw = predictor.run(x_CHW[None])
            prediction = decode(manifest.outputs, raw, geometry, manifest.input)
        except FoveolaError:
            continue
        quality = {} if gate is None else quality_features(gate.weigh(gate.look(picture), raw))
        patients.append(sample.patient)
        for kept, found in ((inputs, input_features(x_CHW) | quality), (answers, answer_features(prediction))):
            for name, value in found.items():
                kept.setdefault(name, []).append(value)
    if not patients:
        return None
    return Reference(
        split=split,
        images=len(patients),
        patients=len(set(patients)),
        inputs=histograms({name: np.array(values) for name, values in inputs.items()}),
        answers=histograms({name: np.array(values) for name, values in answers.items()}),
    )


def _compare(
    engine: EngineName, session: Session, spec: InputSpec, outputs: Sequence[TaskOutput], pairs: Pairs
) -> Comparison:
    """One artefact against torch's answers to the same inputs, both at the temperatures that ship."""

    def meant(raw: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return comparable(outputs, _tempered(outputs, raw), spec)

    answered = ((meant(reference), meant(session.run(x))) for x, reference in pairs)
    return compare_engines(engine, answered, comparable_outputs(outputs))


def _tempered(outputs: Sequence[TaskOutput], raw: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Divide raw outputs by the tasks' temperatures: the locked thresholds are meant for these."""
    return {**raw, **{one.tensors[0]: tempered(one, raw[one.tensors[0]]) for one in outputs}}


def sign_core(
    bundle: Path,
    proof: Path,
    *,
    name: str,
    key: Path | None,
    require: Literal["pass", "any"],
    folder: Path,
    cache: Path,
) -> Bundle:
    """Write `<name>.foveola`, signed, and `<name>.pub` beside it.

    Args:
        bundle: folder of the core.
        proof: folder of its proof.
        name: of the file.
        key: private key; None makes (once) a demo key in `cache`.
        require: `pass` refuses what the proof did not pass.
        folder: where the results go.
        cache: where the demo key is kept.

    Raises:
        FoveolaError: the proof did not pass, or is one of another bundle; the key cannot sign.
    """
    unsigned = read_unverified(bundle / CORE)
    members, core = dict(unsigned.members), unsigned.core_digest
    evidence = decode_evidence((proof / EVIDENCE).read_bytes())
    if evidence.bundle_digest != core:
        raise FoveolaError(
            str(proof), f"is the proof of bundle {evidence.bundle_digest[:12]}, not of {core[:12]}", "prove this one"
        )
    if require == "pass" and evidence.verdict != "pass":
        mend = "require: any signs it all the same, with its verdict inside"
        kind = ProofFailedError if evidence.verdict == "fail" else UnderpoweredError
        raise kind(name, f"is not signed, since its proof says {evidence.verdict}", mend)
    members[PROOF] = (proof / SHIPPED).read_bytes()
    members["report.html"] = (proof / SHIPPED_REPORT).read_bytes()
    private = key or demo_key(cache)
    members["model.sig"] = sign_members(members, private.read_bytes())
    (folder / f"{name}.pub").write_bytes(_public_half(private))
    for name_of in (VARIANTS, LAYERS_FILE):
        if (bundle / name_of).exists() and bundle != folder:  # for the report with speeds
            shutil.copyfile(bundle / name_of, folder / name_of)
    return write_bundle(folder / f"{name}.foveola", members)


def demo_key(cache: Path) -> Path:
    """A key for trying things out; whoever has the folder can sign with it."""
    path = cache / "demo-key.pem"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            private, _ = make_keys(Path(scratch) / "demo-key")
            private.replace(path)
    return path


def _public_half(private: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    public = load_pem_private_key(private.read_bytes(), None).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
