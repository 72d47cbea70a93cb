"""Outlines of a mask as closed polygons along the edges of its pixels.

Laws:
- Corners are (column, row) in pixels from the top left corner of the image, as PS3.3 C.10.5.1.2 and C.18.6.1.2 count.
- A polygon filled again (even-odd rule) gives the mask that it was made from, holes and all, as long as that needs no
  more than `MOST_CORNERS`; beyond, the mask is first made coarser by twos and the outlines cover all that it covered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_CORNERS = 8000  # of all polygons of a mask; FL in explicit VR holds 8191 points (PS3.5 7.1.2)
Bools = NDArray[np.bool_]
Polygon = NDArray[np.float64]  # (N, 2) column and row; the last point is the first

EAST, SOUTH, WEST, NORTH = range(4)  # an edge runs so that the mask lies on its right hand


def outlines(mask: Bools) -> list[Polygon]:
    """Trace a mask (H, W); the longest polygon first, none where the mask is empty."""
    scale, small = 1, mask
    while _corner_count(small) > MOST_CORNERS:
        small, scale = _halved(small), scale * 2
    edge = np.array([mask.shape[1], mask.shape[0]], np.float64)
    return [np.minimum(polygon * scale, edge) for polygon in sorted(_traced(small), key=len, reverse=True)]


def _corner_count(mask: Bools) -> int:
    """Count the corners of all outlines: points with one or three pixels of the mask around, twice where two touch."""
    around = np.pad(mask, 1).astype(np.uint8)
    nw, ne, sw, se = around[:-1, :-1], around[:-1, 1:], around[1:, :-1], around[1:, 1:]
    odd = (nw ^ ne ^ sw ^ se).astype(bool)
    touching = (nw == se) & (ne == sw) & (nw != ne)
    return int(np.count_nonzero(odd) + 2 * np.count_nonzero(touching))


def _halved(mask: Bools) -> Bools:
    height, width = mask.shape
    even = np.pad(mask, ((0, height % 2), (0, width % 2)))
    rows = even[::2] | even[1::2]
    return rows[:, ::2] | rows[:, 1::2]


def _traced(mask: Bools) -> list[Polygon]:
    """Follow every edge between a pixel of the mask and one outside, once.

    An edge is the number `point * 4 + direction`, its point the number of the pixel corner it leaves from.
    """
    across = mask.shape[1] + 1
    step = (1, across, -1, -across)  # to the next pixel corner eastwards, southwards, westwards, northwards
    edges = _edges(mask)
    known, left = frozenset(edges), dict.fromkeys(edges)
    polygons = []
    while left:
        start = edge = next(iter(left))  # the topmost corner of an outline, so that it begins with a corner
        corners: list[int] = []
        last = -1
        while True:
            del left[edge]
            point, direction = divmod(edge, 4)
            if direction != last:
                corners.append(point)
            ahead = (point + step[direction]) * 4
            # Where two pixels touch at a corner both turns are there; the right one stays with the same pixel.
            turns = ((direction + 1) % 4, direction, (direction + 3) % 4)
            edge, last = next(ahead + turn for turn in turns if ahead + turn in known), direction
            if edge == start:
                break
        rows, columns = np.divmod(np.array([*corners, corners[0]]), across)
        polygons.append(np.stack([columns, rows], axis=1).astype(np.float64))
    return polygons


def _edges(mask: Bools) -> list[int]:
    """All edges of a mask, by rising number."""
    around = np.pad(mask, 1)
    inside = around[1:-1, 1:-1]
    found = []
    for direction, beside, corner in (
        (EAST, around[:-2, 1:-1], (0, 0)),  # nothing above: from the pixel's top left corner
        (SOUTH, around[1:-1, 2:], (0, 1)),
        (WEST, around[2:, 1:-1], (1, 1)),
        (NORTH, around[1:-1, :-2], (1, 0)),
    ):
        rows, columns = np.nonzero(inside & ~beside)
        found.append(((rows + corner[0]) * (mask.shape[1] + 1) + columns + corner[1]) * 4 + direction)
    every: list[int] = np.sort(np.concatenate(found)).tolist()
    return every
