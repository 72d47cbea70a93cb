"""The structured report: TID 1500 Measurement Report in a Comprehensive SR (PS3.16 A, PS3.3 A.35.3).

Laws:
- Every group names the algorithm (TID 4019): name, version, digest of the bundle, engine.
- The first group says whether the image was answered about; where it was not, it holds the reasons and nothing else
  follows: no score.
- A probability stands with its threshold and the decision. A box is a region (SCOORD) of the source; only boxes at or
  above their threshold are drawn, so that no workstation marks what the bundle did not mark.
- An embedding is left out: it is no observation that a reader could check, and the standard has no place for it.
- The report is complete, preliminary and unverified: nobody has looked at it yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegmentationFrame,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    SourceImageForSegmentation,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from ..prediction import Box, Choice, Finding, Mask
from ..prediction import Measurement as Measured
from . import codes as house
from .case import Case
from .identity import MANUFACTURER
from .words import is_answered, shown

Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations
# Modality -> what was done, of CID 29 and 100; anything else is an imaging procedure.
PROCEDURES = {"CR": "ComputedRadiography", "DX": "DigitalRadiography", "OP": "OphthalmicPhotography"}


def make_report(case: Case) -> Dataset:
    """Write the report about a case."""
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(case.observer_uid),
            name=case.identity.name,
            manufacturer_name=MANUFACTURER,
            model_name=f"{case.identity.name} {case.identity.version}",
            serial_number=case.identity.digest,
        ),
    )
    content = MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_procedure(case.header),
        imaging_measurements=_groups(case),
        title=codes.DCM.ImagingMeasurementReport,
    )
    evidence = [case.header, *([_reference(case)] if case.has_segmentation else [])]
    return hd.sr.ComprehensiveSR(
        evidence=evidence,
        content=content,
        is_complete=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        coding_schemes=house.schemes(),
        specific_character_set="ISO_IR 192",
        **case.common("sr"),
    )


def _groups(case: Case) -> list[Group]:
    answer = case.prediction
    groups: list[Group] = [_summary(case)]
    if is_answered(answer):
        groups += [_finding(case, one) for one in answer.findings]
        groups += [_choice(case, one) for one in answer.choices]
        groups += [_measured(case, one) for one in answer.measurements]
        groups += [_mask(case, one, number) for number, one in enumerate(case.masks, 1)]
        positive = [box for box in answer.boxes if box.positive]
        groups += [_box(case, one, number) for number, one in enumerate(positive, 1)]
    return groups


def _summary(case: Case) -> MeasurementsAndQualitativeEvaluations:
    answered = is_answered(case.prediction)
    evaluations = [QualitativeEvaluation(house.ANSWER, house.ANSWERED if answered else house.NOT_ANSWERED)]
    quality = case.prediction.quality
    if quality is not None:
        evaluations.append(QualitativeEvaluation(codes.DCM.ImageQuality, house.FIT if quality.fit else house.NOT_FIT))
    group = _group(case, "image", evaluations=evaluations)
    for reason in quality.reasons if quality else ():
        # TID 1501 is extensible; a comment is the standard's own item for free text.
        group[0].ContentSequence.append(
            TextContentItem(codes.DCM.Comment, reason, hd.sr.RelationshipTypeValues.CONTAINS)
        )
    return group


def _finding(case: Case, one: Finding) -> MeasurementsAndQualitativeEvaluations:
    numbers = [
        _number(codes.DCM.Probability, one.probability),
        _number(codes.DCM.ThresholdValue, one.threshold),
    ]
    return _group(case, one.task, one.label, numbers=numbers, evaluations=[_decision(one.positive)])


def _choice(case: Case, one: Choice) -> MeasurementsAndQualitativeEvaluations:
    numbers = [
        _number(house.private("P", label, f"Probability of {shown(label)}"), probability)
        for label, probability in zip(one.classes, one.probabilities, strict=True)
    ]
    chosen = QualitativeEvaluation(house.private("T", one.task), house.label_term(one.label).concept)
    return _group(case, one.task, numbers=numbers, evaluations=[chosen])


def _measured(case: Case, one: Measured) -> MeasurementsAndQualitativeEvaluations:
    number = _number(house.private("M", one.name), one.value, house.unit_concept(one.unit))
    return _group(case, one.task, one.name, numbers=[number])


def _mask(case: Case, one: Mask, number: int) -> Group:
    numbers = [_number(codes.SCT.Area, one.area_px, house.PIXELS), _number(house.FRACTION, one.fraction)]
    if not case.has_segmentation:
        return _group(case, one.task, one.label, numbers=numbers)
    segment = ReferencedSegmentationFrame(
        sop_class_uid=SegmentationStorage,
        sop_instance_uid=case.instance_uid("seg"),
        frame_number=number,
        segment_number=number,
        source_image=SourceImageForSegmentation(*_source(case)),
    )
    # A frame holds one segment here, and where frames are named segments shall not be (PS3.3 table 10-3).
    del segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    term = house.label_term(one.label)
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(case, one.task, one.label),
        referenced_segment=segment,
        finding_type=term.concept,
        finding_sites=term.sites,
        algorithm_id=_algorithm(case),
        measurements=numbers,
    )


def _box(case: Case, one: Box, number: int) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    corners = [(one.x1, one.y1), (one.x2, one.y1), (one.x2, one.y2), (one.x1, one.y2), (one.x1, one.y1)]
    inside = np.clip(np.array(corners), 0, (int(case.header.Columns), int(case.header.Rows)))
    term = house.label_term(one.label)
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(case, one.task, one.label, f"box {number}"),
        referenced_region=ImageRegion("POLYLINE", inside, SourceImageForRegion(*_source(case))),
        finding_type=term.concept,
        finding_sites=term.sites,
        algorithm_id=_algorithm(case),
        measurements=[_number(codes.DCM.Probability, one.score)],
        qualitative_evaluations=[_decision(one.positive)],
    )


def _group(
    case: Case,
    *names: str,
    numbers: Sequence[Measurement] = (),
    evaluations: Sequence[QualitativeEvaluation] = (),
) -> MeasurementsAndQualitativeEvaluations:
    """A group about the whole image (TID 1501); the second name is the label that it is about."""
    term = house.label_term(names[1]) if len(names) > 1 else None
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(case, *names),
        finding_type=term.concept if term else None,
        finding_sites=term.sites if term else None,
        algorithm_id=_algorithm(case),
        measurements=numbers,
        qualitative_evaluations=evaluations,
        source_images=[SourceImageForMeasurementGroup(*_source(case))],
    )


def _number(name: CodedConcept, value: float, unit: CodedConcept | None = None) -> Measurement:
    # Nine digits give a float32 back exactly, and fit into the 16 characters of a DS (PS3.5 6.2).
    return Measurement(name=name, value=float(f"{value:.9g}"), unit=unit or codes.UCUM.NoUnits)


def _decision(positive: bool) -> QualitativeEvaluation:
    return QualitativeEvaluation(house.DECISION, codes.SCT.Positive if positive else codes.SCT.Negative)


def _algorithm(case: Case) -> AlgorithmIdentification:
    """TID 4019; the digest names every byte that took part in the answer."""
    identity = case.identity
    parameters = [f"bundle sha256={identity.digest}", *([f"engine={identity.engine}"] if identity.engine else [])]
    return AlgorithmIdentification(
        name=identity.name,
        version=identity.version,
        parameters=parameters,
        manufacturer=MANUFACTURER,
    )


def _tracking(case: Case, *names: str) -> TrackingIdentifier:
    return TrackingIdentifier(uid=hd.UID(case.uid("tracking", *names)), identifier=".".join(names))


def _source(case: Case) -> tuple[str, str]:
    return str(case.header.SOPClassUID), str(case.header.SOPInstanceUID)


def _procedure(header: Dataset) -> CodedConcept:
    keyword = PROCEDURES.get(str(header.get("Modality", "")))
    return house.standard("DCM", keyword) if keyword else house.standard("SCT", "ImagingProcedure")


def _reference(case: Case) -> Dataset:
    """What the report's list of evidence needs to know of the segmentation."""
    segmentation = Dataset()
    segmentation.StudyInstanceUID = case.header.StudyInstanceUID
    segmentation.SeriesInstanceUID = case.uid("series", "seg")
    segmentation.SOPInstanceUID = case.instance_uid("seg")
    segmentation.SOPClassUID = SegmentationStorage
    return segmentation
