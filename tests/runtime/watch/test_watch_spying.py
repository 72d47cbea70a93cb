"""Nothing of a patient gets into the watch, the log, the summary or the picture, wherever a name is planted."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom import uid
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from foveola.runtime.bundle import Bundle
from foveola.runtime.errors import FoveolaError
from foveola.runtime.features import input_features
from foveola.runtime.predict import Predictor
from foveola.runtime.watch.audit import Audit
from foveola.runtime.watch.observe import Seen
from foveola.runtime.watch.picture import draw
from foveola.runtime.watch.summary import encode_export, summarise
from foveola.runtime.watch.telling import export_lines
from foveola.runtime.watch.watch import Limits, Watch

CANARY = "ZYXWCANARY"
NUMBER = "8467213590"  # in UIDs, dates are too short to be told from others
UID = f"1.2.826.0.1.3680043.2.1125.{NUMBER}"
BORN = "19470613"
TEXT_VR = {"LO", "SH", "PN", "LT", "ST", "UT", "UC", "CS", "AE"}


def planted_object(path: Path) -> None:
    """A radiograph with a canary in every text, UID and birth date that the data dictionary knows."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = uid.UID(UID)
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    for tag, (vr, *_) in DicomDictionary.items():
        if keyword_for_tag(tag) and tag >> 16 not in (0, 2, 4) and tag >> 16 < 0x5000:
            if vr in TEXT_VR:
                dataset.add_new(tag, vr, CANARY)
            elif vr == "UI":
                dataset.add_new(tag, vr, UID)
            elif vr == "DA":
                dataset.add_new(tag, vr, BORN)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.Modality, dataset.SpecificCharacterSet = "CR", "ISO_IR 192"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.PresentationIntentType, dataset.PresentationLUTShape = "FOR PRESENTATION", "IDENTITY"
    for name in ("LossyImageCompression", "VOILUTFunction", "PixelPresentation"):
        if name in dataset:
            del dataset[name]
    dataset.Rows = dataset.Columns = 64
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = np.random.default_rng(4).integers(0, 4096, (64, 64)).astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)


def planted_png(path: Path) -> None:
    words = PngImagePlugin.PngInfo()
    for name in ("Title", "Author", "Description", CANARY):
        words.add_text(name, f"{CANARY} {UID} {BORN}")
    pixels = np.random.default_rng(5).integers(0, 256, (64, 64)).astype(np.uint8)
    Image.fromarray(pixels).save(path, pnginfo=words)


def pieces(data: bytes) -> Iterator[bytes]:
    """The bytes, and what they would be were they encoded."""
    yield data
    yield data.lower()
    for word in data.replace(b'"', b" ").replace(b",", b" ").split():
        try:
            yield base64.b64decode(word, validate=True)
        except ValueError:
            continue


def assert_clean(data: bytes, place: str) -> None:
    wanted = [word.encode(code) for word in (CANARY, CANARY.lower(), NUMBER, BORN) for code in ("utf-8", "utf-16-le")]
    wanted += [CANARY.encode().hex().encode(), NUMBER.encode().hex().encode()]
    found = [word for piece in pieces(data) for word in wanted if word in piece]
    assert not found, (place, found)


def test_no_name_uid_date_or_pixel_leaves(tiny_bundle: Bundle, tmp_path: Path) -> None:
    predictor = Predictor(tiny_bundle, "onnxruntime")
    folder = tmp_path / "in" / CANARY
    folder.mkdir(parents=True)
    planted_object(folder / f"{CANARY}_{UID}.dcm")
    planted_png(folder / f"{CANARY}_{BORN}.png")
    (folder / f"{CANARY}.txt").write_text(CANARY, encoding="utf-8")
    watch = Watch(tmp_path / "watch", predictor.manifest, Limits(flush_s=0, sense_s=0))
    audit = Audit(tmp_path / "audit")
    answered, told = 0, []
    for path in sorted(folder.iterdir()):
        try:
            prediction = predictor.predict(path)
        except FoveolaError as error:
            told.append(str(error))
            watch.refused(str(error))
            audit.write("refusal", {"kind": "unreadable", "image": audit.mark(UID)})
        else:
            answered += 1
            x_CHW = np.full((1, 32, 32), 0.5, np.float32)
            watch.record(prediction, {**input_features(x_CHW), CANARY: 1.0, f"input/{UID}": 2.0}, 0.1)
            audit.write("answer", {"way": "folder", "image": audit.mark(UID), "seconds": 0.1})
    watch.count(Seen(values={CANARY: 1.0, "latency_s": 1.0}, fit=False, unfit=(CANARY, f"{CANARY}-low")))
    watch.close()

    assert answered == 2
    assert CANARY in told[0]  # the person at the keyboard is told; the files are not
    export = summarise(tmp_path / "watch")
    assert_clean(encode_export(export), "the export")
    assert_clean(draw(export).encode(), "the picture")
    assert_clean("\n".join(export_lines(export)).encode(), "the words")
    for path in sorted([*(tmp_path / "watch").rglob("*"), *(tmp_path / "audit").rglob("*")]):
        assert_clean(path.name.encode(), "a name")
        assert_clean(path.read_bytes(), path.name)


def test_the_written_numbers_are_counts_and_edges_alone(tiny_bundle: Bundle, tmp_path: Path, tiny_image: bytes) -> None:
    """Two images with different pixels and scores but the same bins leave the same bytes."""
    predictor = Predictor(tiny_bundle, "onnxruntime")
    prediction = predictor.predict(tiny_image)
    written = []
    for name, brightness in (("one", 0.512345), ("two", 0.519876)):
        watch = Watch(tmp_path / name, predictor.manifest, Limits(flush_s=0, sense_s=math.inf))
        watch.record(prediction, {"brightness": brightness}, 0.1)
        (path,) = (tmp_path / name).glob("[0-9]*.json")
        written.append(path.read_bytes())

    assert written[0] == written[1]
    day = json.loads(written[0])
    assert set(day) == {
        "bundle",
        "day",
        "format",
        "histograms",
        "images",
        "refused",
        "throttles",
        "unfit",
        "unfit_images",
    }


@pytest.mark.skipif(os.name == "nt", reason="no permissions here")
def test_only_the_owner_may_look(tiny_bundle: Bundle, tmp_path: Path) -> None:
    Watch(tmp_path / "watch", tiny_bundle.manifest)
    Audit(tmp_path / "audit")

    assert (tmp_path / "watch").stat().st_mode & 0o077 == 0
    assert (tmp_path / "audit").stat().st_mode & 0o077 == 0
    assert (tmp_path / "audit" / "key").stat().st_mode & 0o077 == 0
