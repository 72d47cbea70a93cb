"""One change of a root folder at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .. import lock
from ..durable import refused
from ..errors import FoveolaError


@contextmanager
def locked(root: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a root folder.

    Args:
        root: the folder, which is there.
        wait_s: how long to wait for another process, in seconds.

    Raises:
        FoveolaError: another process holds it, or the file cannot be made.
    """
    with ExitStack() as held:
        try:
            held.enter_context(lock.locked(root, wait_s))
        except TimeoutError:
            raise FoveolaError(str(root), "another process is changing its slots", "wait until it is done") from None
        except OSError as error:
            raise refused(root / lock.LOCK, error) from None
        yield
