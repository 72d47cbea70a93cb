"""A bundle of which only what its engine needs is held in memory: vouched for whole all the same."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from foveola.export.signing import sign_members
from foveola.runtime.bundle import Bundle, bundle_bytes, open_bundle, read_members, write_bundle
from foveola.runtime.container import MIB, PIECE_BYTES, Scan, scan_members
from foveola.runtime.errors import FoveolaError, NotVouchedError
from foveola.runtime.manifest import Manifest
from foveola.runtime.predict import Predictor, engine_files, open_predictor
from foveola.runtime.signature import member_digests


@pytest.fixture(scope="module")
def large(
    tmp_path_factory: pytest.TempPathFactory, tiny_members: dict[str, bytes], tiny_keys: tuple[Path, Path]
) -> Path:
    """The tiny bundle with 12 MiB that no engine needs; its public key beside it."""
    path = tmp_path_factory.mktemp("large") / "large.foveola"
    members = {**tiny_members, "report.html": random.Random(1).randbytes(12 * MIB)}
    write_bundle(path, {**members, "model.sig": sign_members(members, tiny_keys[0].read_bytes())})
    path.with_suffix(".pub").write_bytes(tiny_keys[1].read_bytes())
    return path


@pytest.mark.parametrize(
    ("engine", "files"), [("onnxruntime", {"model.onnx"}), ("openvino", {"openvino.xml", "openvino.bin"})]
)
def test_only_what_the_engine_reads_is_kept(engine: str, files: set[str], large: Path) -> None:
    whole, lean = open_bundle(large), open_bundle(large, only=engine_files(engine))

    assert set(lean.members) == {"manifest.json", *files}
    assert all(lean.members[name] == whole.members[name] for name in lean.members)
    assert (lean.manifest, lean.digest, lean.core_digest) == (whole.manifest, whole.digest, whole.core_digest)
    assert Predictor(lean, engine).engine == engine


def test_members_that_no_engine_needs_never_lie_in_memory(large: Path) -> None:
    assert open_predictor(large, "onnxruntime").engine == "onnxruntime"  # which imports what it takes
    tracemalloc.start()
    try:
        lean = open_bundle(large, only=engine_files("onnxruntime"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    needed = sum(map(len, lean.members.values()))
    assert peak < needed + 4 * PIECE_BYTES, f"{peak} bytes at most, {needed} are needed"


def test_to_open_a_bundle_loads_one_library_of_cryptography_and_not_all_of_it(large: Path) -> None:
    """Python's own hashes would bring a second OpenSSL, keys in unusual forms what reads them: 4 MiB together."""
    code = f"""
import sys, numpy
before = set(sys.modules)
from pathlib import Path
from foveola.runtime.predict import engine_files, open_bundle
open_bundle(Path({str(large)!r}), only=engine_files("onnxruntime"))
print(*sorted(set(sys.modules) - before))
"""

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "cryptography.hazmat.primitives.asymmetric.ec" in loaded
    assert {"_hashlib", "cryptography.hazmat.primitives.serialization.ssh", "zipfile"}.isdisjoint(loaded)
    assert not any("fitness.judge" in name or "tensorrt" in name for name in loaded)


def test_a_changed_member_is_refused_also_where_it_is_not_kept(large: Path, tmp_path: Path) -> None:
    data = bytearray(large.read_bytes())
    data[data.index(b"report.html") + 5_000_000] ^= 1
    path = tmp_path / "changed.foveola"
    path.write_bytes(data)

    with pytest.raises(NotVouchedError, match=r"report\.html: its content was changed after the bundle was made"):
        open_bundle(path, key=large.with_suffix(".pub"), only=engine_files("onnxruntime"))


def test_a_member_with_a_right_checksum_and_a_wrong_digest_is_refused(
    large: Path, tmp_path: Path, tiny_members: dict[str, bytes]
) -> None:
    signature = open_bundle(large).members["model.sig"]
    path = tmp_path / "other.foveola"
    path.write_bytes(bundle_bytes({**tiny_members, "report.html": b"another", "model.sig": signature}))

    with pytest.raises(NotVouchedError, match=r"report\.html was changed"):
        open_bundle(path, key=large.with_suffix(".pub"), only=engine_files("onnxruntime"))


def test_bytes_that_change_between_the_check_and_their_use_reach_no_engine(large: Path, tmp_path: Path) -> None:
    """Whoever can write to the file waits until the signature held, and then puts other bytes in a member's place."""
    path = tmp_path / "swapped.foveola"
    path.write_bytes(large.read_bytes())
    place = path.read_bytes().index(open_bundle(large).members["report.html"]) + 6 * MIB

    def swap(manifest: Manifest) -> tuple[str, ...]:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"another content")
        return ("report.html",)

    with pytest.raises(NotVouchedError, match=r"report\.html: its content was changed while the bundle was read"):
        open_bundle(path, key=large.with_suffix(".pub"), only=swap)


def test_an_engine_whose_files_were_not_kept_is_refused_in_one_line(large: Path) -> None:
    lean: Bundle = open_bundle(large, only=engine_files("onnxruntime"))

    with pytest.raises(FoveolaError, match=r"tiny: was opened without openvino\.xml; open it without `only`"):
        Predictor(lean, "openvino")


def test_the_whole_and_the_lean_way_refuse_the_same_files_in_the_same_words(tiny_members: dict[str, bytes]) -> None:
    good = bundle_bytes({**tiny_members, "report.html": b"x" * (PIECE_BYTES + 3), "seen.bin": b""})
    members = read_members(io.BytesIO(good))
    scan = scan_members(io.BytesIO(good))
    assert scan.digests == member_digests(members)
    assert {name: scan.read(io.BytesIO(good), name) for name in members} == members

    chance = random.Random(2)
    for at in (*range(0, len(good), 997), *(chance.randrange(len(good)) for _ in range(300))):
        bad = bytearray(good)
        bad[at] ^= 1 << chance.randrange(8)
        assert fault(bytes(bad), lean=True) == fault(bytes(bad), lean=False) != ""
        assert fault(good[:at], lean=True) == fault(good[:at], lean=False) != ""


def fault(data: bytes, *, lean: bool) -> str:
    try:
        _: Scan | dict[str, bytes] = scan_members(io.BytesIO(data)) if lean else read_members(io.BytesIO(data))
    except FoveolaError as error:
        return f"{type(error).__name__} {error}"
    return ""
