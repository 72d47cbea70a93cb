"""From a quantised student to the file that ships: the core that is proved, then core, proof and signature in one.

The core holds the graphs, the manifest with the locked thresholds, the self-test and the bill of materials. Thresholds
are locked on the validation split with the artefact that ships, not with the network in torch.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from ..devices.profile import Profile, options_for
from ..export.compare import compare_engines
from ..export.onnx_graph import export_onnx
from ..export.openvino_ir import write_ir
from ..export.sbom import sbom_json
from ..export.signing import make_keys, sign_members
from ..runtime.answer import decode, tempered
from ..runtime.bundle import Bundle, read_unverified, write_bundle
from ..runtime.engine import Session, open_session
from ..runtime.errors import FoveolaError, ProofFailedError, UnderpoweredError
from ..runtime.features import answer_features, input_features
from ..runtime.histogram import Reference, histograms
from ..runtime.image import decode_image, prepare
from ..runtime.manifest import (
    FORMAT,
    Calibration,
    Comparison,
    EngineName,
    EngineOptions,
    Manifest,
    Provenance,
    TaskOutput,
    encode_manifest,
)
from ..runtime.predict import Predictor
from ..runtime.seen import SEEN, encode_seen
from ..runtime.selftest import GOLDEN, make_golden
from ..runtime.task import Task
from .answers import RawAnswers
from .compress.lessons import read_taught
from .compress.quantise import CALIBRATION, INT8_GRAPH, graph_outputs
from .data.arrays import Arrays, prepare_arrays
from .data.dataset import Dataset
from .models.network import Network, load_network, tensor_names
from .models.student_heads import MAX_BOXES, NMS_IOU, SCORE_FLOOR, grid_boxes
from .parity.evidence import EVIDENCE, PROOF, decode_evidence
from .proof.recipe import SHIPPED, SHIPPED_REPORT
from .score import lock_thresholds
from .stage import digest_path
from .temperature import read_temperatures, warmed

CORE = "core.foveola"
Progress = Callable[[int, int, str], None]
VERSIONED = ("foveola", "numpy", "onnx", "onnxruntime", "openvino", "pillow", "torch", "timm")


def make_core(
    of: Path,
    dataset: Dataset,
    *,
    engines: Sequence[EngineName],
    compare: int,
    golden: int,
    name: str,
    version: str,
    device: Profile,
    recipe_digest: str,
    seed: int,
    folder: Path,
    cache: Path,
    progress: Progress,
) -> Bundle:
    """Write `core.foveola`.

    Args:
        of: folder of a quantised student, or of a student for a float32 bundle.
        dataset: its validation split locks thresholds and compares artefacts; its calibration split gives the self-test
            images, which are then inside the bundle.
        engines: which artefacts, the preferred first.
        compare: number of images on which each artefact is held against torch.
        golden: number of images of the self-test.
        name: of the bundle.
        version: of the bundle.
        device: decides threads and opset.
        recipe_digest: where it comes from.
        seed: of the recipe.
        folder: where the results go.
        cache: where decoded images are kept.
        progress: called with (done, total, text).

    Raises:
        FoveolaError: an engine that the device does not have, no validation images.
    """
    network = load_network(of)
    options, members, calibration = _artefacts(of, network, engines, device, folder)
    sessions: dict[EngineName, Session] = {
        one: open_session(option, members) for one, option in zip(engines, options, strict=True)
    }
    progress(1, 4, "locking thresholds on the validation split")
    val = prepare_arrays(dataset.subset("val"), network.input, cache=cache)
    if len(val) == 0:
        raise FoveolaError(str(dataset.root), "no case in split 'val'", "thresholds are locked there; add some")
    fits = read_temperatures(of)
    warmth = {fit.task: fit.temperature for fit in fits}
    answers = warmed(session_answers(sessions[engines[0]], network, val.images), warmth)
    outputs = task_outputs(network, lock_thresholds(network.tasks, answers, val), warmth)

    progress(2, 4, "comparing every artefact with torch")
    comparisons = tuple(_compare(one, session, network, outputs, val, compare) for one, session in sessions.items())
    manifest = Manifest(
        format=FORMAT,
        name=name,
        version=version,
        device=device.id,
        input=network.input,
        outputs=outputs,
        engines=tuple(options),
        calibration=calibration,
        comparisons=comparisons,
        temperatures=fits,
        provenance=Provenance(
            recipe=name,
            recipe_digest=recipe_digest,
            data_digest=dataset.digest,
            teacher_digest=read_taught(of),
            student_digest=digest_path(of / "model.safetensors", str(of)),
            seed=seed,
            network=network.architecture.backbone,
            pruning="none",
            versions={package: importlib.metadata.version(package) for package in VERSIONED},
        ),
    )
    progress(3, 4, "writing self-test and bill of materials")
    members[SEEN] = encode_seen(sample.sha256 for sample in dataset.samples if sample.split != "test")
    members["manifest.json"] = encode_manifest(manifest)
    bundle = write_bundle(folder / CORE, members)
    described = describe_reference(Predictor(bundle, engines[0]), dataset.subset("val"), "val")
    manifest = msgspec.structs.replace(manifest, reference=described)
    members["manifest.json"] = encode_manifest(manifest)
    bundle = write_bundle(folder / CORE, members)
    calibrated_on = dataset.subset("calibration") if len(dataset.subset("calibration")) else dataset.subset("val")
    images = [sample.path.read_bytes() for sample in calibrated_on.samples[:golden]]
    members[GOLDEN] = make_golden([Predictor(bundle, one) for one in engines], images)
    members["sbom.cdx.json"] = sbom_json(manifest, members)
    return write_bundle(folder / CORE, members)


def _artefacts(
    of: Path, network: Network, engines: Sequence[EngineName], device: Profile, folder: Path
) -> tuple[list[EngineOptions], dict[str, bytes], Calibration]:
    """Engine options, graph members, and how the graph was calibrated."""
    offered = options_for(device, engines)
    graph, quantised = of / INT8_GRAPH, (of / CALIBRATION).exists()
    if quantised:
        calibration = msgspec.json.decode((of / CALIBRATION).read_bytes(), type=Calibration)
    else:
        graph = folder / "float.onnx"
        export_onnx(network, network.input, graph_outputs(network), graph, opset=device.export.opset)
        calibration = Calibration(method="none", images=0, min_images=0, images_digest="0" * 64)
    members = {"model.onnx": graph.read_bytes()}
    if "openvino" in engines:
        xml = folder / "openvino.xml"
        write_ir(graph, xml)
        members |= {"openvino.xml": xml.read_bytes(), "openvino.bin": xml.with_suffix(".bin").read_bytes()}
    arithmetic: Literal["int8", "float32"] = "int8" if quantised else "float32"
    options = [msgspec.structs.replace(one, arithmetic=arithmetic) for one in offered]
    return options, members, calibration


def describe_reference(predictor: Predictor, dataset: Dataset, split: str) -> Reference | None:
    """Histograms of images and answers, by which a drift can be seen later.

    An image that is refused is left out, and counted nowhere; None where all are.
    """
    inputs: dict[str, list[float]] = {}
    answers: dict[str, list[float]] = {}
    patients: list[str] = []
    manifest = predictor.manifest
    for sample in dataset.samples:
        try:
            x_CHW, geometry = prepare(decode_image(sample.path), manifest.input)
            prediction = decode(manifest.outputs, predictor.run(x_CHW[None]), geometry, manifest.input)
        except FoveolaError:
            continue
        patients.append(sample.patient)
        for kept, found in ((inputs, input_features(x_CHW)), (answers, answer_features(prediction))):
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


def task_outputs(
    network: Network, locked: Mapping[str, tuple[float, ...]], warmth: Mapping[str, float] | None = None
) -> tuple[TaskOutput, ...]:
    """How the graph's raw outputs become answers, with the thresholds that were locked and the temperatures."""
    outputs = []
    for task in network.tasks:
        mean, std = network.target_scale.get(task.name, ((), ()))
        boxes = task.kind == "detection"
        outputs.append(
            TaskOutput(
                task=shipped_task(task),
                tensors=tensor_names(task, "student"),
                thresholds=locked.get(task.name, ()),
                mean=mean,
                std=std,
                temperature=(warmth or {}).get(task.name, 1.0),
                stride=network.architecture.box_stride if boxes else 0,
                nms_iou=NMS_IOU,
                score_floor=SCORE_FLOOR,
                max_boxes=MAX_BOXES,
            )
        )
    return tuple(outputs)


