"""The bundle `name.foveola`: one signed file with all that a device needs.

- `open_bundle` is the device's way in: the signature is checked before any member is decoded.
- `read_unverified` is for inspection and for the host that makes bundles.
- `read_bundle` is pure: a stream in, an object out; `container.py` reads the file, every length checked first.
- `write_bundle` is atomic (`NAME.partial`, fsync, one rename), and equal members give equal bytes.

The law: `read_bundle(BytesIO(bundle_bytes(members))).members == members`.

    bundle = open_bundle(Path("chest.foveola"), key=Path("maker.pub"))
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from .container import LIMITS as LIMITS
from .container import MEMBERS as MEMBERS
from .container import Limits as Limits
from .container import bundle_bytes as bundle_bytes
from .container import read_members as read_members
from .container import refusal, scan_members
from .digest import sha256_hex
from .durable import sync_folder
from .errors import FoveolaError, NotVouchedError
from .external_data import holds_external_data
from .manifest import Manifest, decode_manifest
from .signature import MAX_KEY_BYTES, SIGNATURE, member_digests, verify_digests

PROOF_MEMBERS = frozenset({"parity.json", "report.html"})  # made after the proof, so not part of what was proved
MANIFEST = "manifest.json"
GRAPHS = ("model.onnx", "tensorrt.onnx")  # members in which a path to another file could hide
KEY_VARIABLE = "FOVEOLA_KEY"  # environment variable: path of the public key that the device trusts


class Bundle(msgspec.Struct, frozen=True):
    """A bundle in memory, read and checked.

    Args:
        manifest: what it is.
        members: content by name, in the file's order, the signature (where there is one) among them; those that were
            asked for, where `open_bundle` was told which.
        digest: names the bundle: over all members but the signature (`digest_members`).
        core_digest: names what the proof was run on: also without `parity.json` and `report.html`.
        path: the file that it was read from, beside which built engines lie; None where it came from a stream.
    """

    manifest: Manifest
    members: dict[str, bytes]
    digest: str
    core_digest: str
    path: Path | None = None

    def __repr__(self) -> str:  # without the members' megabytes
        return f"Bundle({self.manifest.name!r}, {self.manifest.version!r}, {list(self.members)}, {self.digest!r})"


def digest_members(members: Mapping[str, bytes]) -> str:
    """Name a bundle: the sha256 of the lines that `sha256sum` prints for its members, sorted by name.

    The signature is left out: signed again with another key it is the same bundle.
    """
    return _digest(member_digests(members))


def core_digest(members: Mapping[str, bytes]) -> str:
    """Name what the proof was run on: `digest_members` without the proof's own members."""
    return _core_digest(member_digests(members))


def open_bundle(
    path: Path, *, key: Path | bytes | None = None, only: Callable[[Manifest], Collection[str]] | None = None
) -> Bundle:
    """Read a bundle that somebody vouches for; no member is decoded before the signature held.

    Args:
        path: the bundle.
        key: the public key that is trusted, as PEM or as the path of one. Without it, the file that the environment
            variable `FOVEOLA_KEY` names; without that, `<bundle's stem>.pub` beside the bundle. That last one is for
            the desk, not for a device: who can change the bundle can mostly change the file beside it as well.
        only: of the manifest, the members to hold in memory besides the manifest; None: all. The others are read and
            vouched for as well, piece by piece.

    Raises:
        NotVouchedError: no signature, no key, or the signature does not hold.
        FoveolaError: not a bundle.
    """
    if only is not None:
        return _open_lean(path, key, only)
    members = _read_path(path)
    pem = _find_key(path, key)
    if SIGNATURE not in members:
        raise _unsigned(path)
    digests = member_digests(members)
    verify_digests(digests, members[SIGNATURE], pem, path.name)
    return _decode(members, digests, path.name, path)


def _open_lean(path: Path, key: Path | bytes | None, only: Callable[[Manifest], Collection[str]]) -> Bundle:
    """Read the file once to have it vouched for, then again what is wanted, which has to be the same bytes."""
    with _stream(path) as stream:
        scan = scan_members(stream, place=path.name)
        pem = _find_key(path, key)
        if SIGNATURE not in scan.digests:
            raise _unsigned(path)
        digests = {name: digest for name, digest in scan.digests.items() if name != SIGNATURE}
        verify_digests(digests, scan.read(stream, SIGNATURE), pem, path.name)
        manifest = _decode_manifest({name: scan.read(stream, name) for name in digests if name == MANIFEST}, path.name)
        wanted = {MANIFEST, *only(manifest)}
        members = {name: scan.read(stream, name) for name in digests if name in wanted}
    return _checked(manifest, members, digests, path.name, path)


