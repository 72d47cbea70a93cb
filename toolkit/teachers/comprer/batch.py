"""Batches of patients: every drawn picture by modality, which of them are pairs, and how they are varied.

B patients, N pictures of one modality, P pairs, C channels. What is a pair is told by NumPy beside the training, so
that the device is never waited for.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ....runtime.task import Task
from ...batches import Batch, TrainingData, augment
from ...data.arrays import Arrays
from .knobs import Encoding, Roles
from .parts import STRIDES
from .records import NO_SIDE, Records, Scans
from .sampler import Drawn, draw, shelves


class Pictures(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The pictures of one modality in a batch."""

    images: Tensor  # (N, C, H, W), as the encoder sees them
    wanted: Tensor  # (N, C, H, W) what the decoder is to give
    scalars: dict[str, Tensor]  # (N, columns), NaN where not known
    known: dict[str, int]  # how many numbers of each are known


class Pairs(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Which pictures of two modalities (or of one) belong together."""

    first: str  # modality
    second: str
    i: Tensor  # (P,) row of the first
    j: Tensor  # (P,) row of the second
    subject: Tensor  # (P,)
    subjects: int  # how many different ones
    ahead: Tensor  # (P,) years, or visits' numbers, from the first to the second; NaN where not known
    years: Tensor  # (P,) years; NaN where not known
    ordered: int  # pairs with an order
    timed: int  # pairs with known years


class PatientBatch(Batch, frozen=True, kw_only=True, eq=False):
    """Drawn pictures of B patients; the fields of `Batch` are empty."""

    pictures: dict[str, Pictures]
    across: tuple[Pairs, ...]  # of the multimodal loss
    along: tuple[Pairs, ...]  # of the temporal loss


class PatientData(TrainingData):
    """Train pictures of all modalities by patient; a place is a patient here.

    Args:
        records: of the train split.
        arrays: prepared pictures by modality.
        measured: tasks that are learned as measures.
        target_mean: of regression tasks.
        target_std: likewise.
        roles: what is a pair.
    """

    def __init__(
        self,
        records: Records,
        arrays: Mapping[str, Arrays],
        measured: tuple[Task, ...],
        target_mean: dict[str, tuple[float, ...]],
        target_std: dict[str, tuple[float, ...]],
        roles: Roles,
    ) -> None:
        self.records, self.roles = records, roles
        self.by_modality = {name: TrainingData(one, measured, target_mean, target_std) for name, one in arrays.items()}
        self.shelves = shelves(records)
        self.subjects = list(self.shelves)
        self.drawn: Drawn = {}

    def __len__(self) -> int:
        return len(self.subjects)

    def draw(self, rng: np.random.Generator) -> None:
        """Choose each patient's pictures for an epoch."""
        self.drawn = {subject: draw(shelf, self.roles, rng) for subject, shelf in self.shelves.items()}

    def batch(self, index: NDArray[np.int64]) -> PatientBatch:
        """The drawn pictures of these patients (their numbers), not varied."""
        places = {
            name: _several(np.concatenate([*(self.drawn[int(s)].get(name, _NONE) for s in index), _NONE]))
            for name in self.records.scans
        }
        pictures = {name: self._pictures(name, own) for name, own in places.items() if len(own)}
        scans = {name: self.records.scans[name] for name in pictures}
        nothing = torch.zeros(0)
        return PatientBatch(
            images=nothing, scalars={}, masks={}, boxes={}, soft={}, soft_boxes={}, hint=None, view=nothing,
            pictures=pictures,
            across=across(scans, places, self.roles),
            along=tuple(along(name, one, places[name]) for name, one in scans.items()),
        )  # fmt: skip

    def _pictures(self, name: str, places: NDArray[np.int64]) -> Pictures:
        read = self.by_modality[name].batch(places)
        images = read.images
        if self.roles.mirror:
            side = self.records.sides.index(self.roles.mirror)
            turned = torch.from_numpy(self.records.scans[name].side[places] == side)
            images = torch.where(turned[:, None, None, None], images.flip(-1), images)
        known = {task: int((~x.isnan()).sum()) for task, x in read.scalars.items()}
        return Pictures(images=images, wanted=images, scalars=read.scalars, known=known)


_NONE = np.zeros(0, np.int64)


def _several(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same places; a single one twice, since batch normalisation has no statistics of one."""
    return np.repeat(places, 2) if len(places) == 1 else places


def across(scans: Mapping[str, Scans], places: Mapping[str, NDArray[np.int64]], roles: Roles) -> tuple[Pairs, ...]:
    """Pairs for the multimodal loss: two modalities of one visit, or the two sides of one modality."""
    names = list(scans)
    if roles.pairs == "sides":
        return tuple(_sides(name, scans[name], places[name]) for name in names)
    found = []
    for a, first in enumerate(names):
        for second in names[a + 1 :]:
            one, other = scans[first], scans[second]
            p, q = places[first], places[second]
            same = (one.subject[p][:, None] == other.subject[q]) & (one.visit[p][:, None] == other.visit[q])
            found.append(_pairs(first, second, one, p, same))
    return tuple(found)


def along(name: str, scans: Scans, places: NDArray[np.int64]) -> Pairs:
    """Pairs for the temporal loss: two visits of a patient in one modality, on the same side where both have a side."""
    subject, visit, side = (getattr(scans, field)[places] for field in ("subject", "visit", "side"))
    later = np.triu(np.ones((len(places), len(places)), np.bool_), 1)
    alike = (side[:, None] == side) | (side[:, None] == NO_SIDE) | (side == NO_SIDE)
    two = (subject[:, None] == subject) & (visit[:, None] != visit) & later
    # A patient of whom each visit shows another side still has two visits.
    matched = np.isin(subject, subject[(two & alike).any(axis=1)])
    usable = two & (alike | ~matched[:, None])
    return _pairs(name, name, scans, places, usable, ahead=True)


def _sides(name: str, scans: Scans, places: NDArray[np.int64]) -> Pairs:
    subject, visit, side = (getattr(scans, field)[places] for field in ("subject", "visit", "side"))
    same = (subject[:, None] == subject) & (visit[:, None] == visit)
    return _pairs(name, name, scans, places, same & (side[:, None] < side) & (side[:, None] != NO_SIDE))


def _pairs(
    first: str, second: str, scans: Scans, places: NDArray[np.int64], same: NDArray[np.bool_], *, ahead: bool = False
) -> Pairs:
    i, j = np.nonzero(same)
    subject = scans.subject[places[i]]
    years = np.full(len(i), np.nan)
    turns = years
    if ahead:
        years = scans.years[places[j]] - scans.years[places[i]]
        turns = scans.turn[places[j]] - scans.turn[places[i]]
    known = np.where(np.isnan(years), turns, years)
    return Pairs(
        first=first,
        second=second,
        i=torch.from_numpy(i),
        j=torch.from_numpy(j),
        subject=torch.from_numpy(subject),
        subjects=len(np.unique(subject)),
        ahead=torch.from_numpy(known.astype(np.float32)),
        years=torch.from_numpy(years.astype(np.float32)),
        ordered=int((~np.isnan(known) & (known != 0)).sum()),
        timed=int((~np.isnan(years)).sum()),
    )


def vary(
    batch: PatientBatch,
    encodings: Mapping[str, Encoding],
    generator: torch.Generator,
    device: torch.device,
    *,
    clean: bool = True,
    masked: float = 0.0,
) -> PatientBatch:
    """A varied copy on `device`; all that is random comes from one generator of the CPU.

    Args:
        batch: on the CPU.
        encodings: how far each modality is varied.
        generator: draws.
        device: where the copy goes.
        clean: the decoder is to give the picture without its variation; False: as it was varied.
        masked: share of the patches that are blanked in what the encoder sees.
    """
    pictures = {}
    for name, one in batch.pictures.items():
        how = encodings[name]
        images = one.images
        if how.augment.flip:  # a mirrored picture is a picture too: it is what the decoder is to give
            turned = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
            images = torch.where(turned, images.flip(-1), images)
        plain = msgspec.structs.replace(how.augment, flip=False)
        varied = augment(_plain(images), plain, generator, device).images
        varied = _tint(varied, how, generator)
        wanted = images.to(device, non_blocking=True) if clean else varied
        pictures[name] = Pictures(
            images=blank(varied, masked, generator) if masked else varied,
            wanted=wanted,
            scalars={key: x.to(device, non_blocking=True) for key, x in one.scalars.items()},
            known=one.known,
        )
    return msgspec.structs.replace(
        batch,
        pictures=pictures,
        across=tuple(_there(one, device) for one in batch.across),
        along=tuple(_there(one, device) for one in batch.along),
    )


def blank(x_BCHW: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Blank a share of the patches, each one cell of the encoder's coarsest map, in the middle of the grey scale."""
    height, width = x_BCHW.shape[-2:]
    grid = (-(-height // STRIDES[-1]), -(-width // STRIDES[-1]))
    kept = (torch.rand(len(x_BCHW), 1, *grid, generator=generator) >= share).to(x_BCHW.device, x_BCHW.dtype)
    kept = functional.interpolate(kept, scale_factor=float(STRIDES[-1]), mode="nearest")[..., :height, :width]
    return x_BCHW * kept + 0.5 * (1 - kept)


def _tint(x_BCHW: Tensor, how: Encoding, generator: torch.Generator) -> Tensor:
    """Vary the channels' gains, add speckle; 0..1 as the device's input is."""
    if how.colour > 0:
        draw = torch.rand(len(x_BCHW), x_BCHW.shape[1], 1, 1, generator=generator).to(x_BCHW.device)
        x_BCHW = x_BCHW * (1 + how.colour * (2 * draw - 1))
    if how.speckle > 0:
        # On a GPU its own generator draws: so many numbers would take the processor longer than the network's step.
        own = generator if x_BCHW.device.type == "cpu" else None
        noise = torch.randn(x_BCHW.shape, generator=own, device=x_BCHW.device)
        x_BCHW = x_BCHW * (1 + how.speckle * noise)
    return x_BCHW.clamp(0, 1).contiguous(memory_format=torch.channels_last)


def _plain(images: Tensor) -> Batch:
    view = torch.ones(len(images), 1, *images.shape[-2:], dtype=torch.bool)
    return Batch(images=images, scalars={}, masks={}, boxes={}, soft={}, soft_boxes={}, hint=None, view=view)


def _there(one: Pairs, device: torch.device) -> Pairs:
    moved = {name: getattr(one, name).to(device, non_blocking=True) for name in ("i", "j", "subject", "ahead", "years")}
    return msgspec.structs.replace(one, **moved)
