"""Good images looked at once: their small copies, and the features that each engine gives of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...runtime.errors import FoveolaError
from ...runtime.fitness.copy import grey_plane, small_copy
from ...runtime.fitness.judge import SIDES, measure
from ...runtime.fitness.manifest import TEMPLATE_SIDE, FitnessKind
from ...runtime.fitness.radiograph import unit_thumbnail
from ...runtime.image import decode_image, prepare
from ...runtime.manifest import InputSpec
from ..data.dataset import Dataset

Run = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]
Template = NDArray[np.float32]


class Seen(msgspec.Struct, frozen=True, eq=False):
    """N images that could be read, in the data set's order.

    Args:
        patients: whose they are.
        small: copies that have the measures of the pictures, to the last bit.
        copies: larger ones, which measures and network take for the pictures; they are for spoiling.
        features: engine -> (N, F); none where no output was asked for.
        attributes: by name, for subgroups.
    """

    patients: tuple[str, ...]
    small: tuple[Image.Image, ...]
    copies: tuple[Image.Image, ...]
    features: dict[str, NDArray[np.float32]]
    attributes: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.patients)


def look_at(
    dataset: Dataset,
    kind: FitnessKind,
    spec: InputSpec,
    runs: Mapping[str, Run],
    tensor: str,
    *,
    most: int,
    step: Callable[[], None],
) -> Seen:
    """Look at images, spread evenly over a data set; one that is refused is left out.

    Args:
        dataset: the images.
        kind: of the pictures.
        spec: the network's input.
        runs: engines that are asked for features.
        tensor: the output with the features; empty: none are asked for.
        most: of the images.
        step: called after each.
    """
    places = np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(int))
    samples, small, copies = [], [], []
    features: dict[str, list[NDArray[np.float32]]] = {engine: [] for engine in runs} if tensor else {}
    for sample in (dataset.samples[int(place)] for place in places):
        step()
        try:
            picture = decode_image(sample.path)
        except FoveolaError:
            continue
        samples.append(sample)
        small.append(small_copy(picture, SIDES[kind]))
        copies.append(working_copy(picture, kind, spec))
        if features:
            x_1CHW = prepare(picture, spec)[0][None]
            for engine, many in features.items():
                many.append(runs[engine](x_1CHW)[tensor][0])
    names = sorted({name for sample in samples for name in sample.attributes})
    return Seen(
        patients=tuple(sample.patient for sample in samples),
        small=tuple(small),
        copies=tuple(copies),
        features={engine: np.array(many, np.float32) for engine, many in features.items()},
        attributes={name: tuple(sample.attributes.get(name, "") for sample in samples) for name in names},
    )


def working_copy(picture: Image.Image, kind: FitnessKind, spec: InputSpec) -> Image.Image:
    """Reduce a picture to what measures and network need of it."""
    return small_copy(picture, max(2 * SIDES[kind], spec.height, spec.width))


def measures_of(copies: Sequence[Image.Image], kind: FitnessKind, template: Template) -> list[dict[str, float]]:
    """Measure each."""
    return [measure(copy, kind, template) for copy in copies]


def template_of(copies: Sequence[Image.Image], kind: FitnessKind) -> Template:
    """Give the average picture, (16, 16), mean 0 and length 1; nothing, (0, 16), for a kind that has none."""
    if kind != "radiograph" or not copies:
        return np.zeros((0, TEMPLATE_SIDE), np.float32)
    total = np.sum([unit_thumbnail(grey_plane(small_copy(copy))) for copy in copies], axis=0)
    return unit_thumbnail(np.asarray(total, np.float32))
