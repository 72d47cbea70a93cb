"""Keys and signatures, on the host that makes bundles.

The key is ECDSA on P-256, in PEM; the signature is deterministic (RFC 6979), so that equal members and an equal key
give equal bytes. Only what a device can read is signed. The format itself is in `runtime/signature.py`.

    private, public = make_keys(Path("keys/maker"))
    sign_bundle(Path("chest.foveola"), private)
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..runtime.bundle import Bundle, read_bundle, read_unverified, write_bundle
from ..runtime.container import bundle_bytes
from ..runtime.errors import FoveolaError
from ..runtime.signature import (
    MAX_KEY_BYTES,
    SIGNATURE,
    encode_signature,
    encode_statement,
    key_hint,
    member_digests,
    pre_authentication_encoding,
)


def make_keys(name: Path, *, password: bytes | None = None) -> tuple[Path, Path]:
    """Make a key pair: `<name>.pem` (private, readable by its owner only) and `<name>.pub` (for the devices).

    Args:
        name: path without ending; its folder is made where needed.
        password: encrypts the private key.

    Returns:
        Paths of the private and the public key.

    Raises:
        FoveolaError: one of the files is there already, or cannot be written.
    """
    private, public = name.with_name(name.name + ".pem"), name.with_name(name.name + ".pub")
    for path in (private, public):
        if path.exists():
            raise FoveolaError(str(path), "is there already", "keys are never overwritten; choose another name")
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    shown = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write_new(private, secret, 0o600)
    try:
        _write_new(public, shown, 0o644)
    except FoveolaError:
        private.unlink()  # half a pair is of no use
        raise
    return private, public


def sign_members(members: Mapping[str, bytes], private_key_pem: bytes, *, password: bytes | None = None) -> bytes:
    """Make the signature (`model.sig`) over all members but `model.sig` itself.

    Args:
        members: content by name, as `write_bundle` takes them.
        private_key_pem: ECDSA key on P-256.
        password: of an encrypted key.

    Raises:
        FoveolaError: the members make no bundle, or the key is not one that can sign it.
    """
    key = _load_private_key(private_key_pem, password)
    unsigned = {name: data for name, data in members.items() if name != SIGNATURE}
    bundle = read_bundle(io.BytesIO(bundle_bytes(unsigned)))
    payload = encode_statement(member_digests(unsigned), bundle.manifest.name)
    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    signature = key.sign(pre_authentication_encoding(payload), algorithm)
    return encode_signature(payload, signature, key_hint(key.public_key()))


def sign_bundle(path: Path, key: Path, out: Path | None = None, *, password: bytes | None = None) -> Bundle:
    """Sign a bundle, in place or into `out`; an older signature is replaced.

    Raises:
        FoveolaError: not a bundle, not a key, or no room; the bundle at `path` is left as it was.
    """
    members = read_unverified(path).members
    try:
        with key.open("rb") as file:
            pem = file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise FoveolaError(
            str(key), f"the key cannot be read: {error.strerror}", "`foveola keygen` makes one"
        ) from None
    return write_bundle(out or path, {**members, SIGNATURE: sign_members(members, pem, password=password)})


def _load_private_key(pem: bytes, password: bytes | None) -> ec.EllipticCurvePrivateKey:
    mend = "give the private key (.pem) that `foveola keygen` made"
    if b"PRIVATE KEY" not in pem:
        raise FoveolaError("key", "not a private key in PEM", mend)
    try:
        key = serialization.load_pem_private_key(pem, password)
    except TypeError:
        fault = "the key is encrypted" if password is None else "a password was given, but the key is not encrypted"
        raise FoveolaError("key", fault) from None
    except (ValueError, UnsupportedAlgorithm):
        raise FoveolaError("key", "cannot be read; damaged, or the password is wrong", mend) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FoveolaError("key", "a key of the wrong kind; it has to be ECDSA on P-256", mend)
    return key


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not be there yet, with its mode from the first moment on; whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise _unwritten(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
    except OSError as error:
        path.unlink()
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> FoveolaError:
    return FoveolaError(str(path), f"cannot be written: {error.strerror}", "choose another place or make room")
