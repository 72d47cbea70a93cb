"""Stages that make artefacts of a student: int8 graph, bundle, proof, signature, figures; see `table.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from ...runtime.dicom.rule import SourceRule
from ...runtime.manifest import Arithmetic, EngineName, InputType
from ..fitness.knobs import FitnessKnobs
from ..knobs import Count
from ..stage import Stage
from ..work import Work
from .data import dataset_of
from .network import NETWORKS, STUDENTS, TEACHERS, require_int8

MIN_CALIBRATION_IMAGES = 128


class Quantize(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Quantise a student to the portable int8 graph (signed, symmetric, per-channel weights, heads' last layers float).

    Args:
        of: the step of the student, or of a teacher that is to run on a server.
        split: the images that set the ranges; never those of training or of the proof.
        images: at most so many of them.
        min_images: fewer are refused; a number below 128 is shown in the bundle and the report.
        method: how ranges are set; `auto` takes the rule with the least noise. Ranges that a `qat` step has learned are
            taken as they are.
        equalise: cross-layer equalisation: channels of `weights` or of `activations` are made more equal.
        rounding: of the weights: to the nearest step, or `adaround`, as the layers' answers ask.
        bias_correction: takes each layer's mean error out of its bias. Of these levers, `auto` keeps what pays.
        least_slack: mixed precision: the most sensitive layers go back to float until the worst task has so much slack
            on the validation images (1 as good as float, 0 its whole margin lost); none: 8 bits throughout.
        most_float: layers that may go back.
        overflow: the cure on a device whose profile asks for 7-bit weights: `fit` coarsens a channel only as far as its
            worst pair of weights asks, `seven` halves every scale, `unsigned` is for ONNX Runtime alone.
        float_layers: layers that stay float, by name (`saturation.json`) or by module (`backbone.conv_stem`).
    """

    VERSION = 3  # 2 looked at no image and told nothing by layer; 1 had no lint, and 63 steps everywhere with 7 bits
    INPUTS = ("of",)
    ACCEPTS = {"of": (*STUDENTS, *NETWORKS)}  # noqa: RUF012
    USES = frozenset({"tasks", "device"})

    of: str
    split: Literal["calibration", "val"] = "calibration"
    images: Count = 256
    min_images: Count = MIN_CALIBRATION_IMAGES
    method: Literal["minmax", "percentile", "entropy", "mse", "auto"] = "minmax"
    equalise: Literal["off", "weights", "activations", "auto"] = "off"
    rounding: Literal["nearest", "adaround", "auto"] = "nearest"
    bias_correction: Literal["off", "on", "auto"] = "off"
    least_slack: Annotated[float, Meta(le=1)] | None = None
    most_float: Count = 4
    overflow: Literal["fit", "seven", "unsigned"] = "fit"
    float_layers: tuple[str, ...] = ()

    def check_ahead(self, work: Work) -> None:
        """The device computes int8; enough calibration images, none of them used elsewhere."""
        from ..data.dataset import calibration_set

        require_int8(work.device, work.step)
        calibration_set(dataset_of(work), self.split, self.images, self.min_images)

    def run(self, work: Work) -> None:
        """Export to ONNX, calibrate, write the int8 graph and what the saturation lint says of it."""
        from ..compress.quantise import quantise_student

        quantise_student(
            work.inputs["of"],
            dataset_of(work),
            split=self.split,
            images=self.images,
            min_images=self.min_images,
            method=self.method,
            opset=work.device.export.opset,
            weight_bits=work.device.export.weight_bits,
            overflow=self.overflow,
            float_layers=self.float_layers,
            equalise=self.equalise,
            rounding=self.rounding,
            bias_correction=self.bias_correction,
            least_slack=self.least_slack,
            most_float=self.most_float,
            folder=work.folder,
            cache=work.cache,
            progress=work.progress,
            log=work.log,
        )