def shipped_task(task: Task) -> Task:
    """The task without what only training and proof need (columns, weight, margins, critical classes)."""
    return msgspec.structs.replace(task, columns=(), ignore_column="", weight=1.0, margins={}, critical=())


def session_answers(session: Session, network: Network, images: NDArray[np.float32]) -> RawAnswers:
    """An artefact's raw answers to prepared images (N, C, H, W), one at a time as on the device."""
    raw: dict[str, list[NDArray[np.float32]]] = {task.name: [] for task in network.tasks if task.kind != "detection"}
    boxes: dict[str, list[NDArray[np.float32]]] = {task.name: [] for task in network.tasks if task.kind == "detection"}
    size = (network.input.height, network.input.width)
    for i in range(len(images)):
        found = session.run(np.ascontiguousarray(images[i : i + 1]))
        for name, many in raw.items():
            many.append(found[name])
        for name, rows in boxes.items():
            sides, scores = found[f"{name}.boxes"][0], found[f"{name}.scores"][0]
            rows.append(grid_boxes(sides, scores, network.architecture.box_stride, size).astype(np.float32))
    return RawAnswers({name: np.concatenate(many) for name, many in raw.items()}, boxes)


def _compare(
    engine: EngineName, session: Session, network: Network, outputs: Sequence[TaskOutput], val: Arrays, count: int
) -> Comparison:
    """One artefact against torch on the first images of the validation split, both at the temperatures that ship."""

    def pairs() -> Iterator[tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]]:
        for i in range(min(count, len(val))):
            x = np.array(val.images[i : i + 1])
            with torch.inference_mode():
                reference = {name: raw.numpy() for name, raw in network(torch.from_numpy(x)).items()}
            yield _tempered(outputs, reference), _tempered(outputs, session.run(x))

    return compare_engines(engine, pairs(), outputs)


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
