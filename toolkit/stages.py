"""All stages that a recipe may name, in one visible table; each is its knobs and one call of a plain function.

What a field means stands in its class; `foveola schema` prints all of it for editors. Nothing heavy is imported until a
stage runs, so that reading, planning and explaining a recipe is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, field

from ..runtime.manifest import EngineName, InputSpec
from .data.phantom import SHARES
from .data.samples import Columns
from .knobs import Augment, Plan, Shape
from .stage import DataStage, Stage
from .work import Work
from .workers import leads

if TYPE_CHECKING:
    from .data.dataset import Dataset

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(gt=0)]
Above = Annotated[float, Meta(gt=0)]

MIN_CALIBRATION_IMAGES = 128


# --- data ---


class Phantom(DataStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Make phantoms: a data set without a download.

    Args:
        anatomy: `chest` (16-bit radiographs) or `fundus` (colour photographs).
        patients: number of patients, one to three images each.
        size: side of the pictures in pixels.
        shares: share of the patients in train, val, calibration and test.
    """

    anatomy: Literal["chest", "fundus"] = "chest"
    patients: Count = 300
    size: Annotated[int, Meta(ge=64)] = 256
    shares: dict[str, Share] = field(default_factory=lambda: dict(SHARES))

    def run(self, work: Work) -> None:
        """Draw all pictures."""
        from .data.phantom_chest import make_chest
        from .data.phantom_fundus import make_fundus

        make = make_chest if self.anatomy == "chest" else make_fundus
        make(
            work.folder,
            patients=self.patients,
            seed=work.seed,
            size=self.size,
            shares=self.shares,
            progress=work.progress,
        )

    def dataset(self, work: Work) -> Dataset:
        """The finished phantoms."""
        from .data.dataset import Columns, read_dataset

        attributes = ("sex", "view", "site") if self.anatomy == "chest" else ("camera", "eye")
        return read_dataset(work.data, work.tasks, columns=Columns(attributes=attributes))


class Manifest(DataStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Images that exist: a folder with a manifest (docs/data.md).

    Args:
        root: the folder; paths in the manifest are relative to it.
        manifest: name of the CSV in it.
        columns: which columns hold file, patient, split and the attributes for subgroups.
        calibration: share of the train patients set apart for calibration.
    """

    PATHS = ("root",)

    root: str
    manifest: str = "manifest.csv"
    columns: Columns = Columns()
    calibration: Share = 0.0

    def run(self, work: Work) -> None:
        """Check the whole data set, pictures and all; refuse it with its faults, and leave `survey.json`."""
        from .data.check import survey_dataset
        from .data.faults import Faults
        from .train import write_json

        survey = survey_dataset(
            Path(self.root), work.tasks, manifest=self.manifest, columns=self.columns, progress=work.progress
        )
        for fault in survey.warnings:
            work.log(f"warning: {fault}")
        faults = Faults()
        faults.found.extend(survey.faults)
        faults.refuse(str(Path(self.root) / self.manifest))
        write_json(work.folder / "survey.json", survey)

    def dataset(self, work: Work) -> Dataset:
        """The data set as it lies there."""
        from .data.dataset import read_dataset

        return read_dataset(
            Path(self.root),
            work.tasks,
            manifest=self.manifest,
            columns=self.columns,
            calibration=self.calibration,
            seed=work.seed,
        )


def dataset_of(work: Work) -> Dataset:
    """The data set of the recipe."""
    from .recipe import Recipe

    assert isinstance(work.recipe, Recipe)
    stage = work.recipe.data.stage
    assert isinstance(stage, Phantom | Manifest)
    return stage.dataset(work)


# --- networks ---


class FitStage(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The knobs of every training.

    Args:
        backbone: timm's name of the network.
        input: size, channels, window and normalisation of the input.
        weights: safetensors checkpoint of the backbone to start from; empty starts at random.
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: largest rate of AdamW.
        weight_decay: of AdamW.
        warmup: share of the steps in which the rate rises.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights that are validated and kept; 0 for none.
        augment: variation of the pictures.
    """

    USES = frozenset({"tasks"})
    PATHS = ("weights",)
    RESUMES = True
    TOGETHER = True

    backbone: str
    input: InputSpec
    weights: str = ""
    epochs: Count = 30
    batch_size: Count = 32
    learning_rate: Above = 1e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 0.05
    warmup: Share = 0.1
    clip: Above = 5.0
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    augment: Augment = Augment()

    def plan(self) -> Plan:
        """The loop's knobs."""
        return Plan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip=self.clip,
            ema=self.ema,
            augment=self.augment,
        )

    def start(self) -> Path | None:
        """The checkpoint to start from."""
        return Path(self.weights) if self.weights else None


