"""The bundle as a whole: round trip, canonical bytes, digests, keys, and writing in one step."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from foveola.export.signing import make_keys, sign_bundle
from foveola.runtime.bundle import (
    MEMBERS,
    bundle_bytes,
    core_digest,
    digest_members,
    open_bundle,
    read_bundle,
    read_members,
    read_unverified,
    write_bundle,
)
from foveola.runtime.errors import ExitCode, FoveolaError, NotVouchedError
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    OpenVinoOptions,
    Provenance,
    TaskOutput,
    decode_manifest,
    encode_manifest,
)
from foveola.runtime.task import Task

MANIFEST = encode_manifest(
    Manifest(
        format=FORMAT,
        name="tiny",
        version="1",
        device="generic-x86",
        input=InputSpec(height=8, width=8, channels=1),
        outputs=(TaskOutput(task=Task(name="t", kind="binary", classes=("no", "yes")), tensors=("t",)),),
        engines=(OnnxRuntimeOptions(), OpenVinoOptions()),
        calibration=Calibration(method="none", images=0, min_images=0, images_digest=""),
        provenance=Provenance(
            recipe="r", recipe_digest="", data_digest="", teacher_digest="", student_digest="", seed=0, versions={}
        ),
    )
)
NEEDED = {"manifest.json": MANIFEST, "model.onnx": b"graph", "openvino.xml": b"<net/>", "openvino.bin": bytes(99)}
OTHERS = [name for name in MEMBERS if name not in NEEDED]


@pytest.fixture(autouse=True)
def no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOVEOLA_KEY", raising=False)


def some_members(seed: int) -> dict[str, bytes]:
    chance = random.Random(seed)
    names = list(NEEDED) + [name for name in OTHERS if chance.random() < 0.5]
    chance.shuffle(names)
    return {name: NEEDED.get(name, chance.randbytes(chance.randrange(5000))) for name in names}


@pytest.mark.parametrize("seed", range(8))
def test_what_is_written_is_read_again(seed: int) -> None:
    members = some_members(seed)

    bundle = read_bundle(io.BytesIO(bundle_bytes(members)))

    assert bundle.members == members
    assert bundle.manifest == decode_manifest(MANIFEST)
    assert bundle.digest == digest_members(members)
    assert bundle.core_digest == core_digest(members)


@pytest.mark.parametrize("seed", range(8))
def test_the_bytes_are_those_that_zipfile_writes(seed: int) -> None:
    members = some_members(seed)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in MEMBERS:
            if name in members:
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o100644 << 16
                archive.writestr(info, members[name])

    assert bundle_bytes(members) == stream.getvalue()


def test_an_ordinary_zip_tool_finds_nothing_wrong() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle_bytes(NEEDED))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == list(NEEDED)


def test_the_order_of_the_mapping_does_not_matter() -> None:
    assert bundle_bytes(dict(reversed(NEEDED.items()))) == bundle_bytes(NEEDED)


def test_members_keep_the_order_of_the_file() -> None:
    everything = {name: NEEDED.get(name, b"x") for name in reversed(MEMBERS)}

    assert list(read_members(io.BytesIO(bundle_bytes(everything)))) == list(MEMBERS)


def test_all_faults_of_the_members_are_told_at_once() -> None:
    with pytest.raises(
        FoveolaError, match=r"unknown member '\.\./x'.*unknown member 'weights\.pt'.*no manifest"
    ) as error:
        bundle_bytes({"weights.pt": b"", "../x": b""})
    assert "openvino.bin" in error.value.mend
    with pytest.raises(FoveolaError, match=f"more than {MEMBERS['model.sig']} bytes"):
        bundle_bytes({**NEEDED, "model.sig": bytes(MEMBERS["model.sig"] + 1)})


def test_the_digest_is_what_sha256sum_gives(tmp_path: Path) -> None:
    members = {**NEEDED, "parity.json": b"{}", "model.sig": b"s"}
    for name, data in members.items():
        (tmp_path / name).write_bytes(data)
    names = sorted(members.keys() - {"model.sig"})
    lines = subprocess.run(["sha256sum", *names], cwd=tmp_path, capture_output=True, check=True).stdout

    assert digest_members(members) == hashlib.sha256(lines).hexdigest()


def test_the_digest_depends_on_names_and_contents_and_not_on_the_signature() -> None:
    proved = {**NEEDED, "parity.json": b"{}"}

    assert digest_members({**proved, "model.sig": b"one"}) == digest_members({**proved, "model.sig": b"two"})
    assert digest_members({**NEEDED, "report.html": b"{}"}) != digest_members(proved)
    assert digest_members({**proved, "model.onnx": b"other"}) != digest_members(proved)


def test_the_core_digest_is_that_of_the_bundle_before_its_proof() -> None:
    proved = {**NEEDED, "parity.json": b"{}", "report.html": b"<p>", "model.sig": b"s"}

    assert core_digest(proved) == core_digest(NEEDED) == digest_members(NEEDED)
    assert core_digest({**proved, "golden.npz": b"g"}) != core_digest(NEEDED)


def test_an_engine_whose_file_is_not_there_is_refused() -> None:
    members = {name: data for name, data in NEEDED.items() if name != "openvino.bin"}

    with pytest.raises(FoveolaError, match=r"an engine needs 'openvino\.bin'"):
        read_bundle(io.BytesIO(bundle_bytes(members)))


def test_a_bundle_shows_itself_without_its_contents() -> None:
    shown = repr(read_bundle(io.BytesIO(bundle_bytes({**NEEDED, "golden.npz": b"secret" * 1000}))))

    assert "golden.npz" in shown
    assert "secret" not in shown
    assert len(shown) < 300


def test_write_gives_what_read_gives(tmp_path: Path) -> None:
    path = tmp_path / "tiny.foveola"

    written = write_bundle(path, NEEDED)

    assert written == read_unverified(path)
    assert path.read_bytes() == bundle_bytes(NEEDED)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.foveola"]
    assert stat.S_ISREG(path.stat().st_mode)


def test_a_partial_file_of_a_killed_writer_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "tiny.foveola.partial").write_bytes(b"half")

    write_bundle(tmp_path / "tiny.foveola", NEEDED)

    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.foveola"]


def test_members_that_make_no_bundle_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="not a valid manifest"):
        write_bundle(tmp_path / "tiny.foveola", {**NEEDED, "manifest.json": b"{}"})

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["fsync", "write", "rename"])
def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.foveola"
    write_bundle(path, NEEDED)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif failing == "rename":
        monkeypatch.setattr(Path, "replace", full)
    else:
        monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FoveolaError, match="No space left on device; make room for"):
        write_bundle(path, {**NEEDED, "model.onnx": b"other"})
    monkeypatch.undo()

    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.foveola"]


def test_a_limit_of_the_system_on_file_size_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """No part of this is pretended: the kernel itself stops the writing half-way."""
    source = tmp_path / "source"
    source.write_bytes(bundle_bytes({**NEEDED, "golden.npz": bytes(20_000)}))
    target = tmp_path / "out" / "tiny.foveola"
    target.parent.mkdir()
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from foveola.runtime.bundle import read_unverified, write_bundle\n"
        "from foveola.runtime.errors import FoveolaError\n"
        "members = read_unverified(Path(sys.argv[1])).members\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "try:\n    write_bundle(Path(sys.argv[2]), members)\n"
        "except FoveolaError as error:\n    sys.exit(str(error))\n"
    )

    done = subprocess.run([sys.executable, "-c", code, source, target], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "File too large; make room for" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("make", ["absent", "folder", "pipe", "device"])
def test_a_path_that_is_no_file_is_refused_at_once(make: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.foveola"
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    elif make == "device":
        path.symlink_to("/dev/zero")

    with pytest.raises(FoveolaError, match="is not there" if make == "absent" else "is not a file"):
        open_bundle(path, key=b"")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FoveolaError, match="cannot be written: No such file or directory"):
        write_bundle(tmp_path / "nowhere" / "tiny.foveola", NEEDED)


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The bundle, its public key elsewhere, and a key of somebody else."""
    private, public = make_keys(tmp_path / "keys" / "maker")
    _, other = make_keys(tmp_path / "keys" / "other")
    path = tmp_path / "tiny.foveola"
    write_bundle(path, NEEDED)
    sign_bundle(path, private)
    return path, public, other


