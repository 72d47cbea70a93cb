"""What the service bears at most, with the unit beside the number, and how long it waits for anything."""

from __future__ import annotations

import msgspec

MIB = 2**20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the service; the defaults suit a device with 2 GiB of memory and 16 GiB of disk.

    Args:
        image_bytes: of one image, however it comes.
        queue_jobs: accepted and not yet answered; beyond it the answer is 503 or 0xA700.
        queue_bytes: likewise, of images on disk.
        results: DICOM files that wait for the peer; beyond it nothing new is accepted.
        kept_answers: answered jobs that are remembered; the oldest are forgotten first.
        waiting: HTTP requests that wait for an answer at the same time.
        deadline_s: for one image in the engine's process; after that the process is ended.
        start_s: for a start of the engine's process, self-test included.
        attempts: of one job; after that it is answered "unavailable".
        patience_s: a job that waited longer while the service was up is answered "unavailable", not given a late score.
        restarts: of the engine's process within `restarts_s`; beyond it the service is unavailable.
        restarts_s: see there.
        pause_s: between one try to start the engine and the next while the service is unavailable.
        request_s: an HTTP request has to be received whole within it, a DICOM message likewise.
        associations: DICOM associations at the same time.
        delivery_s: a result that the peer does not take in all the tries of so long is given up.
        rest_s: a file in the watch folder is taken when its size and time have not changed for so long.
        memory_mib: of the engine's process; above it, it is started anew between two images; 0 for no limit.
    """

    image_bytes: int = 256 * MIB
    queue_jobs: int = 256
    queue_bytes: int = 4096 * MIB
    results: int = 1024
    kept_answers: int = 10_000
    waiting: int = 16
    deadline_s: float = 30.0
    start_s: float = 600.0
    attempts: int = 3
    patience_s: float = 3600.0
    restarts: int = 5
    restarts_s: float = 600.0
    pause_s: float = 60.0
    request_s: float = 120.0
    associations: int = 8
    delivery_s: float = 7 * 86400.0
    rest_s: float = 2.0
    memory_mib: float = 0.0


LIMITS = Limits()
