"""The segmentation: one binary segment and one frame a mask, in the order of the answer (PS3.3 A.51).

Laws:
- A mask without a pixel keeps its frame: "looked, and found none" is another answer than "did not look".
- Segment, frame and place in the answer have the same number, from 1; masks may overlap.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from ..prediction import Mask
from . import codes as house
from .case import LONGEST, Case
from .identity import MANUFACTURER
from .words import mask_ink, shown

GEOMETRY = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness")


def make_segmentation(case: Case) -> Dataset:
    """Write the masks of a case; it has one at least."""
    stacked = np.stack([mask.pixels for mask in case.masks], axis=-1)[None]  # (1, H, W, segments)
    algorithm = _algorithm(case)
    made: Dataset = Segmentation(
        source_images=[_source(case.header)],
        pixel_array=stacked,
        segmentation_type="BINARY",
        segment_descriptions=[_description(case, one, n, algorithm) for n, one in enumerate(case.masks, 1)],
        omit_empty_frames=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="FOVEOLA",
        content_description=f"Masks of {case.identity.name}"[:LONGEST],
        coding_schemes=house.schemes(),
        **case.common("seg"),
    )
    made.PatientOrientation = case.header.get("PatientOrientation", "")  # type 2C
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = case.uid("dimensions")  # highdicom draws one by chance
    shared = made.SharedFunctionalGroupsSequence[0]
    if "PixelMeasuresSequence" in shared and not any(shared.PixelMeasuresSequence):
        del shared.PixelMeasuresSequence
    return made


def _source(header: Dataset) -> Dataset:
    """Give the header as highdicom asks for it, which expects of some pictures what they need not have.

    - A projection picture may name a frame of reference without any position in it. Its pixels' size stays with the
      source, to which every frame refers: highdicom reads no pixel measures without a slice thickness.
    - An ophthalmic picture has a number of frames, 1, and no functional groups.
    """
    source = Dataset()
    source.update(header)
    if not all(header.get(keyword) for keyword in GEOMETRY):
        for keyword in ("FrameOfReferenceUID", "PixelSpacing"):
            source.pop(keyword, None)
    if "SharedFunctionalGroupsSequence" not in header:
        groups = Dataset()
        groups.PixelMeasuresSequence = [Dataset()]
        source.SharedFunctionalGroupsSequence = [groups]
    return source


def _algorithm(case: Case) -> hd.AlgorithmIdentificationSequence:
    identity = case.identity
    parameters = {"bundle sha256": identity.digest, **({"engine": identity.engine} if identity.engine else {})}
    return hd.AlgorithmIdentificationSequence(
        name=identity.name[:LONGEST],
        version=identity.version[:LONGEST],
        family=codes.DCM.ArtificialIntelligence,
        source=MANUFACTURER,
        parameters=parameters,
    )


def _description(
    case: Case, mask: Mask, number: int, algorithm: hd.AlgorithmIdentificationSequence
) -> SegmentDescription:
    term = house.label_term(mask.label)
    standard = term.concept.scheme_designator != house.SCHEME
    # CID 7150. Of a label that the standard does not know nobody can say what kind of thing it is.
    category = codes.SCT.SpatialAndRelationalConcept
    if standard:
        category = codes.SCT.AnatomicalStructure if term.structure else codes.SCT.MorphologicallyAbnormalStructure
    description = SegmentDescription(
        segment_number=number,
        segment_label=shown(mask.label)[:LONGEST] or str(number),
        segmented_property_category=category,
        segmented_property_type=term.concept,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=case.uid("tracking", mask.task, mask.label),
        tracking_id=f"{mask.task}.{mask.label}",
        display_color=CIELabColor.from_rgb(*mask_ink(number - 1)),
    )
    if term.side is not None:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [term.side]
    return description
