"""The signature of a bundle: OpenSSF model signing v1, written and checked with `cryptography` alone.

Layers, outside in; the writer of each stands beside its reader, and what one writes the other accepts:

1. a Sigstore bundle (JSON, media type v0.3) with a hint of the public key;
2. a DSSE envelope: base64 payload, one ECDSA P-256 signature over the payload's pre-authentication encoding;
3. an in-toto statement v1 with the sha256 of every member, which the payload is.

Rules of the check: the key is pinned by the caller and never taken from the signature; the payload is decoded only
after its signature held; the members listed are exactly the members there, whatever paths the statement ignores.

Sources: https://docs.sigstore.dev/about/bundle, the DSSE protocol v1.0, in-toto attestation v1, and the predicate
https://model_signing/signature/v1.0 as `model_signing` 1.1 writes it. `model_signing verify key` accepts what is
written here on an unpacked bundle, and its own signatures with a P-256 key are accepted here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from .digest import sha256_hex
from .errors import NotVouchedError

SIGNATURE = "model.sig"  # the member that holds the signature; it cannot vouch for itself
PAYLOAD_TYPE = "application/vnd.in-toto+json"

# Before a point on P-256 in a public key's DER (RFC 5480): a sequence of the algorithm (id-ecPublicKey, prime256v1) and
# a bit string of 65 bytes, of which the first, 4, says that the point is not compressed.
_BEFORE_POINT = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
_PEM = re.compile(rb"\s*-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/=\n]{124,130})\n-----END PUBLIC KEY-----\s*")
MAX_KEY_BYTES = 16 * 1024  # bytes of a PEM file
MAX_SIGNATURE_BYTES = 64 * 1024  # bytes of the signature's JSON

Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_T = TypeVar("_T")


class _PublicKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hint: Sha256


class _Material(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    public_key: _PublicKey
    tlog_entries: Annotated[
        tuple[str, ...], msgspec.Meta(max_length=0)
    ] = ()  # a device is offline: there is no log to look into


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sig: str
    keyid: Literal[""] = ""


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: tuple[_Signature]


class _SigstoreBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    dsse_envelope: _Envelope


class _Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: Sha256


class _Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    digest: _Digest


class _Serialization(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool
    ignore_paths: tuple[str, ...] = ()


class _Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    algorithm: Literal["sha256"]
    digest: Sha256


class _Predicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    serialization: _Serialization
    resources: tuple[_Resource, ...]


class _Statement(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={"kind": "_type", "predicate_type": "predicateType"},
):
    kind: Literal["https://in-toto.io/Statement/v1"]
    subject: tuple[_Subject]
    predicate_type: Literal["https://model_signing/signature/v1.0"]
    predicate: _Predicate


def member_digests(members: Mapping[str, bytes]) -> dict[str, str]:
    """Take the sha256 of every member but the signature, in hexadecimal, sorted by name."""
    return {name: sha256_hex(members[name]) for name in sorted(members) if name != SIGNATURE}


def encode_statement(digests: Mapping[str, str], name: str) -> bytes:
    """Encode the in-toto statement over all members as canonical JSON: equal digests and name give equal bytes.

    Args:
        digests: sha256 in hexadecimal by member.
        name: name of the subject; it informs and is not checked.
    """
    resources = tuple(_Resource(member, "sha256", digests[member]) for member in sorted(digests))
    statement = _Statement(
        kind="https://in-toto.io/Statement/v1",
        subject=(_Subject(name, _Digest(_root_digest(resources))),),
        predicate_type="https://model_signing/signature/v1.0",
        predicate=_Predicate(_Serialization("files", "sha256", False, (SIGNATURE,)), resources),
    )
    return msgspec.json.encode(statement, order="sorted")


def pre_authentication_encoding(payload: bytes) -> bytes:
    """Build the bytes that are signed: payload type and payload with their lengths (DSSE protocol v1.0, PAE)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def encode_signature(payload: bytes, signature: bytes, hint: str) -> bytes:
    """Encode the content of `model.sig`.

    Args:
        payload: the statement.
        signature: ECDSA signature (DER) over `pre_authentication_encoding(payload)`.
        hint: `key_hint` of the public key.
    """
    envelope = _Envelope(
        payload=base64.b64encode(payload).decode(),
        payload_type="application/vnd.in-toto+json",
        signatures=(_Signature(base64.b64encode(signature).decode()),),
    )
    bundle = _SigstoreBundle(
        media_type="application/vnd.dev.sigstore.bundle.v0.3+json",
        verification_material=_Material(_PublicKey(hint)),
        dsse_envelope=envelope,
    )
    return msgspec.json.encode(bundle, order="sorted")


def key_hint(key: ec.EllipticCurvePublicKey) -> str:
    """Take the sha256 of the key's PEM: it tells which key signed, not whether to trust it."""
    return sha256_hex(_public_pem(key))


