"""The modules of SePL: attention over the priors, experts that see them, and a dense mixture for each factor.

As in the released code of Ko et al. (MICCAI 2025): all experts answer every picture (no choice of the best few, no
noise, no balancing loss), and the gate of a factor sees the picture's feature and the priors.

B batch, D width of the backbone, A priors, E experts, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....runtime.task import Task


class PriorAttention(nn.Module):
    """a * softmax(W a): how much of each prior an expert takes."""

    def __init__(self, priors: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(priors, priors)

    def weights(self, a_BA: Tensor) -> Tensor:
        """(B, A), of sum 1."""
        return torch.softmax(self.weigh(a_BA), 1)

    def forward(self, a_BA: Tensor) -> Tensor:
        """The priors, each times its weight, (B, A)."""
        return a_BA * self.weights(a_BA)


class Expert(nn.Module):
    """What one expert makes of a picture's feature and of the priors.

    Args:
        width: D.
        priors: A; 0 makes an expert that sees the picture alone.
        hidden: H.
        prior_hidden: width of what the priors become.
        attention: whether the priors are weighed before.
    """

    def __init__(self, width: int, priors: int, hidden: int, prior_hidden: int, *, attention: bool) -> None:
        super().__init__()
        self.image = nn.Linear(width, hidden)
        self.attention = PriorAttention(priors) if priors and attention else None
        self.priors = nn.Linear(priors, prior_hidden) if priors else None
        self.join = nn.Linear(hidden + (prior_hidden if priors else 0), hidden)

    def forward(self, v_BD: Tensor, a_BA: Tensor | None) -> Tensor:
        """(B, H)."""
        seen = torch.relu(self.image(v_BD))
        if self.priors is not None:
            assert a_BA is not None
            chosen = a_BA if self.attention is None else self.attention(a_BA)
            seen = torch.cat((seen, torch.relu(self.priors(chosen))), 1)
        return torch.relu(self.join(seen))


class Mixture(nn.Module):
    """A dense mixture of experts with a gate and a linear head for each complex factor.

    Args:
        tasks: the complex factors; one with several channels has one gate for all of them.
        width: D.
        priors: A; 0 for a mixture that sees the picture alone.
        experts: E.
        hidden: H.
        prior_hidden: width of what the priors become in an expert.
        attention: whether an expert weighs the priors.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        width: int,
        priors: int,
        *,
        experts: int,
        hidden: int,
        prior_hidden: int,
        attention: bool,
    ) -> None:
        super().__init__()
        self.priors = priors
        self.experts = nn.ModuleList(
            Expert(width, priors, hidden, prior_hidden, attention=attention) for _ in range(experts)
        )
        self.gates = nn.ModuleDict({task.name: nn.Linear(width + priors, experts) for task in tasks})
        self.heads = nn.ModuleDict({task.name: nn.Linear(hidden, task.channels) for task in tasks})

    def shares(self, v_BD: Tensor, a_BA: Tensor | None) -> dict[str, Tensor]:
        """By factor: the share of each expert, (B, E), of sum 1."""
        seen = torch.cat((v_BD, a_BA), 1) if self.priors and a_BA is not None else v_BD
        return {name: torch.softmax(gate(seen), 1) for name, gate in self.gates.items()}

    def forward(
        self, v_BD: Tensor, a_BA: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """By factor: raw output (B, channels), mixed feature (B, H), shares of the experts (B, E)."""
        said_BEH = torch.stack([expert(v_BD, a_BA) for expert in self.experts], 1)
        shares = self.shares(v_BD, a_BA)
        mixed = {name: (share.unsqueeze(2) * said_BEH).sum(1) for name, share in shares.items()}
        return {name: head(mixed[name]) for name, head in self.heads.items()}, mixed, shares


class PlainHeads(nn.Module):
    """What the mixture is compared with: linear heads, on the feature itself or on one hidden layer that they share.

    Args:
        tasks: the complex factors.
        width: D.
        hidden: width of the layer; 0 for none.
    """

    def __init__(self, tasks: Sequence[Task], width: int, hidden: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, hidden) if hidden else None
        self.heads = nn.ModuleDict({task.name: nn.Linear(hidden or width, task.channels) for task in tasks})

    def forward(self, v_BD: Tensor) -> dict[str, Tensor]:
        """By factor: raw output (B, channels)."""
        seen = v_BD if self.layer is None else torch.relu(self.layer(v_BD))
        return {name: head(seen) for name, head in self.heads.items()}
