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
from .models.network import Network


class Objective(nn.Module):
    """A network and what it is trained for; `forward` gives one loss a task, already weighted."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name."""
        raise NotImplementedError


class Epoch(msgspec.Struct, frozen=True):
    """One line of a training's history."""

    epoch: int
    learning_rate: float
    losses: dict[str, float]
    score: float  # mean over tasks of the validation score
    scores: dict[str, float]


class _Progress(msgspec.Struct):
    history: list[Epoch]
    best_score: float


class TrainingState:
    """All that a resume needs; saved as safetensors and JSON, replaced by one rename."""

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.ema = _copy(objective.network)
        self.best = _copy(objective.network)
        self.best_score = -math.inf
        self.history: list[Epoch] = []

    def to(self, device: torch.device) -> None:
        """Move the averages and the optimiser's moments (its step counts stay where they are)."""
        self.ema = {name: x.to(device) for name, x in self.ema.items()}
        for moments in self.optimizer.state.values():
            for key, x in moments.items():
                if isinstance(x, Tensor) and key != "step":
                    moments[key] = x.to(device)

    def average(self, decay: float, step: int) -> None:
        """Let the average follow; early on faster, so that it does not remember the random start."""
        if decay <= 0:
            return
        weight = 1 - min(decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, x in self.objective.network.state_dict().items():
                if x.is_floating_point():
                    self.ema[name].lerp_(x, weight)
                else:
                    self.ema[name].copy_(x)

    def averaged(self, on: bool) -> Averaged:
        """The network with averaged weights while the block lasts."""
        return Averaged(self.objective.network, self.ema if on else None)

    def close_epoch(self, epoch: Epoch, use_ema: bool) -> None:
        """Note the epoch and keep its weights if they are the best so far."""
        self.history.append(epoch)
        if epoch.score > self.best_score:
            self.best_score = epoch.score
            source = self.ema if use_ema else self.objective.network.state_dict()
            self.best = {name: x.detach().cpu().clone() for name, x in source.items()}

    def save(self, folder: Path) -> None:
        """Replace the resume point."""
        partial = folder.with_name(folder.name + ".new")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in self.objective.state_dict().items()},
            partial / "objective.safetensors",
        )
        save_file({k: v.cpu().contiguous() for k, v in self.ema.items()}, partial / "ema.safetensors")
        save_file({k: v.contiguous() for k, v in self.best.items()}, partial / "best.safetensors")
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
            self.ema, self.best = load_file(candidate / "ema.safetensors"), load_file(candidate / "best.safetensors")
            state: dict[int, dict[str, Tensor]] = {}
            for name, x in load_file(candidate / "optimizer.safetensors").items():
                number, key = name.split("/")
                state.setdefault(int(number), {})[key] = x
            self.optimizer.load_state_dict(
                {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
            )
            return


class Averaged:
    """Swaps averaged weights in and out."""

    def __init__(self, network: Network, weights: dict[str, Tensor] | None) -> None:
        self.network, self.weights = network, weights
        self.own: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        if self.weights is not None:
            self.own = _copy(self.network)
            self.network.load_state_dict(self.weights)

    def __exit__(self, *_: object) -> None:
        if self.weights is not None:
            self.network.load_state_dict(self.own)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in module.state_dict().items()}
