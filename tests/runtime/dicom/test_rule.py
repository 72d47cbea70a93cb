"""What the manifest's rule does not allow is refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from dicom_objects import COLOUR, CR, DX, GREY, cr, opened
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000, JPEGLSLossless

from foveola.runtime.dicom.rule import SourceRule
from foveola.runtime.errors import FoveolaError
from foveola.runtime.manifest import decode_manifest, encode_manifest
from foveola.runtime.source import open_source

CHEST = SourceRule(
    modalities=("CR", "DX"), sop_classes=(CR, DX), body_parts=("CHEST",), views=("PA", "AP"), lateralities=("U",)
)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "modality": ({"Modality": "MG"}, "modality MG is not one that this bundle answers about; send CR or DX"),
    "no modality": ({"Modality": None}, r"says no modality: Modality \(0008,0060\) is absent"),
    "SOP class": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "SOP class 1.2.840.10008.5.1.4.1.1.7 is not one"),
    "body part": ({"BodyPartExamined": "HAND"}, "body part HAND is not one"),
    "empty body part": ({"BodyPartExamined": ""}, "says no body part"),
    "view": ({"ViewPosition": "LL"}, "view LL is not one"),
    "laterality": ({"Laterality": "L"}, "laterality L is not one"),
    "image laterality first": ({"ImageLaterality": "R"}, "laterality R is not one"),
    "for processing": ({"PresentationIntentType": "FOR PROCESSING"}, r"\(0008,0068\) is FOR PROCESSING"),
    "class for processing": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "For Processing object"),
    "several frames": ({"NumberOfFrames": 2, "PixelData": bytes(96)}, "holds 2 frames"),
}


@pytest.mark.parametrize(("said", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_another_object_is_refused_by_name(said: dict[str, Any], words: str) -> None:
    opened(cr(), CHEST)  # the object that nothing is wrong with

    with pytest.raises(FoveolaError, match=words):
        opened(cr(**said), CHEST)


def test_absent_tags_are_accepted_where_the_rule_says_so_and_wrong_ones_never() -> None:
    rule = msgspec.structs.replace(CHEST, absent="accept")

    opened(cr(BodyPartExamined=None, ViewPosition="", Laterality=None), rule)
    with pytest.raises(FoveolaError, match="body part HAND"):
        opened(cr(BodyPartExamined="HAND"), rule)


def test_newer_objects_say_view_and_body_part_in_a_code() -> None:
    part, view = Dataset(), Dataset()
    part.CodeMeaning, view.CodeMeaning = "Retina", "postero-anterior"
    said: dict[str, Any] = {
        "BodyPartExamined": None,
        "ViewPosition": "",
        "AnatomicRegionSequence": [part],
        "ViewCodeSequence": [view],
    }

    opened(cr(**said), SourceRule(body_parts=("RETINA",), views=("POSTERO-ANTERIOR",)))
    with pytest.raises(FoveolaError, match="body part RETINA"):
        opened(cr(**said), SourceRule(body_parts=("CHEST",)))


def test_for_processing_is_answered_about_only_where_the_rule_says_so() -> None:
    opened(cr(PresentationIntentType="FOR PROCESSING"), SourceRule(presentation_only=False))


def test_the_first_frame_is_answered_about_where_the_rule_says_so() -> None:
    frames = np.arange(48, dtype=np.uint16)
    dataset = cr(NumberOfFrames=2, PixelData=frames.tobytes())

    found = np.asarray(opened(dataset, SourceRule(frames="first")).picture)

    assert found.ravel().tolist() == list(range(24))


@pytest.mark.parametrize("colour", [None, "grey", "colour", "either"])
def test_colour_and_grey_are_not_taken_for_each_other(colour: Any) -> None:
    rule, photo = SourceRule(colour=colour), cr(np.zeros((4, 4, 3), np.uint8))
    for spec, takes in ((GREY, colour or "grey"), (COLOUR, colour or "colour")):
        for dataset, kind in ((cr(), "grey"), (photo, "colour")):
            if takes in (kind, "either"):
                opened(dataset, rule, spec)
            else:
                with pytest.raises(FoveolaError, match=rf"a {kind} picture \(\w+\) where {takes} is expected"):
                    opened(dataset, rule, spec)


def test_more_loss_than_the_rule_allows_is_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    lossy, lossless = cr(pixels, stored=12), cr(pixels, stored=12)
    lossy.compress(JPEG2000, j2k_cr=[20], generate_instance_uid=False)
    lossless.compress(JPEGLSLossless, generate_instance_uid=False)

    opened(lossy, SourceRule())
    opened(lossy, SourceRule(lossy_ratio=50))
    opened(lossless, SourceRule(lossy_ratio=1))
    with pytest.raises(FoveolaError, match=r"compressed with loss, \d+ : 1, at most 10 : 1 is allowed"):
        opened(lossy, SourceRule(lossy_ratio=10))
    earlier = cr(LossyImageCompression="01", LossyImageCompressionRatio=30)
    with pytest.raises(FoveolaError, match="30 : 1, at most 10 : 1"):
        opened(earlier, SourceRule(lossy_ratio=10))
    with pytest.raises(FoveolaError, match="LossyImageCompressionRatio .* is absent"):
        opened(cr(LossyImageCompression="01"), SourceRule(lossy_ratio=10))


NO_PICTURES: dict[str, tuple[dict[str, Any], str]] = {
    "a segmentation": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "is a Segmentation Storage object"),
    "a dose": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "is a RT Dose Storage object"),
    "a report": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33", "PixelData": None}, "holds no pixel data"),
    "a document": (
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1", "EncapsulatedDocument": b"%PDF"},
        "encapsulated document",
    ),
    "floats": ({"FloatPixelData": bytes(96)}, "holds float pixels"),
}


@pytest.mark.parametrize(("said", "words"), NO_PICTURES.values(), ids=NO_PICTURES.keys())
def test_what_is_no_picture_is_refused_by_name(said: dict[str, Any], words: str) -> None:
    with pytest.raises(FoveolaError, match=words):
        opened(cr(**said), SourceRule())


def test_no_refusal_tells_the_patients_name() -> None:
    for said, _ in REFUSED.values():
        with pytest.raises(FoveolaError) as told:
            opened(cr(**said), CHEST)
        assert "Nobody" not in str(told.value)


def test_the_rule_travels_in_the_manifest(tiny_manifest: Any) -> None:
    manifest = msgspec.structs.replace(tiny_manifest, source=CHEST)

    assert decode_manifest(encode_manifest(manifest)).source == CHEST
    assert b'"source"' not in encode_manifest(tiny_manifest)


@pytest.mark.parametrize(
    "rule",
    [
        b'{"modalities": ["cr"]}',
        b'{"sop_classes": ["CR"]}',
        b'{"absent": "guess"}',
        b'{"lossy_ratio": 0.5}',
        b'{"view": ["PA"]}',
    ],
)
def test_a_rule_of_unknown_words_is_refused(rule: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(rule, type=SourceRule)


def test_a_recipe_says_the_rule_in_its_export_step() -> None:
    from foveola.toolkit.stages.artefact import Export

    step = msgspec.json.decode(b'{"of": "a", "source": {"modalities": ["DX"]}}', type=Export)

    assert step.source == SourceRule(modalities=("DX",))
    assert Export(of="a").source is None


def test_a_file_that_is_no_dicom_object_is_not_held_against_the_rule(tiny_image: bytes) -> None:
    source = open_source(tiny_image, GREY, CHEST)

    assert (source.picture.size, source.dataset) == ((64, 64), None)