class Export(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Make the bundle's core: the best form for each engine, locked thresholds, comparison with torch, self-test, SBOM.

    Every form that the device can run is written, held against torch on the validation images and timed; of each engine
    one ships, and `variants.json` says why the others do not. A choice by measured times can fall otherwise on another
    machine: `pick: roofline` or `first` makes the bundle a function of the recipe alone.

    Args:
        of: the step of the quantised student, or of a student for a float bundle; or of a teacher, for a server.
        engines: which artefacts the bundle carries, the preferred first; empty: all engines of the device.
        precisions: which are tried; empty: those of the device's engines.
        nncf: try NNCF's own int8 on OpenVINO too; `accuracy` puts layers back to float until the worst task keeps its
            margin on the validation images.
        weight_only: try float32 with weights stored as bytes too: a quarter of the size, seldom faster.
        pick: by times measured here (`measure`), by the device's `roofline`, measured where this machine is such a
            device and else by the roofline (`auto`), or the `first` of `precisions` that keeps its margins.
        input_type: of the graphs: `float32` in 0..1, or `uint16` for a detector's words (not for TensorRT).
        compare: validation images on which every artefact is compared with torch.
        golden: images of the calibration split that the self-test carries.
        version: of the bundle.
        source: which DICOM objects the bundle answers about; none asks only for a picture for presentation.
        fitness: which images are fit to be answered about, found on training and validation images; none: all.
    """

    VERSION = 3  # 2 wrote one form for each engine
    INPUTS = ("of",)
    ACCEPTS = {"of": ("calibrate", "quantize", *STUDENTS, *NETWORKS)}  # noqa: RUF012
    USES = frozenset({"tasks", "margins", "device"})

    of: str
    engines: tuple[EngineName, ...] = ()
    precisions: tuple[Arithmetic, ...] = ()
    nncf: Literal["off", "on", "accuracy"] = "on"
    weight_only: bool = False
    pick: Literal["auto", "measure", "roofline", "first"] = "auto"
    input_type: InputType = "float32"
    compare: Count = 32
    golden: Count = 3
    version: str = "1.0.0"
    source: SourceRule | None = None
    fitness: FitnessKnobs | None = None

    def check_ahead(self, work: Work) -> None:
        """The device has the engines and the precisions, and there are images enough to say what is fit."""
        from ..variants.candidates import candidates

        candidates(work.device, self.engines, precisions=self.precisions, quantised=True, nncf=self.nncf != "off")
        if self.fitness is not None:
            from ..fitness.find import check_images

            check_images(dataset_of(work), self.fitness.false_alarms, novelty=self.fitness.novelty)

    def run(self, work: Work) -> None:
        """Write `core.foveola`, not yet proved and not signed, `variants.json` and `layers.json`."""
        from ..explain.keep import keep_layers
        from ..ship import make_core
        from ..variants.table import VARIANTS, read_variants, variant_lines

        make_core(
            work.inputs["of"],
            dataset_of(work),
            engines=self.engines,
            precisions=self.precisions,
            nncf=self.nncf,
            weight_only=self.weight_only,
            pick=self.pick,
            input_type=self.input_type,
            compare=self.compare,
            golden=self.golden,
            name=work.recipe.name,
            version=self.version,
            source=self.source,
            fitness=self.fitness,
            device=work.device,
            recipe_digest=work.recipe.digest,
            seed=work.seed,
            folder=work.folder,
            cache=work.cache,
            progress=work.progress,
        )
        of, name, device = work.inputs["of"], work.recipe.name, work.recipe.device
        keep_layers(of, name, dataset_of(work), device=device, folder=work.folder, cache=work.cache)
        for line in variant_lines(read_variants(work.folder / VARIANTS)):
            work.log(line)


class Parity(Stage, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prove the bundle against its teacher on images that neither training nor calibration has seen.

    Args:
        bundle: the step of the bundle.
        against: the step of the teacher.
        protocol: the step that fixed the protocol; empty judges by the tasks' margins and the usual ones.
        split: the images of the proof, where no protocol says it.
        resamples: of the patient bootstrap, where no protocol says it.
        pictures: how many of the worst flips the report shows.
    """

    VERSION = 2  # 1 wrote proofs of format 1
    INPUTS = ("bundle", "against", "protocol")
    ACCEPTS = {"bundle": ("export",), "against": TEACHERS, "protocol": ("protocol",)}  # noqa: RUF012
    USES = frozenset({"tasks", "margins"})

    bundle: str
    against: str
    protocol: str = ""
    split: Literal["test", "val"] = "test"
    resamples: Annotated[int, Meta(ge=100)] = 2000
    pictures: Annotated[int, Meta(ge=0, le=50)] = 8

    def check_ahead(self, work: Work) -> None:
        """There are images to prove something on, and nothing else uses them."""
        from ..data.dataset import proof_set

        proof_set(dataset_of(work), self.split)

    def run(self, work: Work) -> None:
        """Write `evidence.json`, `flips.csv` and `report.html`."""
        from ..finished import read_locked
        from ..proof.recipe import prove_bundle
        from ..ship import CORE
        from ..teachers.load import load_teacher
        from .protocol import read_step

        prove_bundle(
            work.inputs["bundle"] / CORE,
            load_teacher(work.inputs["against"]),
            read_locked(work.inputs["against"]),
            dataset_of(work),
            protocol=read_step(work.inputs["protocol"]) if self.protocol else None,
            split=self.split,
            resamples=self.resamples,
            pictures=self.pictures,
            seed=work.seed,
            teacher_digest=work.digests["against"],
            folder=work.folder,
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

    VERSION = 3  # 2 left out the account of the forms; 1 let names of cases travel with the bundle
    INPUTS = ("bundle", "proof")
    ACCEPTS = {"bundle": ("export",), "proof": ("parity",)}  # noqa: RUF012
    PATHS = ("key",)

    bundle: str
    proof: str
    key: str = ""
    require: Literal["pass", "any"] = "pass"

    def run(self, work: Work) -> None:
        """Write `<recipe>.foveola` and `<recipe>.pub`, and the account of the forms once more."""
        from ..ship import sign_core

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
    ACCEPTS = {"bundle": ("sign",), "teacher": TEACHERS, "proof": ("parity",)}  # noqa: RUF012

    bundle: str
    teacher: str
    proof: str
    repeats: Count = 50

    def run(self, work: Work) -> None:
        """Write `speeds.json` and `report.html`."""
        from ..speed import measure_bundle

        measure_bundle(
            work.inputs["bundle"],
            work.inputs["teacher"],
            work.inputs["proof"],
            dataset_of(work),
            repeats=self.repeats,
            folder=work.folder,
            progress=work.progress,
        )