def load_public_key(pem: bytes, place: str) -> ec.EllipticCurvePublicKey:
    """Load a PEM public key on the curve P-256; no other kind is used.

    Raises:
        NotVouchedError: not a public key in PEM, or of another kind.
    """
    mend = "give the public key (.pub) that `foveola keygen` made"
    if b"PRIVATE KEY" in pem:
        raise NotVouchedError(place, "this is a private key; a device holds only the public one", mend)
    usual = _usual_key(pem)
    if usual is not None:
        return usual
    from cryptography.hazmat.primitives import serialization  # a megabyte, for keys in another form and those refused

    try:
        key = serialization.load_pem_public_key(pem[: MAX_KEY_BYTES + 1])
    except (ValueError, UnsupportedAlgorithm):
        raise NotVouchedError(place, "not a public key in PEM", mend) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise NotVouchedError(place, "a key of the wrong kind; it has to be ECDSA on P-256", mend)
    return key


def _usual_key(pem: bytes) -> ec.EllipticCurvePublicKey | None:
    """Load a key as `foveola keygen` and openssl write it; None where it is written in any other way."""
    found = _PEM.fullmatch(pem)
    if not found:
        return None
    try:
        der = base64.b64decode(found[1].replace(b"\n", b""), validate=True)
        if not der.startswith(_BEFORE_POINT):
            return None
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), der[len(_BEFORE_POINT) :])
    except ValueError:  # a point that is none, too
        return None
    return key if _public_pem(key).strip() == pem.strip() else None


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """Write a key as PEM (RFC 7468), as `cryptography` writes it."""
    numbers = key.public_numbers()
    point = b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    text = base64.b64encode(_BEFORE_POINT + point)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN PUBLIC KEY-----", *lines, b"-----END PUBLIC KEY-----", b""])


def verify_members(members: Mapping[str, bytes], signature: bytes, public_key_pem: bytes, place: str) -> None:
    """Say nothing if the key's holder signed exactly these members.

    Args:
        members: content by name; `model.sig` among them is not looked at.
        signature: content of `model.sig`.
        public_key_pem: the pinned key.
        place: the bundle, as the user knows it.

    Raises:
        NotVouchedError: wrong key, not a signature, or any member missing, added or changed (all named).
    """
    verify_digests(member_digests(members), signature, public_key_pem, place)


def verify_digests(digests: Mapping[str, str], signature: bytes, public_key_pem: bytes, place: str) -> None:
    """Do what `verify_members` does, for whoever has the members' sha256 already."""
    key = load_public_key(public_key_pem, f"{place}: key")
    where = f"{place}: {SIGNATURE}"
    payload = _signed_payload(signature, key, where)
    statement = _decode(payload, _Statement, where)
    resources = statement.predicate.resources
    if statement.subject[0].digest.sha256 != _root_digest(resources):
        raise NotVouchedError(where, "its own list of digests does not hold", "sign the bundle anew")
    _match(resources, digests, place)


def _signed_payload(signature: bytes, key: ec.EllipticCurvePublicKey, place: str) -> bytes:
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise NotVouchedError(place, f"longer than {MAX_SIGNATURE_BYTES} bytes", "sign the bundle anew")
    bundle = _decode(signature, _SigstoreBundle, place)
    if bundle.verification_material.public_key.hint != key_hint(key):
        raise NotVouchedError(place, "signed with another key than the one given", "ask the signer for the public key")
    payload = _base64(bundle.dsse_envelope.payload, place)
    raw = _base64(bundle.dsse_envelope.signatures[0].sig, place)
    try:
        key.verify(raw, pre_authentication_encoding(payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise NotVouchedError(place, "the signature does not hold", "get the bundle anew from its maker") from None
    return payload


def _match(resources: tuple[_Resource, ...], digests: Mapping[str, str], place: str) -> None:
    """Refuse unless exactly the members signed are there, each once and unchanged; all faults at once."""
    signed = {resource.name: resource.digest for resource in resources}
    faults = [f"{name} is not signed" for name in sorted(digests.keys() - signed.keys())]
    faults += [f"{name!a} is signed but not there" for name in sorted(signed.keys() - digests.keys())]
    faults += [f"{name} was changed" for name in sorted(digests) if signed.get(name, digests[name]) != digests[name]]
    if len(signed) != len(resources):
        faults.append("a member is signed twice")
    if faults:
        raise NotVouchedError(place, ", ".join(faults), "get the bundle anew from its maker")


def _root_digest(resources: tuple[_Resource, ...]) -> str:
    """Take the sha256 over the raw digests in their order, which model signing puts into the subject."""
    return sha256_hex(b"".join(bytes.fromhex(resource.digest) for resource in resources))


def _decode(data: bytes, layer: type[_T], place: str) -> _T:
    try:
        return msgspec.json.decode(data, type=layer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotVouchedError(place, f"not a signature that is understood: {error}", "sign the bundle anew") from None


def _base64(text: str, place: str) -> bytes:
    """Decode base64 strictly: one text for one content."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise NotVouchedError(place, "not valid base64", "sign the bundle anew")
    return data
