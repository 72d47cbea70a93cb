"""Millions of broken inputs for each door of the runtime: a refusal in one line, or an answer; nothing else.

    python bench/fuzz.py container --count 1000000
    python bench/fuzz.py dicom --seeds FOLDER --seconds 600      # valid DICOM files to begin with
    python bench/fuzz.py manifest --atheris -max_total_time=600  # guided by coverage, where atheris is installed

A seed is changed in a few places (bits, lengths, numbers, pieces cut, doubled or swapped, tokens of the format put in)
and handed to the door. What counts as a find: an exception that is no `FoveolaError`, a refusal of more than one line,
more than `--limit` seconds for one input, more memory than a gibibyte beyond the beginning. A find ends the run and is
written to `--out`, with the exit code 1. The same `--seed` and `--count` give the same inputs.
"""

from __future__ import annotations

import argparse
import io
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import msgspec
import numpy as np
from PIL import Image

from foveola.runtime.bundle import read_bundle
from foveola.runtime.container import bundle_bytes, read_members
from foveola.runtime.dicom.rule import SourceRule
from foveola.runtime.errors import FoveolaError
from foveola.runtime.image import decode_image
from foveola.runtime.manifest import (
    FORMAT,
    Calibration,
    InputSpec,
    Manifest,
    OnnxRuntimeOptions,
    Provenance,
    TaskOutput,
    decode_manifest,
    encode_manifest,
)
from foveola.runtime.signature import SIGNATURE, member_digests, verify_digests
from foveola.runtime.source import open_source
from foveola.runtime.task import Task

