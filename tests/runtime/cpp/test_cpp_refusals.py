"""What Python refuses, the C++ reader refuses with the same exit code; nothing makes it crash or take memory."""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from PIL import Image

from foveola.export.signing import make_keys, sign_members
from foveola.runtime.bundle import MEMBERS, bundle_bytes, open_bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.golden import pixel_digest
from foveola.runtime.image import decode_image
from foveola.runtime.manifest import Manifest
from foveola.tests.attacks import test_container_attacks as container
from foveola.tests.attacks import test_signature_attacks as signatures
from foveola.tests.runtime.cpp.conftest import SOURCES

Members = dict[str, bytes]
Verdict = tuple[str, str]  # "ok" or the exit code, and the digest or the words
Try = Callable[[Sequence[bytes]], list[Verdict]]
MEMORY = 400 * 1024  # KiB of address space; the largest lie is of 4 GiB


def verdicts(binary: Path, folder: Path, files: Sequence[bytes], *words: str, limited: bool = True) -> list[Verdict]:
    """What `foveola-attack` says of each file, all in one process with little memory."""
    names = [folder / f"{i}.foveola" for i in range(len(files))]
    for name, data in zip(names, files, strict=True):
        name.write_bytes(data)
    command = " ".join([f"ulimit -v {MEMORY};" if limited else "", "exec", str(binary), *words])
    told = subprocess.run(
        ["bash", "-c", command],
        input="\n".join(map(str, names)),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    lines = [line.split(" ", 1) for line in told.stdout.splitlines()]
    assert len(lines) == len(files)
    return [(code, text) for code, text in lines]


def python_verdict(file: bytes, key: Path, folder: Path) -> str:
    path = folder / "python.foveola"
    path.write_bytes(file)
    try:
        return f"ok {open_bundle(path, key=key).digest}"
    except FoveolaError as error:
        return str(int(error.exit_code))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp("keys") / "maker")


@pytest.fixture(scope="module")
def members(keys: tuple[Path, Path], tiny_members: Members) -> Members:
    """Small ones, in the number and order that the attacks on the container count on."""
    manifest = json.loads(tiny_members["manifest.json"])
    manifest["engines"] = manifest["engines"][:1]
    unsigned = {
        "manifest.json": json.dumps(manifest, indent=2).encode() + b"\n",
        "model.onnx": b"graph" * 9,
        "golden.npz": b"golden" * 9,
    }
    return {**unsigned, "model.sig": sign_members(unsigned, keys[0].read_bytes())}


@pytest.fixture
def attempt(built: Path, keys: tuple[Path, Path], tmp_path: Path) -> Try:
    return lambda files: verdicts(built / "foveola-attack", tmp_path, files, "bundle", str(keys[1]))


def same_codes(files: Iterable[bytes], attempt: Try, key: Path, folder: Path) -> None:
    """Python's verdict on each file is C++'s: the same digest, or a refusal with the same exit code."""
    files = list(files)
    for number, (file, (code, text)) in enumerate(zip(files, attempt(files), strict=True)):
        expected = python_verdict(file, key, folder)
        assert (f"ok {text}" if code == "ok" else code) == expected, (number, text)
        assert text.isprintable()


