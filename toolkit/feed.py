"""Batches read ahead in the background, so that the device does not wait for the disk.

Reading is plain copying out of the cache (`data/arrays.py`), which lets go of Python's lock; what is random stays in
the foreground, so that the order of reading changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from .batches import Batch

AHEAD = 3  # batches read before they are asked for
Index = NDArray[np.int64]


def read_ahead(read: Callable[[Index], Batch], parts: Sequence[Index], threads: int) -> Iterator[tuple[Index, Batch]]:
    """Yield each part with its batch, in order.

    Args:
        read: makes a batch of the images at these places; called in other threads.
        parts: places, a batch each.
        threads: readers; 0 reads in the foreground.
    """
    if threads == 0:
        yield from ((part, read(part)) for part in parts)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Index, Future[Batch]]] = deque()
        for part in parts:
            waiting.append((part, pool.submit(read, part)))
            if len(waiting) > AHEAD:
                first, batch = waiting.popleft()
                yield first, batch.result()
        while waiting:
            first, batch = waiting.popleft()
            yield first, batch.result()