def _unsigned(path: Path) -> NotVouchedError:
    return NotVouchedError(path.name, "is not signed", "sign it with `foveola sign`")


def read_unverified(path: Path) -> Bundle:
    """Read a bundle without asking who made it.

    Raises:
        FoveolaError: not a bundle.
    """
    members = _read_path(path)
    return _decode(members, member_digests(members), path.name, path)


def read_bundle(stream: BinaryIO, limits: Limits = LIMITS, place: str = "bundle") -> Bundle:
    """Read a bundle from a seekable stream, without asking who made it.

    Args:
        stream: the file's content.
        limits: what is read at most.
        place: the file, as the user knows it.

    Raises:
        FoveolaError: not a canonical container, a member missing or not decodable.
    """
    members = read_members(stream, limits, place)
    return _decode(members, member_digests(members), place)


def write_bundle(path: Path, members: Mapping[str, bytes]) -> Bundle:
    """Write a bundle in one step: it is there whole, or not at all. Only what can be read again is written.

    Args:
        path: the bundle; an older one is replaced. One writer at a time.
        members: content by name.

    Raises:
        FoveolaError: the members make no bundle, or the file cannot be written; nothing is left behind.
    """
    data = bundle_bytes(members)
    bundle = read_bundle(io.BytesIO(data), place=path.name)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # of a writer that was killed
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        mend = f"make room for {len(data)} bytes" if full else "choose another place"
        raise FoveolaError(str(path), f"cannot be written: {error.strerror}", mend) from None
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            partial.unlink(missing_ok=True)
    return msgspec.structs.replace(bundle, path=path)


def _decode(members: dict[str, bytes], digests: Mapping[str, str], place: str, path: Path | None = None) -> Bundle:
    """Turn members into a bundle."""
    return _checked(_decode_manifest(members, place), members, digests, place, path)


def _decode_manifest(members: Mapping[str, bytes], place: str) -> Manifest:
    if MANIFEST not in members:
        raise refusal(place, f"no {MANIFEST}")
    return decode_manifest(members[MANIFEST], f"{place}: {MANIFEST}")


def _checked(
    manifest: Manifest, members: dict[str, bytes], digests: Mapping[str, str], place: str, path: Path | None
) -> Bundle:
    """Make a bundle of which every file that the manifest names is there, and no graph in memory names another."""
    for engine in manifest.engines:
        for name in engine.files:
            if name not in digests:
                raise refusal(f"{place}: {MANIFEST}", f"an engine needs {name!a}, which is not in the bundle")
    for name in GRAPHS:
        if holds_external_data(members.get(name, b"")):
            raise refusal(f"{place}: {name}", "keeps weights in other files, or cannot be searched for them")
    return Bundle(manifest, members, _digest(digests), _core_digest(digests), path)


def _digest(digests: Mapping[str, str]) -> str:
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return sha256_hex(lines.encode())


def _core_digest(digests: Mapping[str, str]) -> str:
    return _digest({name: digest for name, digest in digests.items() if name not in PROOF_MEMBERS})


def _read_path(path: Path) -> dict[str, bytes]:
    with _stream(path) as stream:
        return read_members(stream, place=path.name)


@contextlib.contextmanager
def _stream(path: Path) -> Iterator[BinaryIO]:
    try:
        if not path.is_file():  # to open a pipe would be to wait for ever
            fault = "is not a file" if path.exists() else "is not there"
            raise FoveolaError(str(path), fault, "give the path of a .foveola file")
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise FoveolaError(str(path), f"cannot be read: {error.strerror}", "check the path and its rights") from None


def _find_key(path: Path, key: Path | bytes | None) -> bytes:
    """Find the pinned public key: argument, environment, then the desk's file beside the bundle."""
    if isinstance(key, bytes):
        return key
    named = key or (Path(os.environ[KEY_VARIABLE]) if os.environ.get(KEY_VARIABLE) else None)
    beside = path.with_suffix(".pub")
    if named is None and not beside.exists():
        mend = f"give the key, name its file in {KEY_VARIABLE}, or put it at {beside.name}"
        raise NotVouchedError(path.name, "no key to check its signature with", mend)
    source = named or beside
    try:
        with source.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise NotVouchedError(str(source), f"the key cannot be read: {error.strerror}", "give the public key") from None
