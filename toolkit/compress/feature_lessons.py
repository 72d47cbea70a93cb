"""What a teacher's features teach: cell by cell after a projection, or by relations that need none.

B batch, F the teacher's channels, h and w a grid. Widths of student and teacher may differ everywhere but in
`hint_loss`, which takes projected features. Cells that the warp brought in from outside the picture hold zeros and
teach nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..losses import masked_mean

ANGLE = 2.0  # weight of angles beside distances (Park et al. 2019, sec. 4.1: 50 to 25)


def hint_loss(
    projected_BFhw: Tensor, teacher: Tensor, focus_Bhw: Tensor | None = None, foreground: float = 0.0
) -> Tensor:
    """1 - cosine similarity of feature vectors, cell by cell, on the smaller of the two grids.

    FitNets' hint (Romero et al., ICLR 2015) with the cosine for the squared distance, so that a teacher's scale does
    not matter.

    Args:
        projected_BFhw: the student's, in the teacher's width.
        teacher: (B, F, h, w).
        focus_Bhw: weight of each cell, such as the score of the box on it.
        foreground: share of the loss that is averaged by `focus_Bhw`; the rest is averaged over all cells.
    """
    own, wanted, known = _on_grid(projected_BFhw, teacher)
    return _averaged(1 - functional.cosine_similarity(own, wanted, dim=1), known, focus_Bhw, foreground)


def attention_loss(
    own_BChw: Tensor, teacher: Tensor, focus_Bhw: Tensor | None = None, foreground: float = 0.0
) -> Tensor:
    """Squared distance of the normalised maps of activity (Zagoruyko and Komodakis, ICLR 2017, eq. 2).

    A map is the sum of squares over channels; the mean is over images.
    """
    own, wanted, known = _on_grid(own_BChw.float(), teacher)
    maps = [x.square().sum(1) * known for x in (own, wanted)]
    ours, theirs = (x / x.flatten(1).norm(dim=1).clamp(min=1e-6)[:, None, None] for x in maps)
    cells = known.flatten(1).sum(1)[:, None, None]
    return _averaged((ours - theirs).square() * cells, known, focus_Bhw, foreground)


def similarity_loss(
    own_BChw: Tensor, teacher: Tensor, focus_Bhw: Tensor | None = None, foreground: float = 0.0
) -> Tensor:
    """Similarity-preserving distillation (Tung and Mori, ICCV 2019, eq. 4).

    Images whose features are alike for the teacher shall be alike for the student.
    """
    own, wanted, known = _on_grid(own_BChw.float(), teacher)
    weight = known.float()
    if focus_Bhw is not None and foreground > 0:
        weight = weight * ((1 - foreground) + foreground * focus_Bhw)
    ours, theirs = (_similarities(x * weight.sqrt()[:, None]) for x in (own, wanted))
    return (ours - theirs).square().mean()


def relation_loss(own_BC: Tensor, teacher_BF: Tensor) -> Tensor:
    """Distances and angles between the images of a batch (RKD; Park et al., CVPR 2019, eq. 4 to 9).

    Args:
        own_BC: a vector an image, such as pooled features.
        teacher_BF: the teacher's, of any width.
    """
    if len(own_BC) < 2:
        return own_BC.sum() * 0.0
    own, teacher = own_BC.float(), teacher_BF.float()
    distance = functional.smooth_l1_loss(_distances(own), _distances(teacher))
    if len(own) < 3:
        return distance
    return distance + ANGLE * functional.smooth_l1_loss(_angles(own), _angles(teacher))


def foreground_of(boxes: Sequence[Sequence[Tensor]], size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Weight (B, h, w) of each cell: the highest score of a teacher's box that touches it, else zero.

    The cells near objects carry what a detector needs (Wang et al., CVPR 2019; Guo et al., CVPR 2021).

    Args:
        boxes: a list a task of a tensor an image, (M, 6) with the score last.
        size: height and width of the student's input.
        grid: h and w.
    """
    together = [torch.cat([task[i] for task in boxes]) for i in range(len(boxes[0]))]
    focus = together[0].new_zeros((len(together), *grid), dtype=torch.float32)
    # Edges of the cells, in input pixels.
    rows, columns = (torch.arange(n + 1, device=focus.device) * (side / n) for n, side in zip(grid, size, strict=True))
    for i, one in enumerate(together):
        if len(one):
            down = (one[:, 1, None] < rows[None, 1:]) & (one[:, 3, None] > rows[None, :-1])
            across = (one[:, 0, None] < columns[None, 1:]) & (one[:, 2, None] > columns[None, :-1])
            touched = down[:, :, None] & across[:, None, :]
            focus[i] = (touched * one[:, 5, None, None]).amax(0)
    return focus


def pooled(teacher_BFhw: Tensor) -> Tensor:
    """Mean feature vector (B, F) over the cells that hold something."""
    known = (teacher_BFhw.abs().sum(1, keepdim=True) > 1e-6).float()
    return (teacher_BFhw * known).sum((2, 3)) / known.sum((2, 3)).clamp(min=1.0)


def common_grid(own: Tensor, teacher: Tensor) -> tuple[int, int]:
    """The smaller of two grids, side by side."""
    return min(own.shape[-2], teacher.shape[-2]), min(own.shape[-1], teacher.shape[-1])


def _on_grid(own: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both on the smaller grid, and the cells (B, h, w) where the teacher knows something."""
    size = common_grid(own, teacher)
    own = functional.adaptive_avg_pool2d(own, size)
    wanted = functional.adaptive_avg_pool2d(teacher, size)
    return own, wanted, wanted.abs().sum(1) > 1e-6


def _averaged(distance_Bhw: Tensor, known: Tensor, focus: Tensor | None, foreground: float) -> Tensor:
    even = masked_mean(distance_Bhw, known)
    if focus is None or foreground == 0:
        return even
    weight = focus * known
    focused = (distance_Bhw * weight).sum() / weight.sum().clamp(min=1e-6)
    return (1 - foreground) * even + foreground * focused


def _similarities(x_BChw: Tensor) -> Tensor:
    """(B, B) products of the images' features, each row of length one."""
    flat = x_BChw.flatten(1)
    return functional.normalize(flat @ flat.T, dim=1)


def _distances(x_BC: Tensor) -> Tensor:
    """(B, B) distances over their mean, the diagonal left out of it."""
    apart = torch.cdist(x_BC, x_BC, compute_mode="donot_use_mm_for_euclid_dist")
    others = len(x_BC) * (len(x_BC) - 1)
    return apart / (apart.sum() / others).clamp(min=1e-6)


def _angles(x_BC: Tensor) -> Tensor:
    """(B, B, B) cosines at the first image between the ways to the two others."""
    way = functional.normalize(x_BC[None] - x_BC[:, None], dim=2)
    return way @ way.transpose(1, 2)
