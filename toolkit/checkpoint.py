"""What a training needs to go on after a kill: weights, averages, optimiser and history, replaced by one rename."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .batches import Batch

Weights = dict[str, Tensor]


class Objective(nn.Module):
    """A network and what it is trained for; `forward` gives one loss a task, already weighted.

    Args:
        network: what is judged and kept; all else in an objective serves training only.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def compiled(self) -> list[nn.Module]:
        """Parts whose shapes never change, so that torch.compile pays on a GPU."""
        backbone = getattr(self.network, "backbone", None)
        return [backbone] if isinstance(backbone, nn.Module) else []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name."""
        raise NotImplementedError


class Epoch(msgspec.Struct, frozen=True):
    """One line of a training's history."""

    epoch: int
    learning_rate: float  # of the last step; of the cycle's minimum where the rate is cyclic
    losses: dict[str, float]  # means over the epoch's steps
    score: float  # mean over tasks of the validation score
    scores: dict[str, float]
    task: str = ""  # continual learning: the task of this visit
    round: int = 0  # continual learning: which round the visit belongs to, from 0
    measures: dict[str, float] = {}  # whatever else was measured: drift, accuracy of a probe


class _Progress(msgspec.Struct):
    history: list[Epoch]
    best_score: float


class TrainingState:
    """All that a resume needs; saved as safetensors and JSON, replaced by one rename.

    Args:
        objective: network and losses.
        optimizer: of the objective's parameters.
        averages: whether a moving average of the weights is kept.
    """

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer, *, averages: bool) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.ema = copy_weights(objective.network) if averages else {}
        self.kept = copy_weights(objective.network)
        self.best_score = -math.inf
        self.history: list[Epoch] = []
        self.course: Weights = {}  # what the course must know again (`Course.memory`)
        self._pairs: tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]] | None = None

    def to(self, device: torch.device) -> None:
        """Move the averages and the optimiser's moments (its step counts stay where they are)."""
        self.ema = {name: x.to(device) for name, x in self.ema.items()}
        for moments in self.optimizer.state.values():
            for key, x in moments.items():
                if isinstance(x, Tensor) and key != "step":
                    moments[key] = x.to(device)

    @torch.no_grad()
    def average(self, decay: float, step: int) -> None:
        """Let the average follow; early on faster, so that it does not remember the random start."""
        if not self.ema:
            return
        averages, own, counts = self._pairs or self.begin_epoch()
        follow(averages, own, 1 - min(decay, (1 + step) / (10 + step)))
        for average, count in counts:
            average.copy_(count)

    def begin_epoch(self) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Pair each average with what it follows: to look them up by name at every step costs as much as the averaging.

        Returns:
            Averages of numbers with fractions, the network's own, and the whole numbers, which are copied.
        """
        own = self.objective.network.state_dict() if self.ema else {}
        floating = [name for name, x in own.items() if x.is_floating_point()]
        counts = [(self.ema[name], x) for name, x in own.items() if not x.is_floating_point()]
        self._pairs = [self.ema[name] for name in floating], [own[name] for name in floating], counts
        return self._pairs

    def close_epoch(self, epoch: Epoch, weights: Weights | None, *, last: bool) -> None:
        """Note the epoch and keep its weights if they are the best so far, or the `last` ones.

        Args:
            epoch: the line of the history.
            weights: those that were judged; None: the network's own.
            last: whether the last weights are kept and not the best.
        """
        self.history.append(epoch)
        if last or epoch.score > self.best_score:
            self.best_score = epoch.score
            source = self.objective.network.state_dict() if weights is None else weights
            self.kept = {name: x.detach().cpu().clone() for name, x in source.items()}

    @property
    def stale(self) -> int:
        """Epochs since the best score."""
        scores = [epoch.score for epoch in self.history]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    def save(self, folder: Path) -> None:
        """Replace the resume point."""
        partial = folder.with_name(folder.name + ".new")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in self.objective.state_dict().items()},
            partial / "objective.safetensors",
        )
        for name in ("ema", "kept", "course"):
            weights: Weights = getattr(self, name)
            save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, partial / f"{name}.safetensors")
        moments = self.optimizer.state_dict()["state"]
        flat = {
            f"{i}/{key}": torch.as_tensor(x).detach().cpu().contiguous()
            for i, state in moments.items()
            for key, x in state.items()
        }
        save_file(flat, partial / "optimizer.safetensors")
        (partial / "progress.json").write_bytes(msgspec.json.encode(_Progress(self.history, self.best_score)))
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def restore(self, folder: Path) -> None:
        """Take up the last finished epoch, if there is one (also when a kill came between the two renames)."""
        for candidate in (folder, folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")):
            if not (candidate / "progress.json").exists():
                continue
            progress = msgspec.json.decode((candidate / "progress.json").read_bytes(), type=_Progress)
            self.history, self.best_score = progress.history, progress.best_score
            self.objective.load_state_dict(load_file(candidate / "objective.safetensors"))
            for name in ("ema", "kept", "course"):
                setattr(self, name, load_file(candidate / f"{name}.safetensors"))
            state: dict[int, dict[str, Tensor]] = {}
            for name, x in load_file(candidate / "optimizer.safetensors").items():
                number, key = name.split("/")
                state.setdefault(int(number), {})[key] = x
            self.optimizer.load_state_dict(
                {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
            )
            return


class Borrowed:
    """Puts other weights into a network while a block lasts; None leaves its own."""

    def __init__(self, network: nn.Module, weights: Weights | None) -> None:
        self.network, self.weights = network, weights
        self.own: Weights = {}

    def __enter__(self) -> None:
        if self.weights is not None:
            self.own = copy_weights(self.network)
            self.network.load_state_dict(self.weights)

    def __exit__(self, *_: object) -> None:
        if self.weights is not None:
            self.network.load_state_dict(self.own)


@torch.no_grad()
def follow(averages: list[Tensor], weights: list[Tensor], share: float) -> None:
    """Move each average by `share` of its distance towards a weight, in place and in one go."""
    torch._foreach_lerp_(averages, weights, share)  # pyright: ignore[reportPrivateImportUsage]


def copy_weights(module: nn.Module) -> Weights:
    """A detached copy of all parameters and buffers."""
    return {name: x.detach().clone() for name, x in module.state_dict().items()}
