"""How a pretraining stands: embeddings of a split, and one score for each loss.

Scores are for looking on; 0 is chance (or the mean picture), 1 is perfect. The last weights are kept whatever they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ....runtime.task import Task
from ...answers import RawAnswers, Scale
from ...course import Scores
from ...data.arrays import Arrays
from ...score import score_answers
from .knobs import Aims, Roles
from .network import Comprer
from .pairing import Pairing, measure_pairing, pairs_along
from .parts import pooled
from .records import Records

AT_ONCE = 64  # pictures
MEAN_OF = 1024  # train pictures at most, for the mean picture


class Embedded(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a network makes of all N pictures of one modality."""

    pooled: NDArray[np.float32]  # (N, F) before any projection
    across: NDArray[np.float32]  # (N, D) multimodal projection, any length
    along: NDArray[np.float32]  # (N, D) temporal projection
    raw: dict[str, NDArray[np.float32]]  # (N, T) measures
    error: NDArray[np.float64] | None  # (N,) mean squared error of the decoder, pixels 0..1


def embed(network: Comprer, arrays: Mapping[str, Arrays]) -> dict[str, Embedded]:
    """Embed all pictures, in evaluation mode on the network's device; its own modes are given back.

    Args:
        network: pretrained or in the making.
        arrays: prepared pictures by modality; a modality may have none.
    """
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        with torch.inference_mode():
            return {name: _embed(network, name, one) for name, one in arrays.items()}
    finally:
        for part, mode in modes:
            part.training = mode


def _embed(network: Comprer, name: str, arrays: Arrays) -> Embedded:
    branch, device = network[name], network.log_across.device
    normal = branch.encoder.normalise
    rows: dict[str, list[NDArray[np.float32]]] = {}
    for start in range(0, len(arrays), AT_ONCE):
        x = torch.from_numpy(np.array(arrays.images[start : start + AT_ONCE])).to(device)
        x = x.contiguous(memory_format=torch.channels_last)
        map_BFhw = branch.encoder(x)
        h = pooled(map_BFhw)
        found = {"pooled": h, "across": branch.across(h), "along": branch.along(h)}
        found |= {f"raw/{task}": raw for task, raw in branch.measured(h).items()}
        if branch.decoder is not None:
            rebuilt = branch.decoder(map_BFhw) * normal.std + normal.mean
            found["error"] = ((rebuilt - x) ** 2).mean((1, 2, 3))
        for key, values in found.items():
            rows.setdefault(key, []).append(values.float().cpu().numpy())
    width, dims = branch.encoder.width, (branch.across.dim, branch.along.dim)
    none = {"pooled": width, "across": dims[0], "along": dims[1]}
    joined = {key: np.concatenate(parts) for key, parts in rows.items()}
    joined = {key: np.zeros((0, size), np.float32) for key, size in none.items()} | joined
    error = joined.get("error")
    return Embedded(
        pooled=joined["pooled"],
        across=joined["across"],
        along=joined["along"],
        raw={key.removeprefix("raw/"): values for key, values in joined.items() if key.startswith("raw/")},
        error=None if error is None else error.astype(np.float64),
    )


def pairing_of(
    network: Comprer,
    records: Records,
    embedded: Mapping[str, Embedded],
    roles: Roles,
    *,
    order: bool = True,
    seed: int = 0,
) -> Pairing:
    """Measure the pairing of a split.

    Args:
        network: for its comparison of visits.
        records: of the split.
        embedded: its pictures, by `embed`.
        roles: what is a pair.
        order: whether the order of visits was learned.
        seed: of the intervals.
    """
    later = {name: _later(network, name, records, one) for name, one in embedded.items()} if order else None
    return measure_pairing(
        records,
        {name: one.across for name, one in embedded.items()},
        {name: one.along for name, one in embedded.items()},
        roles,
        later=later,
        seed=seed,
    )


def _later(network: Comprer, name: str, records: Records, embedded: Embedded) -> NDArray[np.float32]:
    first, second = pairs_along(records.scans[name])
    device = network.log_across.device
    a, b = (torch.from_numpy(embedded.pooled[places]).to(device) for places in (first, second))
    with torch.inference_mode():
        found: NDArray[np.float32] = network[name].order(a, b).float().cpu().numpy()
    return found


class Judge:
    """Scores a network on the validation split; called once an epoch.

    Args:
        records: of the split.
        arrays: its prepared pictures by modality.
        train: those of the train split, for the mean picture.
        measures: tasks that are learned as measures.
        scale: of regression tasks.
        aims: which losses are in.
        roles: what is a pair.
    """

    def __init__(
        self,
        records: Records,
        arrays: Mapping[str, Arrays],
        train: Mapping[str, Arrays],
        measures: Sequence[Task],
        scale: Scale,
        aims: Aims,
        roles: Roles,
    ) -> None:
        self.records, self.arrays, self.measures, self.scale = records, arrays, measures, scale
        self.aims, self.roles = aims, roles
        # The error of whoever always gives the mean train picture.
        self.floor = {name: _mean_error(train[name], one) for name, one in arrays.items() if aims.reconstruction > 0}

    def __call__(self, network: nn.Module) -> Scores:
        """One score for each loss that is in and can be judged, and what they are made of."""
        assert isinstance(network, Comprer)
        embedded = embed(network, self.arrays)
        ordered = self.aims.temporal > 0 and self.aims.order > 0
        pairing = pairing_of(network, self.records, embedded, self.roles, order=ordered)
        measured: dict[str, float] = {f"pair_percentile/{k}": v.pair_percentile for k, v in pairing.across.items()}
        measured |= {f"visit_percentile/{k}": v.pair_percentile for k, v in pairing.along.items()}
        measured |= {f"order_auc/{k}": v for k, v in pairing.order.items()}
        scores: dict[str, list[float]] = {}
        if self.aims.multimodal > 0:
            scores["multimodal"] = [2 * one.pair_percentile - 1 for one in pairing.across.values()]
        if self.aims.temporal > 0:
            visits = [one.pair_percentile for one in pairing.along.values()] if self.aims.contrast > 0 else []
            scores["temporal"] = [2 * value - 1 for value in (*visits, *pairing.order.values())]
        if self.aims.measures > 0:
            scores["measures"] = [self._skill(embedded[name], one) for name, one in self.arrays.items() if len(one)]
        scores["reconstruction"] = [
            1 - float(embedded[name].error.mean()) / floor  # type: ignore[union-attr]
            for name, floor in self.floor.items()
            if floor > 0
        ]
        for name, floor in self.floor.items():
            if floor > 0:
                measured[f"psnr/{name}"] = _psnr(float(embedded[name].error.mean()))  # type: ignore[union-attr]
                measured[f"psnr_mean_picture/{name}"] = _psnr(floor)
        by_task = {name: float(np.mean(values)) for name, values in scores.items() if values}
        return Scores(float(np.mean(list(by_task.values()))) if by_task else 0.0, by_task, measured)

    def _skill(self, embedded: Embedded, arrays: Arrays) -> float:
        return score_answers(self.measures, RawAnswers(raw=embedded.raw), arrays, self.scale).total


def _mean_error(train: Arrays, judged: Arrays) -> float:
    if not len(judged):
        return 0.0
    mean = np.asarray(train.images[:MEAN_OF]).mean(0)
    return float(np.mean([((np.asarray(one) - mean) ** 2).mean() for one in judged.images]))


def _psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of pixels 0..1."""
    return float(-10 * np.log10(max(error, 1e-12)))
