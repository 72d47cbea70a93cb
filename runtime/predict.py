"""From an image file's bytes to a prediction, on one engine, as it was validated.

predictor = open_predictor(Path("chest.foveola"), key=Path("maker.pub"))
for finding in predictor.predict(Path("chest.png")).findings:
    print(finding.label, finding.probability, finding.positive)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .answer import decode
from .bundle import Bundle, open_bundle
from .engine import INSTALL, Tensor, engine_of, is_installed, open_session
from .errors import FoveolaError, MissingPartError, UsageError
from .image import prepare
from .manifest import EngineName, EngineOptions, Manifest, TensorRtOptions
from .prediction import Prediction
from .source import open_source

if TYPE_CHECKING:
    from .fitness.judge import Gate


class Predictor:
    """A bundle, opened on one engine and warmed up. Several threads may share it.

    Args:
        bundle: from `open_bundle`, so that somebody vouches for it.
        engine: `onnxruntime`, `openvino` or `tensorrt`; None takes the manifest's first engine that is installed.
        engines: folder of the engines that TensorRT has built; None: `FOVEOLA_ENGINES`, else `NAME.engines` beside the
            bundle's file.

    Raises:
        FoveolaError: the bundle was not validated on that engine, or the engine refuses the graph.
        UsageError: there is no such engine.
        MissingPartError: the engine is not installed.
    """

    def __init__(self, bundle: Bundle, engine: str | None = None, engines: Path | None = None) -> None:
        options = choose_engine(bundle.manifest, engine)
        self.manifest: Manifest = bundle.manifest
        self.engine: EngineName = engine_of(options)
        self.arithmetic = options.arithmetic
        absent = [name for name in options.files if name not in bundle.members]
        if absent:
            raise FoveolaError(bundle.manifest.name, f"was opened without {absent[0]}", "open it without `only`")
        _keep_memory()
        self._session = open_session(options, bundle.members, _engines(options, bundle, engines))
        spec = self.manifest.input
        self._shape = (1, spec.channels, spec.height, spec.width)
        self.gate = _gate(self.manifest, self.engine)
        self._check_graph()
        # The first run of an engine allocates and packs weights; the first patient should not wait for it.
        self.run(np.zeros(self._shape, np.float32))

    def predict(self, image: Path | bytes, place: str = "") -> Prediction:
        """Answer about one image.

        Args:
            image: a file, or a file's bytes: PNG, JPEG, TIFF, BMP or DICOM.
            place: how to name the image in an error; by default the path.

        Raises:
            FoveolaError: the image cannot be read, the manifest's rule does not allow it, or the network's answer is
                no answer (NaN).
            MissingPartError: a DICOM object, and `foveola[dicom]` is not installed.
        """
        return self.answer(open_source(image, self.manifest.input, self.manifest.source, place).picture)

    def answer(self, picture: Image.Image) -> Prediction:
        """Answer about a picture that is read already; one that is not fit gets its reasons and no score.

        Args:
            picture: mode L, I;16 or RGB.

        Raises:
            FoveolaError: the network's answer is no answer (NaN).
        """
        spec, gate = self.manifest.input, self.gate
        quality = None if gate is None else gate.look(picture)
        if quality is not None and not quality.fit:
            return Prediction(quality=quality)
        x_CHW, geometry = prepare(picture, spec)
        raw = self.run(x_CHW[None])
        if gate is None or quality is None:
            return decode(self.manifest.outputs, raw, geometry, spec)
        quality = gate.weigh(quality, raw)
        if not quality.fit:
            return Prediction(quality=quality)
        return msgspec.structs.replace(decode(self.manifest.outputs, raw, geometry, spec), quality=quality)

    def run(self, tensor: Tensor) -> dict[str, NDArray[np.float32]]:
        """Run the graph alone: a prepared input (1, C, H, W) to raw outputs by tensor name.

        Args:
            tensor: float32 in 0..1 as `prepare` makes it, or a detector's words as uint16 in 0..65535.

        Raises:
            FoveolaError: the input has another shape or type.
        """
        known = tensor.dtype in (np.float32, np.uint16)
        if tensor.shape != self._shape or not known or not tensor.flags.c_contiguous:
            fault = f"{tensor.dtype} {tensor.shape}, not contiguous float32 or uint16 {self._shape}"
            raise FoveolaError("input tensor", fault, "make it with `prepare`")
        return self._session.run(tensor)

    def _check_graph(self) -> None:
        place = f"{self.manifest.name} on {self.engine}"
        if self._session.input_shape != self._shape:
            fault = f"the graph takes {self._session.input_shape}, the manifest says {self._shape}"
            raise FoveolaError(place, fault, "make the bundle anew")
        if self._session.input_type != self.manifest.input_type:
            fault = f"the graph takes {self._session.input_type}, the manifest says {self.manifest.input_type}"
            raise FoveolaError(place, fault, "make the bundle anew")
        needed = {name for output in self.manifest.outputs for name in output.tensors}
        if self.manifest.fitness is not None and self.manifest.fitness.novelty is not None:
            needed.add(self.manifest.fitness.novelty.tensor)
        absent = sorted(needed - set(self._session.outputs))
        if absent:
            raise FoveolaError(place, f"the graph has no output {', '.join(absent)}", "make the bundle anew")


def open_predictor(path: Path, engine: str | None = None, key: Path | bytes | None = None) -> Predictor:
    """Open a bundle that somebody vouches for and make it ready to predict; see `open_bundle` for the key.

    Members that the engine does not need are vouched for and not kept in memory.
    """
    return Predictor(open_bundle(path, key=key, only=engine_files(engine)), engine)


def engine_files(engine: str | None) -> Callable[[Manifest], tuple[str, ...]]:
    """Give what `open_bundle` asks for `only`: the members that the engine of a manifest reads."""
    return lambda manifest: choose_engine(manifest, engine).files


def _engines(options: EngineOptions, bundle: Bundle, given: Path | None) -> Path | None:
    """Name the folder of built engines, where there is such a thing."""
    if not isinstance(options, TensorRtOptions):
        return None
    from .tensorrt.plan import engines_folder

    return engines_folder(bundle.path, given)


def _gate(manifest: Manifest, engine: EngineName) -> Gate | None:
    """Make what judges images, where the manifest has a rule for them; others do not pay for its import."""
    if manifest.fitness is None:
        return None
    from .fitness.judge import Gate

    return Gate(manifest.fitness, engine)


def _keep_memory() -> None:
    """Make glibc keep freed arrays of up to 16 MiB instead of handing each back to the system.

    It raises that limit by itself when it first frees a block so large (mallopt(3), M_MMAP_THRESHOLD). Without it every
    image pays for its masks' pages anew: 0.6 ms at 512 x 512, measured. Elsewhere this does nothing.
    """
    block = np.empty(16 * 2**20, np.uint8)
    del block


def choose_engine(manifest: Manifest, engine: str | None) -> EngineOptions:
    """Give the settings of an engine of a bundle; of None, those of its first engine that is installed.

    Raises:
        FoveolaError: the bundle was not validated on that engine.
        UsageError: there is no such engine.
        MissingPartError: no engine of the bundle is installed.
    """
    offered: dict[EngineName, EngineOptions] = {engine_of(options): options for options in manifest.engines}
    if engine is None:
        for name, options in offered.items():
            if is_installed(name):
                return options
        cures = " or ".join(INSTALL[name] for name in offered)
        raise MissingPartError(manifest.name, "no engine of this bundle is installed", cures)
    for name, options in offered.items():
        if name == engine:
            return options
    known = " and ".join(offered)
    if engine not in get_args(EngineName):
        raise UsageError(f"engine {engine!r}", "there is no such engine", f"this bundle runs on {known}")
    raise FoveolaError(f"engine {engine!r}", f"{manifest.name} was not validated on it", f"take {known}")
