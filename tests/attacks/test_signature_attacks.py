"""Attempts on the signature: whoever cannot sign with the pinned key cannot make a device read a member."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from foveola.export.signing import make_keys, sign_members
from foveola.runtime import bundle as bundle_module
from foveola.runtime.bundle import bundle_bytes, open_bundle
from foveola.runtime.errors import ExitCode, FoveolaError, NotVouchedError
from foveola.runtime.manifest import Manifest, encode_manifest
from foveola.runtime.signature import (
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    encode_signature,
    encode_statement,
    key_hint,
    member_digests,
    pre_authentication_encoding,
    verify_members,
)

Members = dict[str, bytes]
PutFile = Callable[[bytes], Path]


def refuse(path: Path, key: Path | bytes | None, words: str) -> None:
    with pytest.raises(NotVouchedError, match=words) as caught:
        open_bundle(path, key=key)
    assert caught.value.exit_code == ExitCode.NOT_VOUCHED
    assert str(caught.value).isprintable()


def pem(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def test_a_wrong_key_is_refused(file: bytes, bundle_file: PutFile, tmp_path: Path) -> None:
    _, other = make_keys(tmp_path / "other")

    refuse(bundle_file(file), other, "another key")


def test_a_wrong_key_with_the_hint_forged_is_refused(members: Members, tmp_path: Path, bundle_file: PutFile) -> None:
    _, other = make_keys(tmp_path / "other")
    hint = json.loads(members[SIGNATURE])["verificationMaterial"]["publicKey"]["hint"]
    loaded = serialization.load_pem_public_key(other.read_bytes())
    assert isinstance(loaded, ec.EllipticCurvePublicKey)
    members[SIGNATURE] = members[SIGNATURE].replace(hint.encode(), key_hint(loaded).encode())

    refuse(bundle_file(bundle_bytes(members)), other, "does not hold")


def test_no_key_is_refused(file: bytes, bundle_file: PutFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOVEOLA_KEY", raising=False)

    refuse(bundle_file(file), None, "no key")


def test_no_signature_is_refused(members: Members, public: bytes, bundle_file: PutFile) -> None:
    del members[SIGNATURE]

    refuse(bundle_file(bundle_bytes(members)), public, "not signed")


def wrong_keys(private: Path) -> dict[str, bytes]:
    edwards, curve = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
    encoded = serialization.load_pem_private_key(private.read_bytes(), None).public_key()
    return {
        "RSA": pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        "Ed25519": pem(edwards),
        "P-384": pem(curve),
        "secp256k1": pem(ec.generate_private_key(ec.SECP256K1())),
        "private": private.read_bytes(),
        "DER": encoded.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        "SSH": encoded.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        "empty": b"",
        "text": b"-----BEGIN PUBLIC KEY-----\nnot a key\n-----END PUBLIC KEY-----\n",
        "long": b"-" * 10**6,
    }


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("RSA", "wrong kind"),
        ("Ed25519", "wrong kind"),
        ("P-384", "wrong kind"),
        ("secp256k1", "wrong kind"),
        ("private", "private key"),
        ("DER", "not a public key"),
        ("SSH", "not a public key"),
        ("empty", "not a public key"),
        ("text", "not a public key"),
        ("long", "not a public key"),
    ],
)
def test_a_key_of_the_wrong_kind_is_refused(
    kind: str, words: str, keys: tuple[Path, Path], file: bytes, bundle_file: PutFile, tmp_path: Path
) -> None:
    key = tmp_path / "wrong.pub"
    key.write_bytes(wrong_keys(keys[0])[kind])

    refuse(bundle_file(file), key, words)


def test_the_signature_of_another_bundle_is_refused(
    members: Members, manifest: Manifest, keys: tuple[Path, Path], bundle_file: PutFile
) -> None:
    later = msgspec.structs.replace(manifest, version="2")
    other = {"manifest.json": encode_manifest(later), "model.onnx": b"other"}
    members[SIGNATURE] = sign_members(other, keys[0].read_bytes())

    refuse(bundle_file(bundle_bytes(members)), keys[1], r"golden\.npz is not signed, manifest\.json was changed, model")


def swapped(members: Members) -> Members:
    return {**members, "model.onnx": members["golden.npz"], "golden.npz": members["model.onnx"]}


def lost(members: Members) -> Members:
    return {name: data for name, data in members.items() if name != "golden.npz"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swapped, r"golden\.npz was changed, model\.onnx was changed"),
        (lost, r"'golden\.npz' is signed but not there"),
        (lambda members: {**members, "report.html": b"<b>pass</b>"}, r"report\.html is not signed"),
        (lambda members: {**members, "model.onnx": b""}, r"model\.onnx was changed"),
        (lambda members: {**members, "model.onnx": members["model.onnx"] + b"\n"}, r"model\.onnx was changed"),
    ],
)
def test_members_other_than_the_signed_ones_are_refused(
    change: Callable[[Members], Members], words: str, members: Members, public: bytes, bundle_file: PutFile
) -> None:
    refuse(bundle_file(bundle_bytes(change(members))), public, words)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden.npz"])
def test_a_flipped_bit_with_its_checksum_mended_is_refused(
    name: str, members: Members, public: bytes, bundle_file: PutFile
) -> None:
    for position in range(0, len(members[name]), 7):
        data = bytearray(members[name])
        data[position] ^= 1 << position % 8

        refuse(bundle_file(bundle_bytes({**members, name: bytes(data)})), public, f"{name} was changed")


def test_every_changed_byte_of_the_signature_is_refused(members: Members, public: bytes) -> None:
    signature = members[SIGNATURE]
    for position in range(len(signature)):
        changed = bytearray(signature)
        changed[position] ^= 1 << position % 7

        with pytest.raises(NotVouchedError):
            verify_members(members, bytes(changed), public, "tiny.foveola")


def test_nothing_is_decoded_before_the_signature_held(
    members: Members, public: bytes, bundle_file: PutFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("decoded something nobody vouches for")

    monkeypatch.setattr(bundle_module, "decode_manifest", decoded)
    monkeypatch.setattr(bundle_module, "holds_external_data", decoded)
    members["manifest.json"] = b"{" * 1000

    refuse(bundle_file(bundle_bytes(members)), public, r"manifest\.json was changed")


def edited(signature: bytes, *path: str | int, value: object) -> bytes:
    """The signature's JSON with one place set to another value."""
    document = json.loads(signature)
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(document).encode()


DOCUMENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda s: b"",
    "truncated": lambda s: s[:-1],
    "trailing junk": lambda s: s + b"}",
    "not UTF-8": lambda s: s.replace(b"hint", b"h\xffnt"),
    "deep JSON": lambda s: b"[" * (MAX_SIGNATURE_BYTES - 1),
    "deep JSON in an unknown field": lambda s: b'{"x":' + b"[" * 60_000,
    "NaN": lambda s: edited(s, "mediaType", value=float("nan")),
    "infinity": lambda s: edited(s, "dsseEnvelope", "payload", value=float("inf")),
    "huge number": lambda s: s.replace(b'"keyid":""', b'"keyid":1e999999'),
    "too long": lambda s: s + b" " * MAX_SIGNATURE_BYTES,
    "null": lambda s: b"null",
    "version from the future": lambda s: s.replace(b"bundle.v0.3", b"bundle.v9.9"),
    "unknown field": lambda s: edited(s, "extra", value=1),
    "unknown field with a line break": lambda s: edited(s, "a\nb\x1b[2J", value=1),
    "unknown field inside": lambda s: edited(s, "dsseEnvelope", "extra", value=1),
    "no hint": lambda s: edited(s, "verificationMaterial", "publicKey", value={}),
    "its own certificate": lambda s: edited(s, "verificationMaterial", value={"certificate": {"rawBytes": "AA=="}}),
    "log entries": lambda s: edited(s, "verificationMaterial", "tlogEntries", value=["x"]),
    "other payload type": lambda s: edited(s, "dsseEnvelope", "payloadType", value="text/plain"),
    "no signatures": lambda s: edited(s, "dsseEnvelope", "signatures", value=[]),
    "two signatures": lambda s: edited(s, "dsseEnvelope", "signatures", value=[{"sig": "AA==", "keyid": ""}] * 2),
    "empty signature": lambda s: edited(s, "dsseEnvelope", "signatures", value=[{"sig": "", "keyid": ""}]),
    "zero signature": lambda s: edited(s, "dsseEnvelope", "signatures", value=[{"sig": "MAYCAQACAQA="}]),
    "signature not base64": lambda s: edited(s, "dsseEnvelope", "signatures", value=[{"sig": "a b!", "keyid": ""}]),
    "payload not base64": lambda s: edited(s, "dsseEnvelope", "payload", value="\u00e9\u00e9"),
    "base64 with free bits": lambda s: edited(s, "dsseEnvelope", "payload", value="AB=="),
    "empty payload": lambda s: edited(s, "dsseEnvelope", "payload", value=""),
    "other payload": lambda s: edited(s, "dsseEnvelope", "payload", value=base64.b64encode(b"{}").decode()),
}


