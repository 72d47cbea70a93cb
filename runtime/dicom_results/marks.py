"""The presentation state: outlines, boxes and caption as graphics over the source (PS3.3 A.33).

Laws:
- A grey source gets a Grayscale, a coloured one a Color Softcopy Presentation State.
- The source's own grey transformations are taken over. A presentation state overrides the photometric interpretation
  (PS3.4 N.2.1.4), so that MONOCHROME1 has to be said again, as Presentation LUT Shape INVERSE.
- Every label has a layer of its own, so that it can be hidden and has its colour.
"""

from __future__ import annotations

import struct

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.pr import (
    ColorSoftcopyPresentationState,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    TextObject,
)
from PIL.ImageCms import ImageCmsProfile, createProfile
from pydicom.dataset import Dataset

from ..prediction import Box, Mask
from .case import LONGEST, Case
from .contour import Polygon, outlines
from .header import side_of
from .words import Ink, box_ink, caption, is_answered, mask_ink, shown

MOST_POLYGONS = 256  # of a mask; the longest
DEVICE_CLASS, CREATED = slice(12, 16), slice(24, 36)  # in the header of an ICC profile (ICC.1, 7.2)
MOST_TEXT = 1000  # characters; ST holds 1024 (PS3.5 6.2)


def make_marks(case: Case) -> Dataset:
    """Write the graphics of a case over its source."""
    layers, annotations = [], []
    for layer, annotation in _parts(case):
        layers.append(layer)
        annotations.append(annotation)
    shared = {
        "referenced_images": [_source(case.header)],
        "content_label": "FOVEOLA",
        "content_description": f"Marks of {case.identity.name}"[:LONGEST],
        "graphic_layers": layers,
        "graphic_annotations": annotations,
        **case.common("gsps"),
    }
    if _is_grey(case.header):
        shape = _shape(case.header)
        made: Dataset = GrayscaleSoftcopyPresentationState(presentation_lut_transformation=shape, **shared)
    else:
        made = ColorSoftcopyPresentationState(icc_profile=_profile(case.header), **shared)
    made.Laterality = side_of(case.header)  # type 2C
    return made


def _is_grey(header: Dataset) -> bool:
    return str(header.get("PhotometricInterpretation")) in ("MONOCHROME1", "MONOCHROME2")


def _source(header: Dataset) -> Dataset:
    """Give the header as highdicom asks for it.

    - A palette picture is coloured, and yet has one sample a pixel.
    - Of a lookup table and a window, between which PS3.3 C.11.2.1 leaves the choice, the table is shown here as there.
    """
    source = Dataset()
    source.update(header)
    if not _is_grey(header):
        source.SamplesPerPixel = 3
    if header.get("VOILUTSequence"):
        for keyword in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"):
            source.pop(keyword, None)
    return source


def _profile(header: Dataset) -> bytes:
    """Give the source's ICC profile where it is one of an input device or a colour space, as PS3.3 C.11.15 asks.

    Else sRGB: as an input profile, which has the same tags as the display's (ICC.1 8.3.3 and 8.4.3), of a fixed date.
    """
    own = bytes(header.get("ICCProfile") or b"")
    if own[DEVICE_CLASS] in (b"scnr", b"spac"):
        return own
    profile = bytearray(ImageCmsProfile(createProfile("sRGB")).tobytes())
    profile[DEVICE_CLASS] = b"scnr"
    profile[CREATED] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)


def _shape(header: Dataset) -> hd.PresentationLUTTransformation:
    shape = str(header.get("PresentationLUTShape") or "")
    if shape not in ("IDENTITY", "INVERSE"):
        shape = "INVERSE" if header.PhotometricInterpretation == "MONOCHROME1" else "IDENTITY"
    return hd.PresentationLUTTransformation(presentation_lut_shape=shape)


def _parts(case: Case) -> list[tuple[GraphicLayer, GraphicAnnotation]]:
    parts = [_annotation(case, "CAPTION", 1, "Caption", (255, 255, 255), texts=[_caption(case)])]
    if not is_answered(case.prediction):
        return parts
    for index, mask in enumerate(case.masks):
        shapes = _outline(mask)
        if shapes:
            parts.append(_annotation(case, f"MASK {index + 1}", len(parts) + 1, mask.label, mask_ink(index), shapes))
    positive = [box for box in case.prediction.boxes if box.positive]
    for index, label in enumerate(dict.fromkeys(box.label for box in case.prediction.boxes)):
        those = [box for box in positive if box.label == label]
        if those:
            ink = box_ink(case.prediction, label)
            shapes, texts = [_rectangle(case, box) for box in those], [_label(case, box) for box in those]
            parts.append(_annotation(case, f"BOX {index + 1}", len(parts) + 1, label, ink, shapes, texts))
    return parts


def _annotation(
    case: Case,
    name: str,
    order: int,
    description: str,
    ink: Ink,
    shapes: list[GraphicObject] | None = None,
    texts: list[TextObject] | None = None,
) -> tuple[GraphicLayer, GraphicAnnotation]:
    layer = GraphicLayer(
        layer_name=f"FOVEOLA {name}"[:16],
        order=order,
        description=shown(description)[:LONGEST] or name,
        display_color=CIELabColor.from_rgb(*ink),
    )
    return layer, GraphicAnnotation([_source(case.header)], layer, graphic_objects=shapes, text_objects=texts)


def _outline(mask: Mask) -> list[GraphicObject]:
    return [
        GraphicObject(graphic_type="POLYLINE", graphic_data=polygon, units="PIXEL")
        for polygon in outlines(mask.pixels)[:MOST_POLYGONS]
    ]


def _corners(case: Case, box: Box) -> Polygon:
    corners: Polygon = np.array([(box.x1, box.y1), (box.x2, box.y2)])
    return np.clip(corners, 0, (int(case.header.Columns), int(case.header.Rows)), out=corners)


def _rectangle(case: Case, box: Box) -> GraphicObject:
    (x1, y1), (x2, y2) = _corners(case, box)
    points = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)])
    return GraphicObject(graphic_type="POLYLINE", graphic_data=points, units="PIXEL")


def _label(case: Case, box: Box) -> TextObject:
    x, y = _corners(case, box)[0].tolist()
    words = f"{shown(box.label)} {box.score:.2f}"
    return TextObject(words, units="PIXEL", anchor_point=(x, y), anchor_point_visible=False)


def _caption(case: Case) -> TextObject:
    """In the lower left quarter of the display, whatever the magnification (units DISPLAY, PS3.3 C.10.5)."""
    words = "\r\n".join(line.text for line in caption(case.prediction, case.identity))[:MOST_TEXT]
    return TextObject(words, units="DISPLAY", bounding_box=(0.01, 0.7, 0.5, 0.99), text_justification="LEFT")
