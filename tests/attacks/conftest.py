"""One tiny valid bundle for every attack to break one part of."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from foveola.export.signing import make_keys, sign_members
from foveola.runtime.bundle import bundle_bytes
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
from foveola.runtime.signature import SIGNATURE
from foveola.runtime.task import Task

Archive = Callable[[list[tuple[zipfile.ZipInfo, bytes]]], bytes]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp("keys") / "maker")


@pytest.fixture(scope="session")
def public(keys: tuple[Path, Path]) -> bytes:
    return keys[1].read_bytes()


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    finding = TaskOutput(task=Task(name="nodule", kind="binary", classes=("no", "yes")), tensors=("nodule",))
    return Manifest(
        format=FORMAT,
        name="tiny",
        version="1",
        device="generic-x86",
        input=InputSpec(height=8, width=8, channels=1),
        outputs=(finding,),
        engines=(OnnxRuntimeOptions(),),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        provenance=Provenance(
            recipe="tiny", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
        ),
    )


@pytest.fixture(scope="session")
def signed(keys: tuple[Path, Path], manifest: Manifest) -> dict[str, bytes]:
    members = {"manifest.json": encode_manifest(manifest), "model.onnx": b"graph" * 9, "golden.npz": b"golden" * 9}
    return {**members, SIGNATURE: sign_members(members, keys[0].read_bytes())}


@pytest.fixture
def members(signed: dict[str, bytes]) -> dict[str, bytes]:
    return dict(signed)


@pytest.fixture(scope="session")
def file(signed: dict[str, bytes]) -> bytes:
    return bundle_bytes(signed)


@pytest.fixture
def bundle_file(tmp_path: Path) -> Callable[[bytes], Path]:
    def put(content: bytes) -> Path:
        path = tmp_path / "tiny.foveola"
        path.write_bytes(content)
        return path

    return put


@pytest.fixture
def archive() -> Archive:
    """The attacker's tool: Python's own zipfile, which checks nothing."""

    def make(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
        stream = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as writer:
            warnings.simplefilter("ignore")  # it warns of duplicates and writes them
            for info, data in entries:
                writer.writestr(info, data)
        return stream.getvalue()

    return make
