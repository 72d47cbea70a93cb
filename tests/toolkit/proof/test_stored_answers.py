"""Laws of `answers.npz`: what is read is what was said, equal answers give equal bytes, and nothing false is taken."""

from __future__ import annotations

import io
import random
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from foveola.runtime.errors import FoveolaError, UsageError
from foveola.runtime.prediction import Box, Choice, Finding, Mask, Measurement, Prediction, prediction_json
from foveola.runtime.task import Task
from foveola.toolkit.proof.kept_answers import AnswersMeta, PackedMasks, StoredAnswers, store_answers
from foveola.toolkit.proof.stored_answers import decode_answers, encode_answers, read_answers, write_answers

TASKS = (
    Task(name="bright", kind="binary", classes=("no", "yes"), columns=("bright_column",), margins={"auc": 0.1}),
    Task(name="signs", kind="multilabel", classes=("left", "top")),
    Task(name="grade", kind="ordinal", classes=("none", "some", "much")),
    Task(name="side", kind="regression", classes=("side",), unit="px"),
    Task(name="halves", kind="segmentation", classes=("upper", "lower"), exclusive=False),
    Task(name="things", kind="detection", classes=("square", "other")),
)
LOCKED = {"bright": (0.25,), "signs": (0.5, 0.4), "halves": (0.5, 0.5), "things": (0.3, 0.6)}
IMAGES = tuple(f"{n:x}" * 64 for n in (7, 2, 11))
Arrays = dict[str, NDArray[Any]]


def prediction(seed: int) -> Prediction:
    rng = np.random.default_rng(seed)
    a, b, c = rng.random(3).tolist()
    height, width = rng.integers(3, 9, 2).tolist()
    masks = []
    for label in ("upper", "lower"):
        pixels = rng.random((height, width)) > 0.5
        area = int(pixels.sum())
        masks.append(Mask(task="halves", label=label, pixels=pixels, area_px=area, fraction=area / pixels.size))
    chances = (a / 2, b / 2, 1 - a / 2 - b / 2)
    top = int(np.argmax(chances))
    names = TASKS[2].classes
    return Prediction(
        findings=(
            Finding(task="bright", label="yes", probability=a, threshold=0.25, positive=a >= 0.25),
            Finding(task="signs", label="left", probability=b, threshold=0.5, positive=b >= 0.5),
            Finding(task="signs", label="top", probability=c, threshold=0.4, positive=c >= 0.4),
        ),
        choices=(Choice(task="grade", label=names[top], index=top, probabilities=chances, classes=names),),
        measurements=(Measurement(task="side", name="side", value=100 * a - 50, unit="px"),),
        masks=tuple(masks),
        boxes=tuple(
            Box(task="things", label="other", score=s, x1=1.5, y1=2.0, x2=3.0 + k, y2=9.0, positive=s >= 0.6)
            for k, s in enumerate(sorted(rng.random(seed % 3).tolist(), reverse=True))
        ),
    )


def stored(images: tuple[str, ...] = IMAGES) -> StoredAnswers:
    said: dict[str, Prediction | None] = {image: prediction(n) for n, image in enumerate(IMAGES)}
    return store_answers(TASKS, images, [said[image] for image in images], thresholds=LOCKED, teacher="a" * 64)


def test_what_is_read_is_what_was_said(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.npz", stored())

    read = read_answers(tmp_path / "answers.npz")

    assert read.images == tuple(sorted(IMAGES))
    assert read.meta.teacher == "a" * 64
    assert read.meta.thresholds == LOCKED
    for n, image in enumerate(IMAGES):
        again = read.prediction(read.places[image])
        assert again is not None
        assert prediction_json(again) == prediction_json(prediction(n))


def test_an_image_that_was_not_answered_stays_so() -> None:
    some = store_answers(TASKS, IMAGES, [None, prediction(1), None], thresholds=LOCKED, teacher="a" * 64)

    read = decode_answers(encode_answers(some))

    assert [read.prediction(read.places[image]) is None for image in IMAGES] == [True, False, True]
    assert np.isnan(read.scores["signs"]).sum() == 4


@given(order=st.permutations(IMAGES + IMAGES[:1]))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_images_and_copies_change_no_byte(order: list[str]) -> None:
    assert encode_answers(stored(tuple(order))) == encode_answers(stored())


@given(layers=arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, max_side=13)))
@settings(max_examples=50, deadline=None)
def test_masks_are_unpacked_as_they_were(layers: NDArray[np.bool_]) -> None:
    packed = PackedMasks(layers.shape[1], layers.shape[2], zlib.compress(np.packbits(layers).tobytes()))

    assert np.array_equal(packed.layers(len(layers)), layers)


