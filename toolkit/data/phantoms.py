"""All phantoms that can be drawn, in one visible table; a drawer is imported when it is asked to draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

import msgspec

Progress = Callable[[int, int], None]  # patients done, total

SHARES: Mapping[str, float] = {"train": 0.6, "val": 0.12, "calibration": 0.13, "test": 0.15}
LEAST_SIZE = 32  # pixels a side

Anatomy = Literal["chest", "fundus", "twins", "cardiometabolic", "organ"]


class Draw(Protocol):
    """Draws a data set of phantoms into an empty folder."""

    def __call__(
        self,
        folder: Path,
        *,
        patients: int,
        seed: int,
        size: int = 256,
        shares: Mapping[str, float] = SHARES,
        progress: Progress | None = None,
    ) -> int:
        """Draw all pictures and write `manifest.csv`; the number of images."""
        ...


class PhantomKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of phantom.

    Args:
        about: what it is, in a few words.
        module: file in this folder.
        function: in it; a `Draw`.
        attributes: columns of its manifest for subgroups.
    """

    about: str
    module: str
    function: str
    attributes: tuple[str, ...]

    @property
    def make(self) -> Draw:
        """The function that draws."""
        draw: Draw = getattr(import_module(f".{self.module}", __package__), self.function)
        return draw


PHANTOMS: dict[Anatomy, PhantomKind] = {
    "chest": PhantomKind(
        about="16-bit radiographs with findings, masks and boxes",
        module="phantom_chest",
        function="make_chest",
        attributes=("sex", "view", "site"),
    ),
    "fundus": PhantomKind(
        about="colour photographs of the fundus with lesions, vessels and grades",
        module="phantom_fundus",
        function="make_fundus",
        attributes=("camera", "eye"),
    ),
    "twins": PhantomKind(
        about="fundus photographs and carotid ultrasound of the same people, at two visits",
        module="phantom_twins",
        function="make_twins",
        attributes=("modality", "eye", "visit", "years"),
    ),
    "cardiometabolic": PhantomKind(
        about="colour photographs of the fundus with measures of body and blood",
        module="phantom_body",
        function="make_body",
        attributes=("camera", "eye", "sex", "quality"),
    ),
    "organ": PhantomKind(
        about="windows of CT slices around eleven organs, with the labels of OrganCMNIST",
        module="phantom_organ",
        function="make_organs",
        attributes=("scanner", "phase"),
    ),
}
