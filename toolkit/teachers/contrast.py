"""Contrastive learners: MoCo and SimCLR.

He et al., CVPR 2020; Chen et al., arXiv 2003.04297 (MoCo v2); Chen et al., ICML 2020 (SimCLR).

B images, N embeddings, K keys in the queue, D their length, F features. Order of one MoCo step: queries; then, without
gradient, the key encoder follows the query encoder and gives the keys; the loss; the keys enter the queue.

MTPret's algorithm 1 swaps the roles of the two encoders and its eq. 2 prints tau outside the exponent; prose and eq. 3
are standard MoCo, and so is this file: the query encoder is trained and kept, keys are enqueued, tau divides cosines.

Embeddings and logits are float32 whatever the precision: with tau 0.1, the three digits of bfloat16 would mean an error
of some hundredths in each logit.
"""

from __future__ import annotations

import copy
from typing import Literal, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...runtime.errors import FoveolaError
from ...runtime.manifest import InputSpec
from ..checkpoint import follow
from ..models.network import Normalise, make_backbone
from .split_norm import gather, own_rows, processes, shuffle_keys, split_batch_norm, unshuffle

STRIDES = (4, 8, 16, 32)


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """Values for what MTPret's paper leaves open, with their source.

    Args:
        source: where they were read.
        dim: D.
        queue: K.
        momentum: m of the key encoder.
        temperature: tau.
        mlp: two layers of projection.
        optimizer: sgd, adam or adamw.
        learning_rate: largest.
        sgd_momentum: of SGD; the other optimisers have none.
        weight_decay: of the optimiser.
        batch_size: images a step, over all devices.
        epochs: passes over the images.
        splits: groups of a batch with batch statistics of their own.
        schedule: `cosine` falls to zero; `constant` stays.
    """

    source: str
    dim: int = 128
    queue: int
    momentum: float
    temperature: float
    mlp: bool = True
    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    sgd_momentum: float = 0.9
    weight_decay: float
    batch_size: int
    epochs: int
    splits: int = 1
    schedule: Literal["cosine", "constant"] = "cosine"


PRESETS: dict[str, Preset] = {
    "mocov2-imagenet": Preset(
        source="MoCo v2 on ImageNet: README and main_moco.py of its authors",
        queue=65536, momentum=0.999, temperature=0.2, optimizer="sgd", learning_rate=0.03, weight_decay=1e-4,
        batch_size=256, epochs=200,
    ),
    "moco-cxr": Preset(
        # Its rate falls at epochs 120 and 160, which 20 epochs never reach: it is constant.
        source="MoCo-CXR (Sowrirajan et al., MIDL 2021): training script r8w1n416",
        queue=24576, momentum=0.999, temperature=0.2, optimizer="adam", learning_rate=1e-4, weight_decay=1e-4,
        batch_size=16, epochs=20, schedule="constant",
    ),
    "moco-small": Preset(
        source="the MoCo authors' notebook on CIFAR-10",
        queue=4096, momentum=0.99, temperature=0.1, mlp=False, optimizer="sgd", learning_rate=0.06, weight_decay=5e-4,
        batch_size=512, epochs=200, splits=8,
    ),
    "tiny": Preset(
        source="ours, for a try-out on a CPU",
        queue=512, momentum=0.99, temperature=0.1, optimizer="sgd", learning_rate=0.06, weight_decay=5e-4,
        batch_size=64, epochs=20,
    ),
}  # fmt: skip