@pytest.mark.parametrize("attempt", DOCUMENTS)
def test_a_signature_that_is_not_exactly_one_is_refused(attempt: str, members: Members, public: bytes) -> None:
    changed = DOCUMENTS[attempt](members[SIGNATURE])

    with pytest.raises(NotVouchedError) as caught:
        verify_members(members, changed, public, "tiny.foveola")
    assert str(caught.value).isprintable()


def statement(members: Members) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(encode_statement(member_digests(members), "tiny"))
    return document


def signed_statement(payload: bytes, private: Path, signed_type: bytes | None = None) -> bytes:
    """A signature by the true key over any payload: what a signer who was fooled would make."""
    key = serialization.load_pem_private_key(private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    encoding = signed_type or pre_authentication_encoding(payload)
    return encode_signature(payload, key.sign(encoding, ec.ECDSA(hashes.SHA256())), key_hint(key.public_key()))


def twice(document: dict[str, Any]) -> None:
    """A member listed twice, and the root digest fits."""
    resources = document["predicate"]["resources"]
    resources.append(resources[0])
    root = hashlib.sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources)).hexdigest()
    document["subject"][0]["digest"]["sha256"] = root


def ignore_the_graph(document: dict[str, Any]) -> None:
    document["predicate"]["serialization"]["ignore_paths"] = ["model.sig", "model.onnx", "."]
    document["predicate"]["resources"] = [r for r in document["predicate"]["resources"] if r["name"] != "model.onnx"]


STATEMENTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "graph on the list of ignored paths": ignore_the_graph,
    "a member twice": twice,
    "no members": lambda d: d["predicate"].update(resources=[]),
    "root digest of others": lambda d: d["subject"][0]["digest"].update(sha256="0" * 64),
    "two subjects": lambda d: d["subject"].append(d["subject"][0]),
    "other hash": lambda d: d["predicate"]["serialization"].update(hash_type="blake2"),
    "member by another hash": lambda d: d["predicate"]["resources"][0].update(algorithm="md5"),
    "shards": lambda d: d["predicate"]["serialization"].update(method="shards"),
    "predicate from the future": lambda d: d.update(predicateType="https://model_signing/signature/v2.0"),
    "predicate of version 0.2": lambda d: d.update(predicateType="https://model_signing/Digests/v0.1"),
    "other statement": lambda d: d.update(_type="https://in-toto.io/Statement/v2"),
    "unknown field": lambda d: d["predicate"].update(extra=True),
    "digest in capitals": lambda d: d["predicate"]["resources"][0].update(digest="A" * 64),
    "digest with a newline": lambda d: d["predicate"]["resources"][0].update(digest="0" * 64 + "\n"),
    "NaN": lambda d: d["subject"][0].update(name=float("nan")),
}


@pytest.mark.parametrize("attempt", STATEMENTS)
def test_even_the_true_key_cannot_vouch_for_a_loose_statement(
    attempt: str, members: Members, keys: tuple[Path, Path]
) -> None:
    document = statement(members)
    STATEMENTS[attempt](document)
    signature = signed_statement(json.dumps(document).encode(), keys[0])

    with pytest.raises(NotVouchedError):
        verify_members(members, signature, keys[1].read_bytes(), "tiny.foveola")