Door = Callable[[bytes], object]
SPEC = InputSpec(height=32, width=32, channels=1)
RULE = SourceRule(colour="either", frames="first")
EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
TOKENS = {
    "container": [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"manifest.json", b"MODEL.ONNX", b"../", b"\0", b"\xff" * 4],
    "bundle": [b"PK\1\2", b"manifest.json", b"model.onnx", b"}", b'"format":'],
    "manifest": [b"{", b"}", b"[", b"]", b'"', b"1e999", b"-1", b"NaN", b"Infinity", b"null", b"[" * 2000, b"\\ud800"],
    "signature": [b"{", b'"', b"payloadType", b"signatures", b"AAAA", b"=", b"null", b"{" * 2000],
    "image": [b"\xff\xd8\xff", b"IHDR", b"IDAT", b"tRNS", b"II*\0", b"MM\0*", b"\xff\xc0", b"\xff\xda", b"\xff\xe1"],
    "dicom": [b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\xe0\x7f\x10\x00", b"SQ\0\0", b"OW\0\0", b"\xff\xff\xff\xff"],
}


def main() -> int:
    """See the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("door", choices=list(TOKENS))
    parser.add_argument("--count", type=int, default=0, help="inputs; 0: as many as the seconds allow")
    parser.add_argument("--seconds", type=float, default=60.0, help="where no count is given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=Path, help="folder of valid files to begin with, besides those made here")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that one input may take")
    parser.add_argument("--out", type=Path, default=Path("find.bin"))
    parser.add_argument("--atheris", action="store_true", help="guided by coverage; further words go to atheris")
    given, more = parser.parse_known_args()
    seeds, door = seeds_of(given.door), DOORS[given.door]
    if given.seeds:
        seeds += [path.read_bytes() for path in sorted(given.seeds.iterdir()) if path.is_file()]
    if given.atheris:
        return guided(door, seeds, more)
    return blind(door, seeds, TOKENS[given.door], given)


def blind(door: Door, seeds: list[bytes], tokens: list[bytes], given: argparse.Namespace) -> int:
    """Change seeds by chance until the count or the time is up."""
    rng = np.random.default_rng(given.seed)
    signal.signal(signal.SIGALRM, too_long)
    begun = peak_mib()
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + 2**30, resource.RLIM_INFINITY))
    start, done, refused, slowest = time.monotonic(), 0, 0, 0.0
    while done < given.count if given.count else time.monotonic() - start < given.seconds:
        data = changed(seeds[int(rng.integers(len(seeds)))], tokens, rng)
        signal.setitimer(signal.ITIMER_REAL, given.limit)
        clock = time.perf_counter()
        try:
            door(data)
        except FoveolaError as error:
            refused += 1
            find = "more than one line" if "\n" in str(error) else ""
        except BaseException as error:
            find = f"{type(error).__name__}: {error}"
        else:
            find = ""
        signal.setitimer(signal.ITIMER_REAL, 0)
        slowest, done = max(slowest, time.perf_counter() - clock), done + 1
        if find:
            given.out.write_bytes(data)
            print(f"{given.door}: input {done} of seed {given.seed}: {find}; kept as {given.out}", file=sys.stderr)
            return 1
    passed = time.monotonic() - start
    print(
        f"{given.door}: {done} inputs in {passed:.0f} s ({done / passed:.0f} a second), {refused / done:.0%} refused, "
        f"slowest {1e3 * slowest:.0f} ms, peak {peak_mib() - begun:.0f} MiB beyond the beginning; nothing found"
    )
    return 0


def guided(door: Door, seeds: list[bytes], words: list[str]) -> int:
    """Hand over to atheris (libFuzzer); it ends the process itself."""
    import tempfile

    import atheris

    corpus = Path(tempfile.mkdtemp())
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)

    def attempt(data: bytes) -> None:
        try:
            door(data)
        except FoveolaError as error:
            if "\n" in str(error):
                raise ValueError("more than one line") from error

    atheris.instrument_all()  # pyright: ignore[reportAttributeAccessIssue]
    atheris.Setup([sys.argv[0], str(corpus), *words], attempt)
    atheris.Fuzz()
    return 0


def changed(seed: bytes, tokens: list[bytes], rng: np.random.Generator) -> bytes:
    """A seed with one to eight changes."""
    data = bytearray(seed)
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.integers(len(data) + 1))
        match int(rng.integers(8)):
            case 0 if data:
                data[at % len(data)] ^= 1 << int(rng.integers(8))
            case 1:
                width = int(rng.choice([1, 2, 4]))
                value = int(rng.choice(EDGES)) % 256**width
                data[at : at + width] = value.to_bytes(width, "little" if rng.random() < 0.5 else "big")
            case 2:
                del data[at : at + int(rng.integers(1, 64))]
            case 3:
                data[at:at] = data[at : at + int(rng.integers(1, 64))]
            case 4:
                token = tokens[int(rng.integers(len(tokens)))]
                data[at : at + (len(token) if rng.random() < 0.5 else 0)] = token
            case 5:
                other = int(rng.integers(len(data) + 1))
                size = int(rng.integers(1, 64))
                data[at : at + size] = data[other : other + size]
            case 6:
                data[at : at + 8] = rng.bytes(8)
            case _ if rng.random() < 0.2:
                del data[at:]
            case _:
                pass
    return bytes(data)


def seeds_of(door: str) -> list[bytes]:
    """Valid inputs of a door."""
    members = {"manifest.json": encode_manifest(manifest()), "model.onnx": b"\x08\x07" * 40, SIGNATURE: b"{}"}
    match door:
        case "container" | "bundle":
            return [bundle_bytes(members)]
        case "manifest":
            return [members["manifest.json"]]
        case "signature":
            return [envelope()]
        case "image":
            return [picture(kind, mode) for kind in ("PNG", "JPEG", "TIFF", "BMP") for mode in ("L", "RGB")]
        case _:
            return [radiograph()]


def manifest() -> Manifest:
    """One with a task of each kind that has no tensors of its own form."""
    findings = Task(name="findings", kind="multilabel", classes=("a", "b"))
    lungs = Task(name="lungs", kind="segmentation", classes=("lung",))
    age = Task(name="age", kind="regression", classes=("age",), unit="years")
    return Manifest(
        format=FORMAT,
        name="fuzz",
        version="1",
        device="generic-x86",
        input=SPEC,
        outputs=(
            TaskOutput(task=findings, tensors=("findings",), thresholds=(0.5, 0.5)),
            TaskOutput(task=lungs, tensors=("lungs",)),
            TaskOutput(task=age, tensors=("age",), mean=(50.0,), std=(20.0,)),
        ),
        engines=(OnnxRuntimeOptions(),),
        source=RULE,
        calibration=Calibration(method="minmax", images=1, min_images=1, images_digest="0" * 64),
        provenance=Provenance(
            recipe="fuzz", recipe_digest="0" * 64, data_digest="0" * 64, teacher_digest="0" * 64,
            student_digest="0" * 64, seed=0, versions={},
        ),
    )  # fmt: skip


def envelope() -> bytes:
    """The form of a signature (DSSE) whose bytes sign nothing."""
    payload = {"_type": "https://in-toto.io/Statement/v1", "subject": [], "predicateType": "x", "predicate": {}}
    signed = {"payload": msgspec.json.encode(payload), "signatures": [{"sig": b"0" * 70, "keyid": ""}]}
    body = {"dsseEnvelope": {**signed, "payloadType": "application/vnd.in-toto+json"}, "mediaType": "x"}
    return msgspec.json.encode(body)


def picture(kind: str, mode: str) -> bytes:
    """A small file."""
    stream = io.BytesIO()
    Image.effect_noise((40, 30), 40).convert(mode).save(stream, kind)
    return stream.getvalue()


def radiograph() -> bytes:
    """A small DICOM object without compression."""
    from foveola.bench.front import dicom, written

    return written(dicom(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48)))


def key() -> bytes:
    """A public key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


KEY = key()
DOORS: dict[str, Door] = {
    "container": lambda data: read_members(io.BytesIO(data)),
    "bundle": lambda data: read_bundle(io.BytesIO(data)),
    "manifest": decode_manifest,
    "signature": lambda data: verify_digests(member_digests({"manifest.json": b"{}"}), data, KEY, "bundle"),
    "image": decode_image,
    "dicom": lambda data: open_source(data, SPEC, RULE, "image"),
}


def too_long(number: int, frame: FrameType | None) -> None:
    """End what hangs."""
    raise TimeoutError("longer than the limit")


def peak_mib() -> float:
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def address_space() -> int:
    """Bytes that this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