class Encoder(nn.Module):
    """Normalisation, a timm backbone and a projection.

    Args:
        backbone: timm's name.
        spec: how images are fed.
        dim: D.
        mlp: project by two layers, not by one.

    Raises:
        FoveolaError: timm knows no such network, or it has no features at strides 4 to 32.
    """

    def __init__(self, backbone: str, spec: InputSpec, *, dim: int = 128, mlp: bool = True) -> None:
        super().__init__()
        self.dim = dim
        self.normalise = Normalise(spec)
        self.backbone, channels = make_backbone(backbone, spec.channels, STRIDES)
        width = channels[STRIDES[-1]]
        last = nn.Linear(width, dim)
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last) if mlp else last

    def features(self, x_BCHW: Tensor) -> Tensor:
        """(B, F): the coarsest map, averaged over the picture."""
        maps: list[Tensor] = self.backbone(self.normalise(x_BCHW))
        return maps[-1].mean((2, 3))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, D) of unit length, in float32 whatever the precision."""
        return functional.normalize(self.projection(self.features(x_BCHW)).float(), dim=1)


def info_nce(q_ND: Tensor, k_ND: Tensor, queue_KD: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding each query's own key among it and the queue (van den Oord et al., arXiv 1807.03748).

    The mean over the queries. All three are float32.

    Args:
        q_ND: queries of unit length.
        k_ND: their keys.
        queue_KD: other keys.
        temperature: tau, inside the exponent.
    """
    with torch.autocast(q_ND.device.type, enabled=False):
        own = (q_ND * k_ND).sum(1, keepdim=True)
        logits = torch.cat((own, q_ND @ queue_KD.T), 1) / temperature
        return functional.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def nt_xent(first_ND: Tensor, second_ND: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss: each view must find the other one of its image among all views of all processes.

    The mean over the 2 N views of this process; views of other processes are compared with, but get no gradient here.

    Args:
        first_ND: one view of each image, of unit length.
        second_ND: the other.
        temperature: tau.
    """
    own = torch.cat((first_ND, second_ND))
    everyone, place = gather_with_gradient(own)
    count = len(first_ND)
    with torch.autocast(own.device.type, enabled=False):
        logits = own @ everyone.T / temperature
        rows = torch.arange(2 * count, device=own.device)
        logits = logits.index_put((rows, rows + place), logits.new_tensor(-torch.inf))
        return functional.cross_entropy(logits, (rows + count) % (2 * count) + place)


def gather_with_gradient(x_ND: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, one's own with gradient, and where one's own begin."""
    own = own_rows(len(x_ND))
    if processes() == 1:
        return x_ND, own.start
    everyone = gather(x_ND)
    return torch.cat((everyone[: own.start], x_ND, everyone[own.stop :])), own.start


class MoCo(nn.Module):
    """Momentum contrast with a queue of keys.

    The key encoder's parameters follow the query's; its buffers do not: as in the first authors' code, the statistics
    of its batch normalisation come from its own forward passes.

    Several processes keep equal queues if they begin with equal ones: seed them alike before this is made, or let DDP
    send the first one's.

    Args:
        encoder: becomes the query encoder; the key encoder starts as its copy.
        queue: K, a multiple of the batch over all processes.
        momentum: m of theta_k <- m theta_k + (1 - m) theta_q.
        temperature: tau.
        splits: groups of a batch with batch statistics of their own.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(self, encoder: Encoder, *, queue: int, momentum: float, temperature: float, splits: int = 1) -> None:
        super().__init__()
        self.query = cast(Encoder, split_batch_norm(encoder, splits))
        self.key = copy.deepcopy(self.query)
        for p in self.key.parameters():
            p.requires_grad_(False)
        self.register_buffer("queue", functional.normalize(torch.randn(queue, encoder.dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.momentum, self.temperature = momentum, temperature

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of two views (B, C, H, W) of the same images; in training the key encoder and the queue move on.

        Raises:
            FoveolaError: the queue is no multiple of the batch; nothing has moved then.
        """
        if self.training:
            self._check(len(first) * processes())
        q_ND = self.query(first)
        with torch.no_grad():
            if self.training:
                self._follow()
            shuffled, inverse = shuffle_keys(second)
            k_ND = unshuffle(self.key(shuffled), inverse)
        # The gradient of the queries needs the queue as it is now, and it is overwritten before that is computed.
        loss = info_nce(q_ND, k_ND, self.queue.clone(), self.temperature)
        if self.training:
            self._enqueue(k_ND)
        return loss

    def _check(self, count: int) -> None:
        size = len(self.queue)
        if size == 0 or size % count:
            below = size // count * count
            nearest = f"{below} or {below + count}" if below else str(count)
            raise FoveolaError("queue", f"{size} keys are no multiple of {count} images a step", f"give {nearest}")

    def _follow(self) -> None:
        follow(list(self.key.parameters()), list(self.query.parameters()), 1 - self.momentum)

    @torch.no_grad()
    def _enqueue(self, k_ND: Tensor) -> None:
        keys = gather(k_ND)
        # The place stays on the device: asking for it as a number would wait for the whole step.
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, places, keys)
        self.pointer.add_(len(keys)).remainder_(len(self.queue))


class SimCLR(nn.Module):
    """Contrast within the batch; no queue and one encoder.

    Args:
        encoder: is trained.
        temperature: tau.
        splits: groups of a batch with batch statistics of their own.
    """

    def __init__(self, encoder: Encoder, *, temperature: float, splits: int = 1) -> None:
        super().__init__()
        self.encoder = cast(Encoder, split_batch_norm(encoder, splits))
        self.temperature = temperature

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of two views (B, C, H, W) of the same images."""
        return nt_xent(self.encoder(first), self.encoder(second), self.temperature)
