"""Attempts on a device's slots: nobody but the pinned key's holder puts anything in, and nothing that is older."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from foveola.export.signing import make_keys, sign_members
from foveola.runtime.bundle import bundle_bytes
from foveola.runtime.errors import ExitCode, FoveolaError, NotVouchedError
from foveola.runtime.manifest import Manifest, encode_manifest
from foveola.runtime.signature import SIGNATURE
from foveola.runtime.slots.active import active_bundle, start_trial
from foveola.runtime.slots.install import activate, install, rollback
from foveola.runtime.slots.state import STATE, Slot, State, bundle_path, encode_state, read_state, write_state

Members = dict[str, bytes]
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOVEOLA_KEY", raising=False)


@pytest.fixture
def make(tmp_path: Path, members: Members, manifest: Manifest, keys: tuple[Path, Path]) -> Make:
    """A bundle as the maker signs it; another version, name or signer on demand."""

    def bundle(version: str, name: str = "tiny", private: Path = keys[0], graph: bytes = b"graph") -> Path:
        whole = {**members, "model.onnx": graph}
        whole["manifest.json"] = encode_manifest(msgspec.structs.replace(manifest, version=version, name=name))
        del whole[SIGNATURE]
        path = tmp_path / f"{name}-{version[:9]}-{len(list(tmp_path.iterdir()))}.foveola"
        path.write_bytes(bundle_bytes({**whole, SIGNATURE: sign_members(whole, private.read_bytes())}))
        return path

    return bundle


@pytest.fixture
def root(tmp_path: Path, make: Make) -> Path:
    """Version 2 of the product `tiny` lives in slot a; version 1.9 lived in slot b."""
    folder = tmp_path / "device"
    digest = hashlib.sha256(b"whatever").hexdigest()
    a = Slot(version="2", digest=digest, engine="onnxruntime", life="good")
    b = Slot(version="1.9", digest=digest, engine="onnxruntime", life="good")
    for name, version in (("a", "2"), ("b", "1.9")):
        (folder / name).mkdir(parents=True)
        (folder / name / "bundle.foveola").write_bytes(make(version).read_bytes())
    write_state(folder, State(name="tiny", active="a", floor="2", a=a, b=b))
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "lock"}


def refuse(call: Callable[[], object], words: str, code: ExitCode, root: Path) -> None:
    before = contents(root)
    with pytest.raises(FoveolaError, match=words) as caught:
        call()
    assert caught.value.exit_code == code
    assert str(caught.value).isprintable()
    assert contents(root) == before


@pytest.mark.parametrize("version", ["1", "1.9.9", "2", "2.0", "v2", "2rc1", "2.0.0.0"])
def test_an_older_or_equal_version_is_refused(version: str, make: Make, root: Path, keys: tuple[Path, Path]) -> None:
    old = make(version, graph=b"another")

    refuse(lambda: install(old, root, key=keys[1]), "is not newer than 2, which has lived here", ExitCode.REFUSED, root)


@pytest.mark.parametrize("version", ["", "newest", "-3", "0", "0.0", "9" * 5000, "\u0663", "e9"])
def test_a_version_without_a_number_is_refused(version: str, make: Make, root: Path, keys: tuple[Path, Path]) -> None:
    refuse(lambda: install(make(version), root, key=keys[1]), "is no number", ExitCode.REFUSED, root)


def test_a_bundle_that_was_left_is_not_replayed_from_elsewhere(make: Make, root: Path, keys: tuple[Path, Path]) -> None:
    """An old release of the maker, true in every bit, kept by somebody for the day on which its fault is known."""
    old = make("1.9", graph=b"with a fault")

    refuse(lambda: install(old, root, key=keys[1]), "1.9 is not newer than 2", ExitCode.REFUSED, root)


def test_the_floor_stays_where_it_was_after_a_return(make: Make, root: Path, keys: tuple[Path, Path]) -> None:
    state = read_state(root)
    write_state(root, msgspec.structs.replace(state, active="b"))

    refuse(lambda: install(make("1.95"), root, key=keys[1]), "1.95 is not newer than 2", ExitCode.REFUSED, root)


def test_another_product_of_the_same_maker_is_refused(make: Make, root: Path, keys: tuple[Path, Path]) -> None:
    other = make("3", name="fundus")

    refuse(lambda: install(other, root, key=keys[1]), "holds tiny, not fundus", ExitCode.REFUSED, root)


def test_a_bundle_without_a_name_is_nobodys_product(make: Make, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()

    refuse(lambda: install(make("3", name=""), empty, key=keys[1]), "has no name", ExitCode.REFUSED, empty)


@pytest.mark.parametrize("name", ["../a", "/etc", "a/../../x", "tiny\n", "TINY", "tiny "])
def test_a_name_that_only_resembles_or_leads_elsewhere_is_refused(
    name: str, make: Make, root: Path, tmp_path: Path, members: Members, manifest: Manifest, keys: tuple[Path, Path]
) -> None:
    whole = {key: data for key, data in members.items() if key != SIGNATURE}
    whole["manifest.json"] = encode_manifest(msgspec.structs.replace(manifest, version="3", name=name))
    path = tmp_path / "odd.foveola"
    path.write_bytes(bundle_bytes({**whole, SIGNATURE: sign_members(whole, keys[0].read_bytes())}))

    refuse(lambda: install(path, root, key=keys[1]), "holds tiny, not", ExitCode.REFUSED, root)


def test_another_key_is_refused(make: Make, root: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, public = make_keys(tmp_path / "other")

    refuse(lambda: install(make("3", private=private), root, key=keys[1]), "another key", ExitCode.NOT_VOUCHED, root)
    refuse(lambda: install(make("3"), root, key=public), "another key", ExitCode.NOT_VOUCHED, root)


def test_a_key_delivered_beside_the_bundle_vouches_for_nothing(make: Make, root: Path, tmp_path: Path) -> None:
    private, public = make_keys(tmp_path / "other")
    path = make("3", private=private)
    path.with_suffix(".pub").write_bytes(public.read_bytes())

    refuse(lambda: install(path, root), "one beside the bundle is not taken", ExitCode.NOT_VOUCHED, root)
    refuse(lambda: activate(root), "one beside the bundle is not taken", ExitCode.NOT_VOUCHED, root)
    refuse(lambda: rollback(root), "one beside the bundle is not taken", ExitCode.NOT_VOUCHED, root)


def test_the_signature_of_a_newer_bundle_on_an_older_one_is_refused(
    make: Make, root: Path, tmp_path: Path, members: Members, manifest: Manifest, keys: tuple[Path, Path]
) -> None:
    newer = {**members, "manifest.json": encode_manifest(msgspec.structs.replace(manifest, version="3"))}
    del newer[SIGNATURE]
    swapped = {**members, SIGNATURE: sign_members(newer, keys[0].read_bytes())}
    path = tmp_path / "swapped.foveola"
    path.write_bytes(bundle_bytes(swapped))

    refuse(lambda: install(path, root, key=keys[1]), r"manifest\.json was changed", ExitCode.NOT_VOUCHED, root)


def test_a_version_written_into_a_signed_manifest_is_refused(
    root: Path, tmp_path: Path, members: Members, keys: tuple[Path, Path]
) -> None:
    members["manifest.json"] = members["manifest.json"].replace(b'"version": "1"', b'"version": "9"')
    path = tmp_path / "raised.foveola"
    path.write_bytes(bundle_bytes(members))

    refuse(lambda: install(path, root, key=keys[1]), r"manifest\.json was changed", ExitCode.NOT_VOUCHED, root)


@pytest.mark.parametrize("call", [activate, rollback])
def test_a_file_put_into_the_other_slot_is_not_switched_to(
    call: Callable[..., object], make: Make, root: Path, keys: tuple[Path, Path]
) -> None:
    """A true bundle of the maker, but not the one on record."""
    state = read_state(root)
    assert state.b is not None
    write_state(root, state.with_slot("b", msgspec.structs.replace(state.b, life="ready", version="3")))
    if call is rollback:
        write_state(root, state)
    bundle_path(root, "b").write_bytes(make("1").read_bytes())

    refuse(lambda: call(root, key=keys[1]), "is not the bundle that was installed", ExitCode.NOT_VOUCHED, root)


def test_a_record_that_claims_a_lower_version_does_not_get_past_the_floor(
    make: Make, root: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = read_state(root)
    assert state.b is not None
    write_state(root, state.with_slot("b", msgspec.structs.replace(state.b, life="ready")))
    monkeypatch.setattr("foveola.runtime.slots.install._require_slot", lambda *_: None)

    refuse(lambda: activate(root, key=keys[1]), "1.9 is not newer than 2", ExitCode.REFUSED, root)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 50_000,
        b'{"sha256": "' + b"0" * 64 + b'", "state": {}}',
        encode_state(State(name="tiny")).replace(b'"tiny"', b'"TINY"'),
        json.dumps({"sha256": "0" * 64, "state": {"active": "../../etc"}}).encode(),
        json.dumps({"sha256": "0" * 64, "state": {"format": 10**30}}).encode(),
        encode_state(State()).replace(b"null", b"NaN"),
        b" " * 70_000,
    ],
)
def test_a_state_that_is_not_one_is_refused_everywhere(
    content: bytes, make: Make, root: Path, keys: tuple[Path, Path]
) -> None:
    (root / STATE).write_bytes(content)
    calls: list[Callable[[], object]] = [
        lambda: active_bundle(root),
        lambda: start_trial(root),
        lambda: install(make("3"), root, key=keys[1]),
        lambda: activate(root, key=keys[1]),
        lambda: rollback(root, key=keys[1]),
    ]

    for call in calls:
        refuse(call, r"state\.json: ", ExitCode.REFUSED, root)


def test_a_link_where_the_bundle_is_staged_is_not_followed(
    make: Make, root: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (root / "b" / "bundle.foveola.staged").symlink_to(victim)

    with pytest.raises(FoveolaError):  # this bundle's graph is none
        install(make("3"), root, key=keys[1])

    assert victim.read_bytes() == b"precious"
    assert not (root / "b" / "bundle.foveola.staged").exists()


def test_a_bundle_without_a_signature_is_refused(
    root: Path, tmp_path: Path, members: Members, keys: tuple[Path, Path]
) -> None:
    del members[SIGNATURE]
    path = tmp_path / "bare.foveola"
    path.write_bytes(bundle_bytes(members))

    with pytest.raises(NotVouchedError, match="is not signed"):
        install(path, root, key=keys[1])