class Train(FitStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Train a teacher with full heads (linear, DeepLabV3, Faster R-CNN) on the reference standard.

    Args:
        width: channels of the detector's feature pyramid.
        output_stride: input pixels per cell of the coarsest map; 16 or 8 dilate the last stages.
    """

    width: Count = 256
    output_stride: Literal[8, 16, 32] = 16

    def run(self, work: Work) -> None:
        """Train; resumes at the last epoch."""
        from .train import train_teacher

        shape = Shape(backbone=self.backbone, input=self.input, width=self.width, output_stride=self.output_stride)
        train_teacher(
            dataset_of(work),
            shape,
            self.plan(),
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            weights=self.start(),
        )


class Load(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Take a teacher that was trained elsewhere: a timm or torchvision architecture and its safetensors checkpoint.

    Args:
        library: `timm` or `torchvision`.
        architecture: the library's name for the network.
        weights: the checkpoint, with the library's own keys.
        input: how the network was fed; `mean` and `std` as in its training.
        tasks: names of the tasks that its output channels answer, in order; empty means all of the recipe.
        outputs: number of its output channels, where there are more than the tasks need.
    """

    USES = frozenset({"tasks"})
    PATHS = ("weights",)

    library: Literal["timm", "torchvision"]
    architecture: str
    weights: str
    input: InputSpec
    tasks: tuple[str, ...] = ()
    outputs: Annotated[int, Meta(ge=0)] = 0

    def run(self, work: Work) -> None:
        """Load, lock thresholds on the validation split, save."""
        from .teachers.take import take_teacher

        take_teacher(
            dataset_of(work),
            library=self.library,
            architecture=self.architecture,
            weights=Path(self.weights),
            spec=self.input,
            names=self.tasks,
            outputs=self.outputs,
            folder=work.folder,
            cache=work.cache,
        )


class Distill(FitStage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Train a student on the teacher's answers, and on the reference standard where it is known.

    Args:
        teacher: the step of the teacher.
        width: channels of the student's decoder.
        mask_stride: input pixels per mask cell.
        box_stride: input pixels per cell of the detector's grid.
        soft_weight: share of the teacher's lesson in the loss.
        temperature: by which the teacher's logits are softened.
        hint_weight: weight of the feature hint; 0 for none.
    """

    INPUTS = ("teacher",)
    ACCEPTS = {"teacher": ("train", "load")}  # noqa: RUF012 - msgspec leaves class variables alone

    teacher: str
    width: Count = 64
    mask_stride: Literal[4, 8] = 8
    box_stride: Literal[4, 8] = 8
    soft_weight: Share = 0.7
    temperature: Above = 2.0
    hint_weight: Annotated[float, Meta(ge=0)] = 0.5

    def run(self, work: Work) -> None:
        """Ask the teacher once, then train; resumes at the last epoch."""
        from .compress.lessons import cached_answers, write_taught
        from .teachers.external import read_input
        from .train import distil_student

        dataset = dataset_of(work)
        answers = cached_answers(
            work.inputs["teacher"], work.digests["teacher"], dataset.subset("train"), work.cache, work.progress
        )
        shape = Shape(
            backbone=self.backbone,
            input=self.input,
            width=self.width,
            mask_stride=self.mask_stride,
            box_stride=self.box_stride,
        )
        distil_student(
            dataset,
            shape,
            self.plan(),
            answers,
            taught_on=read_input(work.inputs["teacher"]),
            soft_weight=self.soft_weight,
            temperature=self.temperature,
            hint_weight=self.hint_weight,
            folder=work.folder,
            cache=work.cache,
            seed=work.seed,
            report=work.progress,
            weights=self.start(),
        )
        if leads():
            write_taught(work.folder, work.digests["teacher"])


# --- artefacts ---


class Quantize(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Quantise a student to the portable int8 graph (signed, symmetric, per-channel weights, heads' last layers float).

    Args:
        of: the step of the student.
        split: the images that set the ranges; never those of training or of the proof.
        images: at most so many of them.
        min_images: fewer are refused; a number below 128 is shown in the bundle and the report.
        method: how ranges are set.
    """

    INPUTS = ("of",)
    ACCEPTS = {"of": ("distill",)}  # noqa: RUF012
    USES = frozenset({"tasks", "device"})

    of: str
    split: Literal["calibration", "val"] = "calibration"
    images: Count = 256
    min_images: Count = MIN_CALIBRATION_IMAGES
    method: Literal["minmax", "percentile", "entropy"] = "minmax"

    def run(self, work: Work) -> None:
        """Export to ONNX, calibrate, write the int8 graph."""
        from .compress.quantise import quantise_student

        quantise_student(
            work.inputs["of"],
            dataset_of(work),
            split=self.split,
            images=self.images,
            min_images=self.min_images,
            method=self.method,
            opset=work.device.export.opset,
            weight_bits=work.device.export.weight_bits,
            folder=work.folder,
            cache=work.cache,
            progress=work.progress,
        )


class Export(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Make the bundle's core: graphs for each engine, locked thresholds, comparison with torch, self-test, SBOM.

    Args:
        of: the step of the quantised student, or of a student for a float32 bundle.
        engines: which artefacts the bundle carries, the preferred first.
        compare: validation images on which every artefact is compared with torch.
        golden: images of the calibration split that the self-test carries.
        version: of the bundle.
    """

    INPUTS = ("of",)
    ACCEPTS = {"of": ("quantize", "distill")}  # noqa: RUF012
    USES = frozenset({"tasks", "device"})

    of: str
    engines: tuple[EngineName, ...] = ("onnxruntime", "openvino")
    compare: Count = 32
    golden: Count = 3
    version: str = "1.0.0"

    def run(self, work: Work) -> None:
        """Write `core.foveola`, not yet proved and not signed."""
        from .ship import make_core

        make_core(
            work.inputs["of"],
            dataset_of(work),
            engines=self.engines,
            compare=self.compare,
            golden=self.golden,
            name=work.recipe.name,
            version=self.version,
            device=work.device,
            recipe_digest=work.recipe.digest,
            seed=work.seed,
            folder=work.folder,
            cache=work.cache,
            progress=work.progress,
        )


class Parity(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prove the bundle against its teacher on images that neither training nor calibration has seen.

    Args:
        bundle: the step of the bundle.
        against: the step of the teacher.
        split: the images of the proof.
        resamples: of the patient bootstrap.
        pictures: how many of the worst flips the report shows.
    """

    INPUTS = ("bundle", "against")
    ACCEPTS = {"bundle": ("export",), "against": ("train", "load")}  # noqa: RUF012
    USES = frozenset({"tasks", "margins"})

    bundle: str
    against: str
    split: Literal["test", "val"] = "test"
    resamples: Annotated[int, Meta(ge=100)] = 2000
    pictures: Annotated[int, Meta(ge=0, le=50)] = 8

    def run(self, work: Work) -> None:
        """Write `parity.json` and `report.html`."""
        from .proof import prove_bundle
        from .ship import CORE
        from .teachers.external import load_teacher
        from .train import read_locked

        prove_bundle(
            work.inputs["bundle"] / CORE,
            load_teacher(work.inputs["against"]),
            read_locked(work.inputs["against"]),
            dataset_of(work),
            split=self.split,
            resamples=self.resamples,
            pictures=self.pictures,
            seed=work.seed,
            teacher_digest=work.digests["against"],
            folder=work.folder,
            cache=work.cache,
            progress=work.progress,
        )


class Sign(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Put core and proof into one file and sign it.

    Args:
        bundle: the step of the bundle.
        proof: the step of its proof.
        key: private key (PEM) of `foveola keygen`; empty makes a demo key beside the runs, which vouches for nothing.
        require: `pass` refuses to sign what the proof did not pass; `any` signs it, with its verdict inside.
    """

    INPUTS = ("bundle", "proof")
    ACCEPTS = {"bundle": ("export",), "proof": ("parity",)}  # noqa: RUF012
    PATHS = ("key",)

    bundle: str
    proof: str
    key: str = ""
    require: Literal["pass", "any"] = "pass"

    def run(self, work: Work) -> None:
        """Write `<recipe>.foveola` and `<recipe>.pub`."""
        from .ship import sign_core

        sign_core(
            work.inputs["bundle"],
            work.inputs["proof"],
            name=work.recipe.name,
            key=Path(self.key) if self.key else None,
            require=self.require,
            folder=work.folder,
            cache=work.cache,
        )


class Bench(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Measure every artefact on this machine beside its teacher, and write the report with the figures.

    Args:
        bundle: the step of the signed bundle.
        teacher: the step of the teacher.
        proof: the step of the proof.
        repeats: timed answers of each.
    """

    INPUTS = ("bundle", "teacher", "proof")
    ACCEPTS = {"bundle": ("sign",), "teacher": ("train", "load"), "proof": ("parity",)}  # noqa: RUF012

    bundle: str
    teacher: str
    proof: str
    repeats: Count = 50

    def run(self, work: Work) -> None:
        """Write `speeds.json` and `report.html`."""
        from .speed import measure_bundle

        measure_bundle(
            work.inputs["bundle"],
            work.inputs["teacher"],
            work.inputs["proof"],
            dataset_of(work),
            repeats=self.repeats,
            folder=work.folder,
            progress=work.progress,
        )


STAGES: dict[str, type[Stage]] = {
    "phantom": Phantom,
    "manifest": Manifest,
    "train": Train,
    "load": Load,
    "distill": Distill,
    "quantize": Quantize,
    "export": Export,
    "parity": Parity,
    "sign": Sign,
    "bench": Bench,
}
