"""Signed releases of the tiny bundle, and a device's folder in which the first of them lives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from foveola.export.signing import sign_members
from foveola.runtime.bundle import write_bundle
from foveola.runtime.manifest import Manifest, encode_manifest
from foveola.runtime.slots.active import mark_good, start_trial
from foveola.runtime.slots.install import activate, install

Release = Callable[..., Path]


@pytest.fixture(scope="session")
def key(tiny_keys: tuple[Path, Path]) -> Path:
    return tiny_keys[1]


@pytest.fixture(scope="session")
def release(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_members: dict[str, bytes],
    tiny_manifest: Manifest,
    tiny_keys: tuple[Path, Path],
) -> Release:
    """A release of the tiny bundle; other members and another signer on demand."""
    folder = tmp_path_factory.mktemp("releases")
    made: dict[str, Path] = {}

    def make(
        version: str, *, name: str = "tiny", private: Path | None = None, members: dict[str, bytes] | None = None
    ) -> Path:
        usual = name == "tiny" and private is None and members is None
        if usual and version in made:
            return made[version]
        manifest = encode_manifest(msgspec.structs.replace(tiny_manifest, version=version, name=name))
        whole = {**tiny_members, "manifest.json": manifest, **(members or {})}
        signature = sign_members(whole, (private or tiny_keys[0]).read_bytes())
        path = folder / f"{name}-{len(list(folder.iterdir()))}.foveola"
        write_bundle(path, {**whole, "model.sig": signature})
        if usual:
            made[version] = path
        return path

    return make


@pytest.fixture(autouse=True)
def no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOVEOLA_KEY", raising=False)
    monkeypatch.delenv("FOVEOLA_ROOT", raising=False)


@pytest.fixture
def root(tmp_path: Path, release: Release, key: Path) -> Path:
    """Version 1 lives in slot a; slot b is empty."""
    folder = tmp_path / "device"
    install(release("1"), folder, key=key)
    activate(folder, key=key)
    start_trial(folder)
    mark_good(folder)
    return folder
