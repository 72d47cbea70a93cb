from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from foveola.runtime.bundle import open_bundle, read_unverified
from foveola.runtime.errors import FoveolaError, NotVouchedError, UsageError
from foveola.runtime.slots import install as install_module
from foveola.runtime.slots.active import active_bundle, active_engine, mark_good, start_trial
from foveola.runtime.slots.install import activate, install, rollback
from foveola.runtime.slots.lock import locked
from foveola.runtime.slots.state import State, bundle_path, read_state, record_path
from foveola.runtime.tested import read_record

Release = Callable[..., Path]


def version(root: Path, key: Path) -> str:
    return open_bundle(active_bundle(root), key=key).manifest.version


def files(root: Path) -> dict[str, str]:
    """Every file but the lock, by digest."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def test_a_bundle_is_installed_activated_marked_good_and_left_again(root: Path, release: Release, key: Path) -> None:
    told: list[str] = []
    path = release("1.1")

    done = install(path, root, key=key, say=told.append)

    assert (done.slot, done.record.life, done.record.engine) == ("b", "ready", "onnxruntime")
    assert done.test is not None
    assert done.test.ok
    assert told == ["self-test in the new slot"]
    assert version(root, key) == "1"
    assert bundle_path(root, "b").read_bytes() == path.read_bytes()

    activate(root, key=key)

    assert version(root, key) == "1.1"
    assert read_state(root).on_trial

    start_trial(root)
    mark_good(root)

    assert read_state(root).floor == "1.1"

    rollback(root, key=key)

    assert version(root, key) == "1"
    assert read_state(root).floor == "1.1"

    activate(root, key=key)

    assert version(root, key) == "1.1"
    assert not read_state(root).on_trial


def test_the_slot_keeps_the_record_of_its_self_test(root: Path, release: Release, key: Path) -> None:
    install(release("2"), root, key=key)

    record = read_record(record_path(root, "b"))

    assert record is not None
    assert record.fingerprint.bundle == read_unverified(bundle_path(root, "b")).digest


def test_a_bundle_that_fails_its_self_test_leaves_both_slots_as_they_were(
    root: Path, release: Release, key: Path, tiny_graph: Callable[..., bytes]
) -> None:
    install(release("1.1"), root, key=key)
    before = files(root)
    bad = release("2", members={"model.onnx": tiny_graph(findings=([10.0, -10.0], [3.0, 2.0]))})

    with pytest.raises(FoveolaError, match=r"self-test of tiny 2 on onnxruntime: findings drifted by .* flipped"):
        install(bad, root, key=key)

    assert files(root) == before


def test_an_engine_that_does_not_exist_changes_nothing(root: Path, release: Release, key: Path) -> None:
    before = files(root)

    with pytest.raises(UsageError, match="there is no such engine"):
        install(release("2"), root, key=key, engine="coral")

    assert files(root) == before


def test_a_slot_is_tested_and_kept_on_the_engine_that_was_asked_for(root: Path, release: Release, key: Path) -> None:
    assert active_engine(root) == "onnxruntime"

    assert install(release("2"), root, key=key, engine="openvino").record.engine == "openvino"
    activate(root, key=key)

    assert active_engine(root) == "openvino"


def test_the_active_bundle_installed_again_is_done_and_changes_nothing(root: Path, key: Path) -> None:
    before = files(root)

    done = install(bundle_path(root, "a"), root, key=key)

    assert (done.slot, done.test) == ("a", None)
    assert files(root) == before


def test_nothing_is_installed_over_the_way_back_of_a_trial(root: Path, release: Release, key: Path) -> None:
    install(release("2"), root, key=key)
    activate(root, key=key)

    with pytest.raises(FoveolaError, match="on trial, and the other slot is the way back"):
        install(release("3"), root, key=key)

    mark_good(root)
    assert install(release("3"), root, key=key).slot == "a"


def test_a_first_bundle_that_never_lived_can_be_exchanged(tmp_path: Path, release: Release, key: Path) -> None:
    root = tmp_path / "device"
    install(release("1"), root, key=key)
    activate(root, key=key)
    start_trial(root)

    install(release("2"), root, key=key)
    activate(root, key=key)

    assert version(root, key) == "2"
    a = read_state(root).a
    assert a is not None
    assert (a.life, a.reason) == ("failed", "left for 2")
    with pytest.raises(FoveolaError, match="the other slot b|the other slot a holds nothing that has lived"):
        rollback(root, key=key)


def test_what_was_rolled_back_may_be_tested_and_activated_again(root: Path, release: Release, key: Path) -> None:
    two = release("2")
    install(two, root, key=key)
    activate(root, key=key)
    rollback(root, key=key)

    with pytest.raises(FoveolaError, match="2 has failed \\(rolled back by hand\\)"):
        activate(root, key=key)

    install(two, root, key=key)
    activate(root, key=key)
    assert version(root, key) == "2"


def test_there_is_nothing_to_activate_or_to_return_to(root: Path, tmp_path: Path, release: Release, key: Path) -> None:
    with pytest.raises(FoveolaError, match="nothing is installed in the other slot"):
        activate(root, key=key)
    with pytest.raises(FoveolaError, match="the other slot b holds nothing that has lived here"):
        rollback(root, key=key)
    with pytest.raises(FoveolaError, match="is no folder; run `foveola install"):
        activate(tmp_path / "nowhere", key=key)

    install(release("2"), root, key=key)
    activate(root, key=key)
    mark_good(root)
    with pytest.raises(FoveolaError, match="the other slot holds 1, which is not newer"):
        activate(root, key=key)
    rollback(root, key=key)
    with pytest.raises(FoveolaError, match="slot b holds 2, which is newer; run `foveola activate`"):
        rollback(root, key=key)


def test_a_slot_that_was_changed_after_its_install_is_not_switched_to(root: Path, release: Release, key: Path) -> None:
    install(release("2"), root, key=key)
    shutil.copy(release("1.5"), bundle_path(root, "b"))

    with pytest.raises(NotVouchedError, match="is not the bundle that was installed"):
        activate(root, key=key)

    bundle_path(root, "b").unlink()
    with pytest.raises(FoveolaError, match="is not there"):
        activate(root, key=key)
    assert version(root, key) == "1"


def test_a_switch_asks_for_a_new_self_test_where_the_machine_has_changed(
    root: Path, release: Release, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(release("2"), root, key=key)
    monkeypatch.setattr("foveola.runtime.fingerprint.pillow_version", "99.0")
    told: list[str] = []

    activate(root, key=key, say=told.append)

    assert len(told) == 1
    assert told[0].startswith("self-test, since Pillow: ")


def test_a_disk_without_room_is_told_before_anything_is_written(
    root: Path, release: Release, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(root)
    usage = shutil.disk_usage(root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    with pytest.raises(FoveolaError, match=r"has room for 1000 bytes, \d+ are wanted; make room"):
        install(release("2"), root, key=key)

    assert files(root) == before


def test_a_disk_that_fills_up_at_any_write_leaves_the_active_bundle(
    root: Path, release: Release, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, write = release("2"), os.write
    refused = 0
    for full_at in range(1, 20):
        device = shutil.copytree(root, tmp_path / f"full{full_at}")
        calls = 0

        def limited(handle: int, data: bytes, full_at: int = full_at) -> int:
            nonlocal calls
            calls += 1
            if calls == full_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(handle, data)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", limited)
            fault = ""
            try:
                install(two, device, key=key)
            except FoveolaError as error:
                fault = str(error)
        if not fault:
            break

        refused += 1
        assert "cannot be written: No space left on device; make room for" in fault
        assert version(device, key) == "1"
        assert not [name for name in files(device) if name.endswith((".partial", ".staged"))], full_at
        install(two, device, key=key)

    assert refused == 4  # the bundle, the emptied state, the record of the test, the state


class PowerCut(BaseException):
    """From the n-th call on nothing changes the disk any more, not even the cleaning up, and nobody catches it."""


def cut_power(patch: pytest.MonkeyPatch, at: int) -> None:
    count = 0

    def hook(call: Callable[..., object]) -> Callable[..., object]:
        def hooked(*args: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count >= at:
                raise PowerCut
            return call(*args, **named)

        return hooked

    for name in ("open", "write", "fsync", "replace", "unlink", "mkdir"):
        patch.setattr(os, name, hook(getattr(os, name)))


def test_a_first_install_that_was_cut_anywhere_is_done_again(tmp_path: Path, release: Release, key: Path) -> None:
    first, cuts = release("1"), 0
    for at in range(1, 100):
        root = tmp_path / str(at) / "device"
        with pytest.MonkeyPatch.context() as patch:
            cut_power(patch, at)
            try:
                install(first, root, key=key)
            except PowerCut:
                cuts += 1
            else:
                break

        install(first, root, key=key)
        activate(root, key=key)
        assert version(root, key) == "1"

    assert cuts > 20


def test_two_changes_at_once_are_refused(root: Path, release: Release, key: Path) -> None:
    with locked(root), pytest.raises(FoveolaError, match="another process is changing its slots"):
        install(release("2"), root, key=key)

    assert install(release("2"), root, key=key).slot == "b"


def test_an_empty_folder_says_what_to_do(tmp_path: Path, release: Release, key: Path) -> None:
    assert read_state(tmp_path / "nowhere") == State()
    with pytest.raises(FoveolaError, match="no slot is active; run `foveola install BUNDLE`, then `activate`"):
        active_bundle(tmp_path)
    install(release("1"), tmp_path, key=key)
    with pytest.raises(FoveolaError, match="no slot is active; run `foveola activate`"):
        active_bundle(tmp_path)


def test_an_engine_that_is_built_on_the_device_is_built_before_the_self_test(
    root: Path, release: Release, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BuiltError(Exception):
        pass

    def build(bundle: object, progress: object) -> None:
        assert getattr(bundle, "path", None) == bundle_path(root, "b")
        raise BuiltError

    monkeypatch.setattr(install_module, "TensorRtOptions", object)
    monkeypatch.setattr("foveola.runtime.tensorrt.build.build_engine", build)
    before = files(root)

    with pytest.raises(BuiltError):
        install(release("2"), root, key=key)

    assert files(root) == before
