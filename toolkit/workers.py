"""Several processes of one training, started by torchrun: one leads and writes, the others follow and compute.

The leader (rank 0) runs the pipeline as if it were alone. A follower goes along the same plan, takes part in the steps
that are trained together, and writes nothing. torchrun ends all of them when one dies.

    torchrun --nproc-per-node 4 -m foveola.toolkit run chest-xray
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.2


def rank() -> int:
    """Which of the processes that torchrun started this is; 0 when it is alone."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def leads() -> bool:
    """Whether this process writes results."""
    return rank() == 0


def wait_for(path: Path, *, seconds: float = 86_400.0, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until the leader has made a file or folder.

    Raises:
        TimeoutError: it never came.
    """
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path} was not made in {seconds:.0f} s")
        sleep(POLL_S)
