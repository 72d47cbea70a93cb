"""The modules of a pretraining after COMPRER: encoder, projection, comparison of visits, value head, decoder.

B batch, C channels of the picture, F features, D length of a projection, T task channels. Only encoder, projection and
value heads are in the teacher that is kept.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ....runtime.manifest import InputSpec
from ....runtime.task import Task
from ...models.network import Normalise, make_backbone

STRIDES = (4, 8, 16, 32)
LEAST_CHANNELS = 8  # of a decoder's last blocks


class Encoder(nn.Module):
    """Normalisation and a timm backbone.

    Args:
        backbone: timm's name.
        spec: how pictures are fed.

    Raises:
        FoveolaError: timm knows no such network, or it has no features at strides 4 to 32.
    """

    def __init__(self, backbone: str, spec: InputSpec) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.backbone, channels = make_backbone(backbone, spec.channels, STRIDES)
        self.width = channels[STRIDES[-1]]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The coarsest map (B, F, h, w)."""
        maps: list[Tensor] = self.backbone(self.normalise(x_BCHW))
        return maps[-1]


def pooled(map_BFhw: Tensor) -> Tensor:
    """The embedding h (B, F): a map averaged over the picture."""
    return map_BFhw.mean((2, 3))


class Projection(nn.Sequential):
    """Two layers from an embedding to what a contrastive loss compares; one for each loss and modality."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))
        self.dim = dim


def directions(raw_BD: Tensor) -> Tensor:
    """Projections at length 1, in float32 whatever the precision."""
    return functional.normalize(raw_BD.float(), dim=1)


class Compare(nn.Module):
    """What lies between two visits: a number that changes its sign with their order.

    f([a; b; a - b]) - f([b; a; b - a]) sees both orders at once, so that nothing but the pictures can tell them apart.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, first_BF: Tensor, second_BF: Tensor) -> Tensor:
        """(B,), the larger the later the second is."""
        ahead = self.layers(torch.cat((first_BF, second_BF, first_BF - second_BF), 1))
        back = self.layers(torch.cat((second_BF, first_BF, second_BF - first_BF), 1))
        later: Tensor = (ahead - back)[:, 0]
        return later


class ValueHead(nn.Module):
    """Raw outputs of a task from an embedding: linear, or with one hidden layer.

    Args:
        task: neither masks nor boxes.
        width: F.
        hidden: width of the hidden layer; 0 for none.
    """

    def __init__(self, task: Task, width: int, hidden: int = 0) -> None:
        super().__init__()
        before = nn.Sequential(nn.Linear(width, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.before = before
        self.linear = nn.Linear(hidden or width, task.channels)

    def forward(self, h_BF: Tensor) -> Tensor:
        """(B, T)."""
        out: Tensor = self.linear(self.before(h_BF))
        return out


class Decoder(nn.Module):
    """Reconstructs the normalised picture from the encoder's last map, or from its mean over the picture.

    Args:
        features: F.
        spec: of the encoder; says the picture's size and channels.
        width: channels of the first block; each further block has half of them.
        pooled: start from the embedding alone, which is laid out over the grid with a learned place.
    """

    def __init__(self, features: int, spec: InputSpec, width: int, *, pooled: bool) -> None:
        super().__init__()
        self.size = (spec.height, spec.width)
        grid = tuple(-(-side // STRIDES[-1]) for side in self.size)
        self.place = nn.Parameter(torch.zeros(1, width, *grid)) if pooled else None
        self.first = nn.Conv2d(features, width, 1)
        channels = [width, *(max(width >> (i + 1), LEAST_CHANNELS) for i in range(5))]
        self.blocks = nn.ModuleList(_block(a, b) for a, b in pairwise(channels))
        self.last = nn.Conv2d(channels[-1], spec.channels, 3, padding=1)

    def forward(self, map_BFhw: Tensor) -> Tensor:
        """(B, C, H, W)."""
        pooled = self.place is not None
        x = self.first(map_BFhw.mean((2, 3), keepdim=True) if pooled else map_BFhw)
        x = x if self.place is None else x + self.place
        for block in self.blocks:
            x = block(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        x = self.last(x)
        if x.shape[-2:] != self.size:  # a side that is no multiple of 32
            x = functional.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        rebuilt: Tensor = x
        return rebuilt


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