def test_base64_with_another_text_for_the_same_bytes_is_refused(members: Members, keys: tuple[Path, Path]) -> None:
    digests, public = member_digests(members), keys[1].read_bytes()
    payload = next(p for p in (encode_statement(digests, "x" * n) for n in range(3)) if len(p) % 3 == 1)
    honest = signed_statement(payload, keys[0])
    text: str = json.loads(honest)["dsseEnvelope"]["payload"]
    free_bits = chr(ord(text[-3]) + 1) + "=="  # the last letter before == has four bits that mean nothing
    changed = edited(honest, "dsseEnvelope", "payload", value=text[:-3] + free_bits)
    assert base64.b64decode(text[:-3] + free_bits) == payload

    verify_members(members, honest, public, "tiny.foveola")
    with pytest.raises(NotVouchedError, match="not valid base64"):
        verify_members(members, changed, public, "tiny.foveola")


def test_deep_json_signed_by_the_true_key_is_refused(members: Members, keys: tuple[Path, Path]) -> None:
    signature = signed_statement(b'{"_type":' + b"[" * 40_000, keys[0])

    with pytest.raises(NotVouchedError, match="not a signature that is understood"):
        verify_members(members, signature, keys[1].read_bytes(), "tiny.foveola")


def test_a_signature_made_for_another_payload_type_is_refused(members: Members, keys: tuple[Path, Path]) -> None:
    """What the key signed as something else (a mail, a bare file) is never taken for a bundle's signature."""
    payload = json.dumps(statement(members)).encode()
    for other in (payload, b"DSSEv1 10 text/plain %d %s" % (len(payload), payload)):
        signature = signed_statement(payload, keys[0], other)

        with pytest.raises(NotVouchedError, match="does not hold"):
            verify_members(members, signature, keys[1].read_bytes(), "tiny.foveola")


def with_manifest(members: Members, data: bytes, private: Path) -> bytes:
    """A bundle whose manifest the true key signed, whatever it holds."""
    changed = {**members, "manifest.json": data}
    payload = encode_statement(member_digests(changed), "tiny")
    return bundle_bytes({**changed, SIGNATURE: signed_statement(payload, private)})


MANIFESTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "from the future": (lambda m: m.replace(b'"format": 1', b'"format": 2'), "newer than this runtime"),
    "from the past": (lambda m: m.replace(b'"format": 1', b'"format": 0'), "unknown"),
    "without format": (lambda m: m.replace(b'"format": 1,', b""), "not a valid manifest"),
    "unknown field": (lambda m: m.replace(b'"format": 1', b'"format": 1, "run": "rm"'), "not a valid manifest"),
    "line break": (lambda m: m.replace(b'"format": 1', b'"format": 1, "a\\nb\\u001b[2J": 1'), "not a valid manifest"),
    "NaN": (lambda m: m.replace(b'"low": 0.5', b'"low": NaN'), "not a valid manifest"),
    "infinity": (lambda m: m.replace(b'"low": 0.5', b'"low": Infinity'), "not a valid manifest"),
    "beyond a float": (lambda m: m.replace(b'"low": 0.5', b'"low": 1e999'), "not a valid manifest"),
    "deep JSON": (lambda m: m.replace(b'"format": 1', b'"format": 1, "x": ' + b"[" * 200_000), "not a valid manifest"),
    "deep JSON only": (lambda m: b"[" * 1_000_000, "not a valid manifest"),
    "not UTF-8": (lambda m: m.replace(b'"tiny"', b'"t\xff\xfey"'), "not a valid manifest"),
    "empty": (lambda m: b"", "not a valid manifest"),
    "unknown engine": (lambda m: m.replace(b'"onnxruntime"', b'"pickle"'), "not a valid manifest"),
    "graph outside the bundle": (lambda m: m.replace(b'"model.onnx"', b'"../../model.onnx"'), "not in the bundle"),
    "negative size": (lambda m: m.replace(b'"height": 8', b'"height": -8'), "not a valid manifest"),
}


@pytest.mark.parametrize("attempt", MANIFESTS)
def test_a_signed_but_broken_manifest_is_refused(
    attempt: str, members: Members, keys: tuple[Path, Path], bundle_file: PutFile
) -> None:
    change, words = MANIFESTS[attempt]
    changed = change(members["manifest.json"])
    assert changed != members["manifest.json"]
    path = bundle_file(with_manifest(members, changed, keys[0]))

    with pytest.raises(FoveolaError, match=words) as caught:
        open_bundle(path, key=keys[1])
    assert str(caught.value).isprintable()
