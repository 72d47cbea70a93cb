"""Keys and signatures on the host; the oracle is OpenSSF's own `model_signing` on an unpacked bundle."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from foveola.export.signing import make_keys, sign_bundle, sign_members
from foveola.runtime.bundle import open_bundle, read_unverified, write_bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    Provenance,
    TaskOutput,
    encode_manifest,
)
from foveola.runtime.signature import verify_members
from foveola.runtime.task import Task

MANIFEST = Manifest(
    format=FORMAT,
    name="tiny",
    version="1",
    device="generic-x86",
    input=InputSpec(height=8, width=8, channels=1),
    outputs=(TaskOutput(task=Task(name="t", kind="binary", classes=("no", "yes")), tensors=("t",)),),
    engines=(OnnxRuntimeOptions(),),
    calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
    provenance=Provenance(
        recipe="r", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
    ),
)
MEMBERS = {"manifest.json": encode_manifest(MANIFEST), "model.onnx": b"graph" * 99, "sbom.cdx.json": b"{}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp("keys") / "maker")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "tiny.foveola", MEMBERS)
    return tmp_path / "tiny.foveola"


def model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_model_signing_accepts_an_unpacked_bundle_and_refuses_a_flipped_bit(
    path: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    sign_bundle(path, keys[0])
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    verify = ("verify", "key", folder, "--signature", folder / "model.sig", "--public_key", keys[1])

    accepted = model_signing(*verify)
    (folder / "model.onnx").write_bytes(b"Graph" + b"graph" * 98)
    refused = model_signing(*verify)

    assert accepted.returncode == 0, accepted.stderr
    assert "Verification succeeded" in accepted.stdout
    assert refused.returncode != 0
    assert "Hash mismatch for 'model.onnx'" in refused.stdout + refused.stderr


def test_a_signature_by_model_signing_is_accepted_here(path: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    signed = model_signing("sign", "key", folder, "--signature", folder / "model.sig", "--private_key", keys[0])
    assert signed.returncode == 0, signed.stderr
    signature = (folder / "model.sig").read_bytes()

    verify_members(MEMBERS, signature, keys[1].read_bytes(), "tiny")
    write_bundle(path, {**MEMBERS, "model.sig": signature})
    assert open_bundle(path, key=keys[1]).manifest == MANIFEST


def test_equal_members_and_key_give_an_equal_signature(keys: tuple[Path, Path]) -> None:
    private = keys[0].read_bytes()

    assert sign_members(MEMBERS, private) == sign_members(dict(reversed(MEMBERS.items())), private)
    assert sign_members(MEMBERS, private) != sign_members({**MEMBERS, "report.html": b""}, private)


def test_signing_again_replaces_the_signature_and_keeps_the_digest(
    path: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    other_private, other_public = make_keys(tmp_path / "other")
    first = sign_bundle(path, keys[0])
    second = sign_bundle(path, other_private)

    assert open_bundle(path, key=other_public) == second
    assert second.digest == first.digest == read_unverified(path).digest
    assert second.members["model.sig"] != first.members["model.sig"]


def test_signing_into_another_file_leaves_the_first_alone(path: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    before = path.read_bytes()

    bundle = sign_bundle(path, keys[0], tmp_path / "signed.foveola")

    assert path.read_bytes() == before
    assert open_bundle(tmp_path / "signed.foveola", key=keys[1]) == bundle


def test_what_no_device_can_read_is_not_signed(keys: tuple[Path, Path]) -> None:
    with pytest.raises(FoveolaError, match="not a valid manifest"):
        sign_members({**MEMBERS, "manifest.json": b"{}"}, keys[0].read_bytes())


def test_the_private_key_is_its_owners_alone(keys: tuple[Path, Path]) -> None:
    private, public = keys

    assert (private.name, public.name) == ("maker.pem", "maker.pub")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert b"PRIVATE" not in public.read_bytes()
    loaded = serialization.load_pem_private_key(private.read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    assert loaded.curve.name == "secp256r1"


@pytest.mark.parametrize("ending", [".pem", ".pub"])
def test_keys_are_never_overwritten(ending: str, tmp_path: Path) -> None:
    there = tmp_path / f"maker{ending}"
    there.write_text("mine")

    with pytest.raises(FoveolaError, match="is there already"):
        make_keys(tmp_path / "maker")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["mine"]


def test_a_key_with_a_password_signs_only_with_it(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path / "locked", password=b"open sesame")
    pem = private.read_bytes()

    verify_members(MEMBERS, sign_members(MEMBERS, pem, password=b"open sesame"), public.read_bytes(), "tiny")
    with pytest.raises(FoveolaError, match="the key is encrypted"):
        sign_members(MEMBERS, pem)
    with pytest.raises(FoveolaError, match="the password is wrong"):
        sign_members(MEMBERS, pem, password=b"guess")


def private_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("kind", "words"),
    [("RSA", "wrong kind"), ("P-384", "wrong kind"), ("public", "not a private key"), ("junk", "cannot be read")],
)
def test_a_key_that_cannot_sign_is_refused_and_the_bundle_left(
    kind: str, words: str, path: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    wrong: dict[str, Callable[[], bytes]] = {
        "RSA": lambda: private_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        "P-384": lambda: private_pem(ec.generate_private_key(ec.SECP384R1())),
        "public": keys[1].read_bytes,
        "junk": lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    }
    key, before = tmp_path / "wrong.pem", path.read_bytes()
    key.write_bytes(wrong[kind]())

    with pytest.raises(FoveolaError, match=words):
        sign_bundle(path, key)
    assert path.read_bytes() == before


def test_a_key_that_is_not_there_is_told(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match=r"lost\.pem: the key cannot be read: No such file"):
        sign_bundle(path, tmp_path / "lost.pem")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")

    with pytest.raises(FoveolaError, match="cannot be written"):
        make_keys(tmp_path / "taken" / "maker")


@pytest.mark.parametrize("full_at", [1, 2])
def test_half_a_key_or_half_a_pair_is_not_left(full_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FoveolaError, match="No space left on device"):
        make_keys(tmp_path / "maker")
    assert list(tmp_path.iterdir()) == []
