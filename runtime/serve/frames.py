"""Messages between the service and its engine's process: a line of JSON, then as many bytes as it says.

Law: `read_frame` of what `write_frame` wrote gives the same; a stream that ends between two frames gives None.

Nothing is pickled, and a message is decoded into its own type before it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import msgspec

from ..errors import FoveolaError
from ..watch.seen import Seen

MAX_HEAD_BYTES = 256 * 2**20  # an answer with masks' run lengths is some megabytes


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine's process is started with.

    Args:
        bundle: the file; "." where `root` is given.
        root: a device's folder with two slots, whose active bundle answers.
        key: public key of whoever vouches for it.
        engine: as for `Predictor`.
        record: where a passed self-test is kept.
        watched: describe each image in numbers for the watch.
        audit: folder of the audit log that is told when a trial's bundle is left for the other slot.
        dicom: load what reads DICOM before the first image, `results` also what writes it.
    """

    bundle: Path
    root: Path | None = None
    key: Path | None = None
    engine: str | None = None
    record: Path | None = None
    watched: bool = False
    audit: Path | None = None
    dicom: bool = False
    results: bool = False


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One image to answer about, whose `payload` bytes follow.

    `results` is the folder for DICOM results, and `kinds` which; empty: none are asked for.
    """

    payload: int = 0
    results: str = ""
    kinds: tuple[str, ...] = ()


class Answering(msgspec.Struct, frozen=True, kw_only=True):
    """Which bundle answers, on which engine."""

    name: str
    version: str
    digest: str
    engine: str


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What DICOM results are about, in digests: the SOP Instance UID, and the pixels that the network was shown."""

    uid: str
    picture: str


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The engine's process is up: the bundle is vouched for and the self-test passed."""

    bundle: Answering
    images: int  # of the self-test
    manifest: str  # as it stands in the bundle


class Told(msgspec.Struct, frozen=True, kw_only=True, tag="told"):
    """What the bundle says about one image: `answer` is the JSON of `prediction_json`."""

    bundle: Answering
    answer: msgspec.Raw
    outcome: str  # answered or unfit
    results: tuple[str, ...] = ()  # names of DICOM files in the folder that was asked for
    source: Source | None = None  # what the results are about
    seconds: float
    memory_mib: float | None = None
    seen: Seen | None = None  # for the watch


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """There is no answer, and why, in the words of the command line."""

    error: str
    exit_code: int
    digest: str = ""  # of the bundle that refused
    device: bool = False  # the image is not at fault: a part is missing, the disk is full


Said = Started | Told | Refused


def write_frame(stream: IO[bytes], head: msgspec.Struct, payload: bytes = b"") -> None:
    """Send one message."""
    line = msgspec.json.encode(head)
    stream.write(len(line).to_bytes(4, "big"))
    stream.write(line)
    stream.write(payload)
    stream.flush()


def read_ask(stream: IO[bytes]) -> tuple[Ask, bytes] | None:
    """Receive a question and its bytes; None at the end."""
    line = _head(stream)
    if line is None:
        return None
    ask = msgspec.json.decode(line, type=Ask)
    return ask, _exactly(stream, ask.payload)


def read_said(stream: IO[bytes]) -> Said | None:
    """Receive an answer; None at the end, also in the middle of one."""
    try:
        line = _head(stream)
        return None if line is None else msgspec.json.decode(line, type=Said)
    except EOFError:
        return None


def _head(stream: IO[bytes]) -> bytes | None:
    size = stream.read(4)
    if len(size) < 4:
        return None
    length = int.from_bytes(size, "big")
    if length > MAX_HEAD_BYTES:
        raise FoveolaError("engine process", f"a message of {length} bytes", "")
    return _exactly(stream, length)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)  # a buffered stream reads on until it has them all
    if len(data) < count:
        raise EOFError
    return data
