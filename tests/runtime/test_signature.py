"""The signature's layers; the oracles are model_signing (tests/export/test_signing.py) and the DSSE protocol's text."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from foveola.runtime import signature as signature_module
from foveola.runtime.errors import NotVouchedError
from foveola.runtime.signature import (
    encode_signature,
    encode_statement,
    key_hint,
    load_public_key,
    member_digests,
    pre_authentication_encoding,
    verify_digests,
    verify_members,
)

MEMBERS = {"b.bin": b"two", "a.json": b"one"}


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(12345, ec.SECP256R1())


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def sign(members: dict[str, bytes], key: ec.EllipticCurvePrivateKey) -> bytes:
    payload = encode_statement(member_digests(members), "tiny")
    raw = key.sign(pre_authentication_encoding(payload), ec.ECDSA(hashes.SHA256()))
    return encode_signature(payload, raw, key_hint(key.public_key()))


def test_what_is_signed_is_vouched_for(key: ec.EllipticCurvePrivateKey) -> None:
    signature = sign(MEMBERS, key)

    verify_members(MEMBERS, signature, pem(key), "tiny")
    verify_members({**MEMBERS, "model.sig": signature}, signature, pem(key), "tiny")
    verify_digests(member_digests(MEMBERS), signature, pem(key), "tiny")


def forms(public: ec.EllipticCurvePublicKey) -> dict[str, bytes]:
    """One public key in many forms, and what is none."""
    usual = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    numbers = public.public_numbers()
    point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    before = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")

    def armoured(der: bytes, width: int = 64) -> bytes:
        text = base64.b64encode(der).decode()
        lines = [text[at : at + width] for at in range(0, len(text), width)]
        return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""]).encode()

    off = (numbers.y + 1).to_bytes(32, "big")
    whole = before + b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    return {
        "usual": usual,
        "blank lines around": b"\n\n" + usual + b"\n",
        "Windows' line ends": usual.replace(b"\n", b"\r\n"),
        "words before it": b"the maker's key\n" + usual,
        "in one line": armoured(whole, 200),
        "in lines of 20": armoured(whole, 20),
        "compressed": armoured(bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point),
        "not on the curve": armoured(before + b"\4" + numbers.x.to_bytes(32, "big") + off),
        "hybrid point": armoured(before + b"\6" + whole[27:]),
        "one byte more": armoured(whole + b"\0"),
        "not base64": usual.replace(b"\nMF", b"\n*F"),
        "nothing": b"",
    }


def test_a_key_in_any_form_is_read_or_refused_as_cryptography_reads_or_refuses_it(
    key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(pem: bytes) -> object:
        try:
            return load_public_key(pem, "k.pub").public_numbers()
        except NotVouchedError as error:
            return str(error)

    ours = {name: told(pem) for name, pem in forms(key.public_key()).items()}
    monkeypatch.setattr(signature_module, "_usual_key", lambda pem: None)
    theirs = {name: told(pem) for name, pem in forms(key.public_key()).items()}

    assert ours == theirs
    assert ours["usual"] == ours["Windows' line ends"] == key.public_key().public_numbers()
    assert "not a public key in PEM" in str(ours["not on the curve"])


@pytest.mark.parametrize("number", [1, 12345, 2**255 - 19])
def test_the_hint_is_the_digest_of_the_key_as_cryptography_writes_it(number: int) -> None:
    one = ec.derive_private_key(number, ec.SECP256R1())

    assert key_hint(one.public_key()) == hashlib.sha256(pem(one)).hexdigest()


def test_all_departures_are_told_at_once(key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(
        NotVouchedError, match=r"c is not signed, 'b\.bin' is signed but not there, a\.json was changed"
    ):
        verify_members({"a.json": b"1", "c": b""}, sign(MEMBERS, key), pem(key), "tiny")


def test_the_encoding_is_that_of_the_protocol() -> None:
    # DSSE protocol v1.0: "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body
    assert pre_authentication_encoding(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"


def test_the_statement_lists_members_in_order_and_equal_members_give_equal_bytes() -> None:
    digests = member_digests(MEMBERS)

    payload = encode_statement(digests, "tiny")

    assert payload == encode_statement(dict(reversed(digests.items())), "tiny")
    resources = json.loads(payload)["predicate"]["resources"]
    assert [resource["name"] for resource in resources] == ["a.json", "b.bin"]
    # printf one | sha256sum
    assert resources[0]["digest"] == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"


def test_the_signature_file_holds_payload_and_hint_as_sigstore_bundles_do(key: ec.EllipticCurvePrivateKey) -> None:
    document = json.loads(sign(MEMBERS, key))

    assert document["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert document["verificationMaterial"]["publicKey"]["hint"] == key_hint(key.public_key())
    assert document["verificationMaterial"]["tlogEntries"] == []
    payload = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payload["predicate"]["serialization"]["ignore_paths"] == ["model.sig"]


def test_a_device_needs_no_package_of_the_signing_host() -> None:
    code = (
        "import sys, foveola.runtime.bundle\n"
        "heavy = {'model_signing', 'sigstore', 'in_toto_attestation', 'google.protobuf', 'onnx', 'OpenSSL'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
