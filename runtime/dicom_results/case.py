"""One image with its answer, on the way to the objects that are written about it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from PIL import Image

from ... import __version__
from ..prediction import Mask, Prediction
from .identity import MANUFACTURER, BundleIdentity, derived_uid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Kind = Literal["sr", "seg", "sc", "gsps"]
KINDS: tuple[Kind, ...] = ("sr", "seg", "sc", "gsps")
SERIES_NUMBERS: dict[Kind, int] = {"sr": 9701, "seg": 9702, "sc": 9703, "gsps": 9704}
SERIES_WORDS: dict[Kind, str] = {"sr": "report", "seg": "segmentation", "sc": "overlay", "gsps": "marks"}
LONGEST = 64  # characters of LO, PS3.5 6.2


class Case(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What every maker of an object gets.

    Args:
        header: of the source, from `reference_header`.
        prediction: what was answered.
        identity: who answered.
        kinds: of objects that are written together.
        now: the time that the objects carry.
        picture: the source as it was shown to the network; only `sc` needs it.
    """

    header: Dataset
    prediction: Prediction
    identity: BundleIdentity
    kinds: tuple[Kind, ...]
    now: datetime
    picture: Image.Image | None = None

    @property
    def masks(self) -> tuple[Mask, ...]:
        """Masks that a segmentation holds, in its order: segment and frame are the place in it, from 1."""
        return self.prediction.masks

    @property
    def has_segmentation(self) -> bool:
        """Whether a segmentation is written that the report can refer to."""
        return "seg" in self.kinds and bool(self.masks)

    @property
    def observer_uid(self) -> str:
        """Name the device that observed: the bundle on its engine, whatever the image."""
        return derived_uid(self.identity, "observer")

    def uid(self, *parts: str) -> str:
        """Derive a name for something of this case."""
        return derived_uid(self.identity, str(self.header.SOPInstanceUID), *parts)

    def instance_uid(self, kind: Kind) -> str:
        """Name the object of a kind. A report that refers to a segmentation is another one than one that does not."""
        return self.uid("instance", kind, *(["seg"] if kind == "sr" and self.has_segmentation else []))

    def common(self, kind: Kind) -> dict[str, Any]:
        """Arguments that all of highdicom's objects take: names, series and equipment."""
        identity = self.identity
        return {
            "series_instance_uid": self.uid("series", kind),
            "series_number": SERIES_NUMBERS[kind],
            "sop_instance_uid": self.instance_uid(kind),
            "instance_number": 1,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": f"{identity.name} {identity.version}"[:LONGEST],
            "software_versions": (__version__, identity.version[:LONGEST]),
            "device_serial_number": identity.digest[:LONGEST],  # the sha256 is the only serial number software has
            "series_description": f"{identity.name[:40]} {SERIES_WORDS[kind]}",
        }
