"""Whether a DICOM object is one that the bundle answers about: a picture for eyes, and what the manifest's rule asks.

Each refusal names the element and what it says; `runtime/dicom/rule.py` has the words of the rule.
"""

from __future__ import annotations

from pydicom.uid import UID

from ..errors import FoveolaError
from ..manifest import InputSpec
from .header import Header
from .rule import SourceRule
from .tags import Tags

# Objects whose pixels are labels, doses or measures and no picture (PS3.4 B.5).
NO_PICTURES = {
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose
}
MEND = "choose the image that the bundle was validated on"


def check_kind(tags: Tags) -> None:
    """Refuse an object that holds no picture.

    Raises:
        FoveolaError: a report, an encapsulated document, a segmentation, float pixels, ...
    """
    if not len(tags.dataset):
        raise FoveolaError(tags.place, "no DICOM object can be read from it", "copy or send the file again, and whole")
    kind = _kind(tags)
    if "EncapsulatedDocument" in tags:
        raise FoveolaError(tags.place, f"holds an encapsulated document ({kind}), not a picture", MEND)
    if "FloatPixelData" in tags or "DoubleFloatPixelData" in tags:
        raise FoveolaError(tags.place, f"holds float pixels ({kind}), not a picture", MEND)
    if tags.text("SOPClassUID") in NO_PICTURES:
        raise FoveolaError(tags.place, f"is a {kind} object, not a picture", MEND)
    if "PixelData" not in tags:
        raise FoveolaError(tags.place, f"holds no pixel data ({kind})", "send the image itself, and whole")


def check_rule(tags: Tags, rule: SourceRule) -> None:
    """Hold the header against the rule's words.

    Raises:
        FoveolaError: for processing, another modality, SOP class, body part, view or laterality, or the tag is absent.
    """
    if rule.presentation_only:
        _check_presentation(tags)
    _check(tags, rule, "Modality", "modality", tags.texts("Modality"), rule.modalities)
    _check(tags, rule, "SOPClassUID", "SOP class", tags.texts("SOPClassUID"), rule.sop_classes)
    body = _coded(tags, "BodyPartExamined", "AnatomicRegionSequence")
    _check(tags, rule, "BodyPartExamined", "body part", body, rule.body_parts)
    _check(tags, rule, "ViewPosition", "view", _coded(tags, "ViewPosition", "ViewCodeSequence"), rule.views)
    side = tags.texts("ImageLaterality") or tags.texts("Laterality")
    _check(tags, rule, "ImageLaterality", "laterality", side, rule.lateralities)


def check_pixels(header: Header, rule: SourceRule, spec: InputSpec, place: str) -> None:
    """Hold the pixels' description against the rule and the network's input.

    Raises:
        FoveolaError: several frames, or colour where the network takes grey, or the reverse.
    """
    if header.frames > 1 and rule.frames == "one":
        raise FoveolaError(place, f"holds {header.frames} frames, one is answered about", "send the frame as an image")
    colour = rule.colour or ("grey" if spec.channels == 1 else "colour")
    if colour == "grey" and not header.grey:
        raise FoveolaError(place, f"a colour picture ({header.photometric}) where grey is expected", MEND)
    if colour == "colour" and header.grey:
        raise FoveolaError(place, f"a grey picture ({header.photometric}) where colour is expected", MEND)


def check_loss(tags: Tags, rule: SourceRule, *, lossy: bool, ratio: float) -> None:
    """Refuse a picture that has lost more than the rule allows (PS3.3 C.7.6.1.1.5).

    Args:
        tags: the object's elements.
        rule: the manifest's.
        lossy: whether the transfer syntax itself loses.
        ratio: by how much the encoded pixels are smaller than the plain ones; counts where the syntax loses.

    Raises:
        FoveolaError: a higher ratio, or one that nobody tells.
    """
    if rule.lossy_ratio is None:
        return
    declared = tags.numbers("LossyImageCompressionRatio")
    earlier = tags.text("LossyImageCompression") == "01"
    if not lossy and not earlier and not declared:
        return
    found = max((*declared, ratio if lossy else 1.0))
    if not lossy and not declared and rule.absent == "refuse":
        fault = "was compressed with loss, and LossyImageCompressionRatio (0028,2112) is absent"
        raise FoveolaError(tags.place, fault, MEND)
    if found > rule.lossy_ratio or rule.lossy_ratio == 1:
        fault = f"was compressed with loss, {found:.0f} : 1, at most {rule.lossy_ratio:g} : 1 is allowed"
        raise FoveolaError(tags.place, fault, MEND)


def _check_presentation(tags: Tags) -> None:
    intent = tags.text("PresentationIntentType")
    if intent not in ("", "FOR PRESENTATION"):
        fault = f"Presentation Intent Type (0008,0068) is {intent[:16]}"
        raise FoveolaError(tags.place, fault, "send the image FOR PRESENTATION")
    if "For Processing" in UID(tags.text("SOPClassUID")).name:
        raise FoveolaError(tags.place, f"is a {_kind(tags)} object", "send the image FOR PRESENTATION")


def _check(
    tags: Tags, rule: SourceRule, keyword: str, what: str, found: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
    if not allowed:
        return
    if not found:
        if rule.absent == "refuse":
            fault = f"says no {what}: {tags.named(keyword)} is absent or empty"
            raise FoveolaError(tags.place, fault, f"this bundle answers about {', '.join(allowed)}")
        return
    wrong = [value for value in found if value not in allowed]
    if wrong:
        fault = f"{what} {wrong[0][:64]} is not one that this bundle answers about"
        raise FoveolaError(tags.place, fault, f"send {' or '.join(allowed)}")


def _coded(tags: Tags, keyword: str, sequence: str) -> tuple[str, ...]:
    """Give the values of an element, else the meaning of the code that newer objects have in its place."""
    found = tags.texts(keyword)
    if found:
        return found
    return tuple(meaning for item in tags.items(sequence) for meaning in item.texts("CodeMeaning"))


def _kind(tags: Tags) -> str:
    """Name the SOP class in words where it is a registered one."""
    given = tags.text("SOPClassUID")
    return UID(given).name[:64] if given else "no SOP class"