def test_a_key_is_taken_as_path_or_as_bytes(signed: tuple[Path, Path, Path]) -> None:
    path, public, _ = signed

    assert open_bundle(path, key=public) == open_bundle(path, key=public.read_bytes()) == read_unverified(path)


def test_the_key_given_comes_before_the_environment(
    signed: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, public, other = signed
    monkeypatch.setenv("FOVEOLA_KEY", str(other))

    open_bundle(path, key=public)
    with pytest.raises(NotVouchedError, match="another key"):
        open_bundle(path)


def test_the_environment_comes_before_the_file_beside(
    signed: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, public, other = signed
    path.with_suffix(".pub").write_bytes(other.read_bytes())
    monkeypatch.setenv("FOVEOLA_KEY", str(public))

    open_bundle(path)
    monkeypatch.setenv("FOVEOLA_KEY", str(public.with_name("lost.pub")))
    with pytest.raises(NotVouchedError, match=r"lost\.pub: the key cannot be read"):  # and no other key is tried
        open_bundle(path)


def test_the_file_beside_is_taken_last(signed: tuple[Path, Path, Path]) -> None:
    path, public, _ = signed
    with pytest.raises(NotVouchedError, match=r"put it at tiny\.pub") as caught:
        open_bundle(path)
    assert caught.value.exit_code == ExitCode.NOT_VOUCHED
    path.with_suffix(".pub").write_bytes(public.read_bytes())

    open_bundle(path)


def test_an_unsigned_bundle_is_inspected_but_not_opened(signed: tuple[Path, Path, Path]) -> None:
    path, public, _ = signed
    write_bundle(path, NEEDED)

    assert read_unverified(path).members == NEEDED
    with pytest.raises(NotVouchedError, match="is not signed"):
        open_bundle(path, key=public)