def test_a_good_bundle_has_the_same_digest(
    attempt: Try, members: Members, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    [(code, digest)] = attempt([bundle_bytes(members)])

    assert (code, digest) == ("ok", python_verdict(bundle_bytes(members), keys[1], tmp_path).split()[1])


def test_a_container_that_is_not_canonical_is_refused_in_the_same_words(
    attempt: Try, members: Members, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    file = bundle_bytes(members)
    files = [change(file) for change, _ in container.BROKEN.values()]

    for (name, (_, words)), (code, text) in zip(container.BROKEN.items(), attempt(files), strict=True):
        assert code in ("1", "5"), (name, text)
        with pytest.raises(FoveolaError, match=words):
            raise FoveolaError("C++", text)
    same_codes(files, attempt, keys[1], tmp_path)


def test_lying_lengths_huge_counts_and_too_many_members_cost_no_memory(
    attempt: Try, members: Members, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    full = bundle_bytes(dict.fromkeys(MEMBERS, b"content"))
    files = [*container.lying_files(bundle_bytes(members), members), container.many_entries(60_000, 2), full]

    same_codes(files, attempt, keys[1], tmp_path)


def test_every_flipped_bit_is_refused(attempt: Try, members: Members) -> None:
    file = bundle_bytes(members)
    positions = range(0, len(file), 3)

    told = attempt([container.put(file, at, bytes([file[at] ^ 1 << at % 8])) for at in positions])

    assert {code for code, _ in told} <= {"1", "5"}


def test_a_signature_that_is_not_exactly_one_is_refused(
    attempt: Try, members: Members, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    changed = [change(members["model.sig"]) for change in signatures.DOCUMENTS.values()]
    files = [bundle_bytes({**members, "model.sig": one}) for one in changed if len(one) <= MEMBERS["model.sig"]]

    assert {code for code, _ in attempt(files)} == {"5"}
    same_codes(files, attempt, keys[1], tmp_path)


def test_even_the_true_key_cannot_vouch_for_a_loose_statement(
    attempt: Try, members: Members, keys: tuple[Path, Path]
) -> None:
    files = []
    for change in signatures.STATEMENTS.values():
        document = signatures.statement(members)
        change(document)
        signature = signatures.signed_statement(json.dumps(document).encode(), keys[0])
        files.append(bundle_bytes({**members, "model.sig": signature}))

    assert {code for code, _ in attempt(files)} == {"5"}


def test_members_other_than_the_signed_ones_and_other_keys_are_refused(
    attempt: Try, built: Path, members: Members, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    swapped = [signatures.swapped(members), signatures.lost(members), {**members, "report.html": b"<b>pass</b>"}]
    unsigned = {name: data for name, data in members.items() if name != "model.sig"}
    assert [code for code, _ in attempt([bundle_bytes(one) for one in (*swapped, unsigned)])] == ["5"] * 4

    for kind, pem in signatures.wrong_keys(keys[0]).items():
        wrong = tmp_path / "wrong.pub"
        wrong.write_bytes(pem)
        [(code, text)] = verdicts(built / "foveola-attack", tmp_path, [bundle_bytes(members)], "bundle", str(wrong))
        assert code == "5", (kind, text)


def test_a_signed_but_broken_manifest_is_refused(
    attempt: Try, members: Members, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest = members["manifest.json"].replace(b'"height": 32', b'"height": 8')  # as the attempts expect it
    changes: list[Callable[[bytes], bytes]] = [
        *(change for change, _ in signatures.MANIFESTS.values()),
        lambda m: m.replace(b'"format": 1', b'"format": 1, "format": 1'),
        lambda m: m.replace(b'"height": 8', b'"height": 8.5'),
        lambda m: m.replace(b'"kind": "regression"', b'"kind": "guess"'),
        lambda m: m.replace(b'"threads": 1', b'"threads": true'),
        lambda m: m.replace(b'"seed": 0', b'"seed": null'),
    ]
    assert all(change(manifest) != manifest for change in changes)
    files = [signatures.with_manifest(members, change(manifest), keys[0]) for change in changes]

    told = attempt(files)

    assert all(code == "1" for code, _ in told), told


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A file with some bytes flipped, cut out, doubled or exchanged."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed))
        match chance.randrange(4):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + chance.randint(1, 40)]
            case 2:
                changed[at:at] = changed[at : at + chance.randint(1, 40)]
            case _:
                changed[at] = chance.choice((0, 1, 127, 128, 255))
        if not changed:
            break
    return bytes(changed)


def good_pictures() -> list[bytes]:
    rng = np.random.default_rng(3)
    colour = np.asarray(rng.integers(0, 256, (40, 33, 3)), np.uint8)
    made: list[tuple[Image.Image, dict[str, Any]]] = [
        (Image.fromarray(colour), {"format": "PNG"}),
        (Image.fromarray(colour[..., 0].astype(np.uint16) * 200), {"format": "PNG"}),
        (Image.fromarray(colour).quantize(20), {"format": "PNG"}),
        (Image.fromarray(colour).resize((160, 120)), {"format": "JPEG", "quality": 60}),
        (Image.fromarray(colour).resize((90, 120)), {"format": "JPEG", "progressive": True}),
        (Image.fromarray(colour[..., 1]), {"format": "JPEG", "exif": orientation(6)}),
    ]
    files = []
    for picture, options in made:
        stream = io.BytesIO()
        picture.save(stream, **options)
        files.append(stream.getvalue())
    return files


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def python_pixels(data: bytes) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of EXIF that is broken elsewhere: no device makes errors of them
        try:
            pixels = np.asarray(decode_image(data, "image"))
        except FoveolaError:
            return None
    return hashlib.sha256(pixel_digest(pixels).tobytes()).hexdigest()


def hold_pictures(binary: Path, folder: Path, count: int, *, limited: bool) -> None:
    chance = random.Random(7)
    files = [f for good in good_pictures() for f in [good, *(damaged(good, chance) for _ in range(count))]]
    files += [good[: len(good) * k // 9] for good in good_pictures() for k in range(9)]

    told = verdicts(binary, folder, files, "image", limited=limited)

    answered = 0
    for file, (code, text) in zip(files, told, strict=True):
        expected = python_pixels(file)
        if code == "ok":
            answered += 1
            assert text == expected, "C++ reads what Python refuses, or reads it otherwise"
    assert answered >= len(good_pictures())


def test_damaged_pictures_are_refused_or_read_as_python_reads_them(built: Path, tmp_path: Path) -> None:
    hold_pictures(built / "foveola-attack", tmp_path, 40, limited=True)


@pytest.mark.slow
def test_thousands_of_damaged_files_touch_no_memory_that_is_not_theirs(
    sanitised: Path, members: Members, tiny_members: Members, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    chance = random.Random(11)
    hold_pictures(sanitised / "foveola-attack", tmp_path, 1500, limited=False)
    file, key = bundle_bytes(members), str(keys[1])
    bundles = [damaged(file, chance) for _ in range(3000)]
    manifests = [damaged(members["manifest.json"], chance) for _ in range(3000)]
    bundles += [signatures.with_manifest(members, one, keys[0]) for one in manifests]
    goldens = [damaged(tiny_members["golden.npz"], chance) for _ in range(500)]
    bundles += [resigned({**tiny_members, "golden.npz": one}, keys[0]) for one in goldens]

    told = verdicts(sanitised / "foveola-attack", tmp_path, bundles, "bundle", key, limited=False)

    for number, (bundle, (code, text)) in enumerate(zip(bundles[:6000], told, strict=False)):
        if code == "ok":
            assert python_verdict(bundle, keys[1], tmp_path).startswith("ok"), (number, text)


def resigned(members: Members, private: Path) -> bytes:
    unsigned = {name: data for name, data in members.items() if name != "model.sig"}
    return bundle_bytes({**unsigned, "model.sig": sign_members(unsigned, private.read_bytes())})


def test_pictures_that_python_refuses_are_refused_by_name(
    ask: Callable[..., subprocess.CompletedProcess[str]], tiny_path: Path, tmp_path: Path
) -> None:
    grey = np.zeros((8, 8), np.uint8)
    clear = Image.fromarray(np.dstack([grey] * 3 + [grey + 9]), "RGBA")
    cases: dict[str, tuple[bytes, str]] = {
        "mirrored.jpg": (jpeg(grey, exif=orientation(2)), "mirrors the picture"),
        "cmyk.jpg": (jpeg(np.zeros((8, 8, 4), np.uint8), mode="CMYK"), "CMYK"),
        "clear.png": (png(clear), "transparent"),
        "empty.png": (b"", "the file is empty"),
        "study.dcm": (bytes(128) + b"DICM" + bytes(9), "a DICOM file"),
        "text.png": (b"<html>", "not a PNG, JPEG, PGM or PPM file"),
        "huge.pgm": (b"P5 99999 99999 255\n", "absurd size"),
        "short.pgm": (b"P5 9 9 255\n\0\0", "another number of pixels"),
        "frames.png": (
            png(Image.fromarray(grey), save_all=True, append_images=[Image.fromarray(grey + 1)]),
            "more than one picture",
        ),
    }
    for name, (data, _) in cases.items():
        (tmp_path / name).write_bytes(data)

    ended = ask("predict", tiny_path, *(tmp_path / name for name in cases), tmp_path / "absent.png", "--json")

    assert ended.returncode == 1
    told = json.loads(ended.stdout)["images"]
    assert [one["error"] for one in told] == ended.stderr.splitlines()
    for one, (_, words) in zip(told, [*cases.values(), (b"", "no such file")], strict=True):
        assert words in one["error"]


def jpeg(pixels: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(pixels) if mode is None else Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


def png(picture: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()


def test_a_manifest_with_every_field_is_read(
    attempt: Try, members: Members, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = json.loads(members["manifest.json"])
    histogram = {"edges": [0.1, 0.5], "counts": [3, 2**40, 0]}
    difference = {"tensor": "findings", "largest": 0.5, "mean": 1, "decisions": 8, "flips": 0}
    plain |= {
        "comparisons": [{"engine": "openvino", "images": 3, "outputs": [difference]}],
        "temperatures": [{"task": "grade", "split": "val", "images": 9, "temperature": 2, "before": 0.7, "after": 0.6}],
        "source": {"modalities": ["CR"], "presentation_only": True},
        "reference": {"split": "val", "images": 9, "patients": 8, "inputs": {"a": histogram}, "answers": {}},
        "budget": {"latency_ms": 20, "size_mb": 9.5, "memory_mib": 300},
    }
    plain["engines"] += [{"engine": "tensorrt", "graph": "model.onnx", "plan": "manifest.json", "tf32": False}]
    whole = signatures.with_manifest(members, json.dumps(plain).encode(), keys[0])

    same_codes([whole], attempt, keys[1], tmp_path)
    assert attempt([whole])[0][0] == "ok"


def field_names(kind: object) -> set[str]:
    """Names of the fields of a Struct and of all that stand below it; the two that C++ does not look into left out."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        found = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        below = [field_names(one) for name, one in found.items() if name not in ("source", "fitness")]
        return set(found).union(*below)
    return set().union(*(field_names(one) for one in get_args(kind)))


def test_every_field_that_a_manifest_can_have_is_known_to_cpp() -> None:
    text = (SOURCES / "manifest.cpp").read_text(encoding="utf-8")

    assert {name for name in field_names(Manifest) if f'{{"{name}", ' not in text} == set()