def test_numpy_alone_reads_the_file(tmp_path: Path) -> None:
    write_answers(tmp_path / "answers.npz", stored())

    with np.load(tmp_path / "answers.npz", allow_pickle=False) as plain:
        meta = msgspec.json.decode(plain["meta"].tobytes())
        digests = plain["sha256"]
        row = int(np.flatnonzero((digests == 0x77).all(axis=1))[0])
        height, width = plain["sizes/halves"][row]
        ends = [0, *plain["ends/halves"].tolist()]
        bits = zlib.decompress(plain["masks/halves"].tobytes()[ends[row] : ends[row + 1]])
        mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=2 * height * width).reshape(2, height, width)

    assert [task["name"] for task in meta["tasks"]] == [task.name for task in TASKS]
    assert np.array_equal(mask[1], prediction(0).masks[1].pixels)


def test_no_column_of_a_manifest_and_no_margin_is_inside() -> None:
    data = encode_answers(stored())

    assert b"bright_column" not in data
    assert b"margins" not in data


# --- one part broken ---


def taken_apart(data: bytes) -> Arrays:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def put_together(parts: Arrays, compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, array in parts.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=array.dtype.hasobject)
            archive.writestr(f"{name}.npy", data.getvalue())
    return stream.getvalue()


def changed(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> bytes:
    parts = taken_apart(encode_answers(stored()))
    return put_together({**parts, name: change(parts[name].copy())})


def without(name: str) -> bytes:
    parts = taken_apart(encode_answers(stored()))
    del parts[name]
    return put_together(parts)


def with_meta(**changes: object) -> bytes:
    meta = msgspec.json.decode(msgspec.json.encode(stored().meta)) | changes
    return changed("meta", lambda _: np.frombuffer(msgspec.json.encode(meta), np.uint8))


def set_to(index: Any, value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array[index] = value
        return array

    return change


def claimed_length() -> bytes:
    """A header that claims a hundred thousand million numbers, with none behind it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**11, 1)})
    parts = taken_apart(encode_answers(stored()))
    del parts["scores/side"]
    stream = io.BytesIO(put_together(parts))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("scores/side.npy", header.getvalue())
    return stream.getvalue()


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "no answers that can be read"),
    "not an archive": (lambda: b"answers" * 99, "not a zip file"),
    "cut off": (lambda: encode_answers(stored())[:-40], "not a zip file"),
    "a flipped bit": (
        lambda: encode_answers(stored()).replace(b"\x77" * 32, b"\x77" * 31 + b"\x76", 1),
        "Bad CRC-32",
    ),
    "compressed": (
        lambda: put_together(taken_apart(encode_answers(stored())), zipfile.ZIP_DEFLATED),
        "is compressed; numpy.savez stores plainly",
    ),
    "a pickle": (
        lambda: changed("scores/side", lambda array: np.array([{"a": 1}] * 3, object)),
        "entry 'scores/side' is no plain array",
    ),
    "a length that is claimed": (claimed_length, "entry 'scores/side' is not of the length that it names"),
    "another order": (lambda: changed("scores/signs", np.asfortranarray), "entry 'scores/signs' is no plain array"),
    "no meta": (lambda: without("meta"), "the entry meta is missing"),
    "another format": (lambda: with_meta(format=2), "format 2 is not read, only 1"),
    "an unknown field": (lambda: with_meta(patients=["x"]), "unknown field"),
    "a teacher without digest": (lambda: with_meta(teacher="resnet"), "Expected `str` matching"),
    "a task that is none": (
        lambda: with_meta(tasks=[{"name": "a b", "kind": "binary", "classes": ["n", "y"]}]),
        "the name is not made of letters",
    ),
    "no thresholds": (lambda: with_meta(thresholds={}), "no thresholds of bright, signs, things"),
    "too few thresholds": (lambda: with_meta(thresholds={**LOCKED, "signs": [0.5]}), "of 'signs': 2 numbers"),
    "an entry missing": (lambda: without("scores/grade"), "entry 'scores/grade' is missing"),
    "an entry of no task": (
        lambda: put_together({**taken_apart(encode_answers(stored())), "scores/liver": np.zeros((3, 1))}),
        "entry 'scores/liver' belongs to no task",
    ),
    "digests that fall": (lambda: changed("sha256", lambda array: array[::-1]), "the digests do not rise"),
    "an image twice": (lambda: changed("sha256", lambda array: array[[0, 0, 1]]), "or one is there twice"),
    "digests too short": (lambda: changed("sha256", lambda array: array[:, :31]), "not uint8 (N, 32)"),
    "single precision": (
        lambda: changed("scores/side", lambda array: array.astype(np.float32)),
        "entry 'scores/side' is no plain array",
    ),
    "whole numbers": (lambda: changed("scores/side", lambda array: array.astype(np.int64)), "not float64 (3, 1)"),
    "a row too few": (lambda: changed("scores/signs", lambda array: array[:2]), "(2, 2), not float64 (3, 2)"),
    "infinity": (lambda: changed("scores/side", set_to((0, 0), np.inf)), "scores of 'side' are infinite"),
    "half a row": (lambda: changed("scores/signs", set_to((0, 1), np.nan)), "partly missing"),
    "half an answer": (lambda: changed("scores/side", set_to((0, 0), np.nan)), "answered for some tasks only"),
    "no probability": (lambda: changed("scores/signs", set_to((0, 1), 1.5)), "scores of 'signs' are no probabilities"),
    "counts below none": (lambda: changed("counts/things", set_to(0, -2)), "counts of 'things' are negative"),
    "counts of other boxes": (lambda: changed("counts/things", set_to(0, 9)), "entry 'boxes/things' is float64"),
    "a box of no class": (lambda: changed("boxes/things", set_to((0, 5), 2)), "boxes of 'things' hold what is no box"),
    "a box turned round": (lambda: changed("boxes/things", set_to((0, 2), 0)), "boxes of 'things' hold what is no box"),
    "a mask too large": (lambda: changed("sizes/halves", set_to((0, 0), 10**6)), "a mask of 'halves' is"),
    "masks that end elsewhere": (lambda: changed("ends/halves", set_to(0, 10**6)), "the ends of the masks of 'halves'"),
    "a mask below the image": (lambda: changed("sizes/halves", set_to((0, 0), 0)), "a mask of 'halves' is"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words"), BROKEN.values(), ids=BROKEN)
def test_a_file_with_one_part_broken_is_refused_in_one_line(make: Callable[[], bytes], words: str) -> None:
    with pytest.raises(FoveolaError) as refused:
        decode_answers(make(), "answers.npz")

    assert words in str(refused.value)
    assert str(refused.value).startswith("answers.npz: ")
    assert "\n" not in str(refused.value)


def test_a_mask_that_grows_when_it_is_unpacked_is_refused_before_it_does() -> None:
    bomb = PackedMasks(8, 8, zlib.compress(bytes(50_000_000)))

    with pytest.raises(FoveolaError, match="a packed mask is not of 8 bytes"):
        bomb.layers(1)


def test_no_change_of_a_few_bytes_is_more_than_a_refusal() -> None:
    dice = random.Random(1)
    with zipfile.ZipFile(io.BytesIO(encode_answers(stored()))) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    for _ in range(400):
        name = dice.choice(sorted(parts))
        broken = bytearray(parts[name])
        for _ in range(dice.randint(1, 3)):
            place = dice.randrange(min(len(broken), 130)) if dice.random() < 0.7 else dice.randrange(len(broken))
            broken[place] = dice.choice([dice.randrange(256), *b"0123456789(),'{}:<> "])
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:  # whose checksums fit
            for other, data in parts.items():
                archive.writestr(other, bytes(broken) if other == name else data)
        try:
            read = decode_answers(stream.getvalue())
            for row in range(len(read)):
                read.prediction(row)
        except FoveolaError:
            pass


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`foveola answers` writes one"):
        read_answers(tmp_path / "answers.npz")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_answers(tmp_path / "no" / "answers.npz", stored())


def test_the_meta_of_another_teacher_is_another_file() -> None:
    one = stored()
    other = msgspec.structs.replace(one, meta=AnswersMeta(**{**msgspec.structs.asdict(one.meta), "teacher": "b" * 64}))

    assert encode_answers(one) != encode_answers(other)
