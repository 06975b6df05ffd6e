"""The header of one classic single-frame MR image, whatever object the frame came in.

Classic MR Image Storage is what every archive and viewer takes. A derived image keeps what the standard defines for
it (PS3.3 A.4) and nothing else, so that no private attribute, overlay, icon or padding of the source goes stale in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy

import numpy as np
from pydicom import DataElement, Dataset, Sequence, config
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.valuerep import STR_VR, DSfloat, validate_value

from medseq.io.dicom import values
from medseq.io.dicom.kept import KEPT, MAY_BE_EMPTY, PATIENT, STUDY
from medseq.io.dicom.series import Frame

# Where the functional groups of an enhanced object (PS3.3 C.7.6.16, C.8.13.5) hold what a classic header says flatly.
_IN_GROUPS = {
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", "SpacingBetweenSlices"),
    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
    "AnatomicRegionSequence": ("FrameAnatomySequence", "AnatomicRegionSequence"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "EchoTrainLength": ("MRTimingAndRelatedParametersSequence", "EchoTrainLength"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "NumberOfAverages": ("MRAveragesSequence", "NumberOfAverages"),
    "ImagingFrequency": ("MRImagingModifierSequence", "TransmitterFrequency"),
    "PixelBandwidth": ("MRImagingModifierSequence", "PixelBandwidth"),
    "ReceiveCoilName": ("MRReceiveCoilSequence", "ReceiveCoilName"),
    "TransmitCoilName": ("MRTransmitCoilSequence", "TransmitCoilName"),
    "PercentSampling": ("MRFOVGeometrySequence", "PercentSampling"),
    "PercentPhaseFieldOfView": ("MRFOVGeometrySequence", "PercentPhaseFieldOfView"),
    "NumberOfPhaseEncodingSteps": ("MRFOVGeometrySequence", "MRAcquisitionPhaseEncodingStepsInPlane"),
    "InPlanePhaseEncodingDirection": ("MRFOVGeometrySequence", "InPlanePhaseEncodingDirection"),
    "TriggerTime": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "NominalInterval": ("CardiacSynchronizationSequence", "RRIntervalTimeNominal"),
}
_COMPONENTS = {"MAGNITUDE": "M", "PHASE": "P", "REAL": "R", "IMAGINARY": "I"}
_CLASSIC_WORDS = {"COLUMN": "COL"}  # PS3.3 C.8.13.5.3 against C.8.3.1


def classic_header(header: Dataset, frame: Frame) -> Dataset:
    """What a classic MR image of `frame` says of its patient, study, equipment, acquisition, plane and time.

    header: of the frame's file: a classic image, a Siemens mosaic, or an enhanced or legacy converted multi-frame
    object. SOP class, UIDs of series and instance, matrix and pixels are left to the caller. Decimal strings are at
    most 16 characters long; beyond patient and study, what is empty, not finite or breaks its value representation is
    dropped.
    Raises InputError when the header is broken.
    """
    with values.dicom_faults_named(frame.path), values.quiet():
        target = same_study(header)
        target.update(copied(header, KEPT))
        if "SharedFunctionalGroupsSequence" in header:
            _add_groups(target, header, frame.index)
        for keyword in MAY_BE_EMPTY:
            if keyword not in target:
                setattr(target, keyword, None)
        target.ImagePositionPatient = decimals(frame.position)
        if "ImageOrientationPatient" in target:
            target.SliceLocation = decimal(_along_normal(target))
        target.ImageType = ["DERIVED", "SECONDARY", *_flavours(target)]
    return target


def decimal(value: float) -> DSfloat:
    """A decimal string of at most 16 characters, as the standard has it and pydicom by default has not.

    One that was read keeps its spelling where that is short enough.
    """
    return DSfloat(value if isinstance(value, DSfloat) else float(value), auto_format=True)


def decimals(numbers: Iterable[float]) -> list[DSfloat]:
    """Several of them."""
    return [decimal(number) for number in numbers]


def item(**attributes: object) -> Dataset:
    """A dataset of the given attributes, as an item of a sequence."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def copied(source: Dataset, keywords: Iterable[str]) -> Dataset:
    """Of the named attributes those that are filled and valid; nothing private, at any depth."""
    target = Dataset()
    for keyword in keywords:
        if keyword in source and (element := _cleaned(source[keyword])) is not None:
            target.add(element)
    return target


def same_study(source: Dataset) -> Dataset:
    """Patient and study as the source tells them, empty or invalid as they may be, but for what is private."""
    target = Dataset()
    with values.quiet():  # what warns of an invalid value quotes it
        for keyword in (*PATIENT, *STUDY):
            if keyword in source:
                element = source[keyword]
                target.add(_cleaned(element) or DataElement(element.tag, element.VR, deepcopy(element.value)))
        target.remove_private_tags()
    return target


def _cleaned(element: DataElement) -> DataElement | None:
    """The element without what is private or invalid in it, or None when nothing of it remains."""
    if element.is_empty:
        return None
    if element.VR == "SQ":
        items = [copied(inner, [e.keyword for e in inner if e.keyword]) for inner in element.value]
        kept = [inner for inner in items if len(inner)]
        return DataElement(element.tag, "SQ", Sequence(kept)) if kept else None
    content = list(element.value) if isinstance(element.value, MultiValue) else [element.value]
    if any(isinstance(value, float) and not math.isfinite(value) for value in content):
        return None
    if element.VR == "DS":
        content = decimals(content)
    elif element.VR in STR_VR:
        try:
            for value in content:
                validate_value(element.VR, str(value), config.RAISE)
        except ValueError:
            return None
    return DataElement(element.tag, element.VR, content[0] if len(content) == 1 else content)


def _add_groups(target: Dataset, header: Dataset, index: int) -> None:
    """Fill in what the functional groups of frame `index` say; the frame's own come before the shared ones."""
    groups = [header.PerFrameFunctionalGroupsSequence[index], header.SharedFunctionalGroupsSequence[0]]
    for name in ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence"):
        for group in groups:  # a legacy converted object keeps its classic attributes whole (PS3.3 C.7.6.16.2.25)
            for converted in values.items(group, name):
                target.update(copied(converted, KEPT))
    for keyword, (macro, attribute) in _IN_GROUPS.items():
        found = next((inner for group in groups for inner in values.items(group, macro) if attribute in inner), None)
        if found is not None:
            _add_as_classic(target, keyword, found[attribute])
    frame_type = next((inner for group in groups for inner in values.items(group, "MRImageFrameTypeSequence")), header)
    component = _COMPONENTS.get(values.text(frame_type, "ComplexImageComponent") or "", "M")
    flavours = values.words(frame_type, "FrameType") or values.words(header, "ImageType")
    target.ImageType = ["ORIGINAL", "PRIMARY", component, *(word for word in flavours[2:] if word != "NONE")]
    content = next((inner for group in groups for inner in values.items(group, "FrameContentSequence")), Dataset())
    acquired = values.text(content, "FrameAcquisitionDateTime") or values.text(header, "AcquisitionDateTime")
    if acquired and len(acquired) >= 14:
        target.AcquisitionDate, target.AcquisitionTime = acquired[:8], acquired[8:].split("+")[0].split("-")[0]
    _add_sequence_words(target, header)


def _add_as_classic(target: Dataset, keyword: str, element: DataElement) -> None:
    """The element under another keyword and in its value representation: FD becomes DS or IS."""
    if element.is_empty:
        return
    representation, value = dictionary_VR(keyword), element.value
    if representation == "IS":
        value = round(float(value))
    elif representation == "DS":
        several = isinstance(value, MultiValue)
        value = decimals(value) if several else decimal(value)
    elif representation == "CS":
        value = _CLASSIC_WORDS.get(value, value)
    cleaned = _cleaned(DataElement(keyword, representation, value))
    if cleaned is not None:
        target.add(cleaned)


def _add_sequence_words(target: Dataset, header: Dataset) -> None:
    """What PS3.3 C.8.13.4 says of the pulse sequence, in the words of C.8.3.1."""
    spins = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}
    planar = ["EP"] if values.text(header, "EchoPlanarPulseSequence") == "YES" else []
    target.setdefault("ScanningSequence", [*planar, *spins.get(values.text(header, "EchoPulseSequence") or "", [])])
    if not target.ScanningSequence:
        target.ScanningSequence = "RM"  # "research mode": the one word that claims nothing
    segmented = values.text(header, "SegmentedKSpaceTraversal") not in (None, "SINGLE")
    steady = values.text(header, "SteadyStatePulseSequence") not in (None, "NONE")
    variants = ["SK"] * segmented + ["SS"] * steady
    target.setdefault("SequenceVariant", variants or ["NONE"])
    if values.text(header, "CardiacSynchronizationTechnique") not in (None, "NONE"):
        pulse = values.text(header, "CardiacSignalSource") == "PPG"
        target.setdefault("ScanOptions", "PPG" if pulse else "CG")
    for keyword, enhanced in {"ImagedNucleus": "ResonantNucleus", "SequenceName": "PulseSequenceName"}.items():
        if enhanced in header:
            _add_as_classic(target, keyword, header[enhanced])


def _flavours(target: Dataset) -> list[str]:
    """Values 3 and onward of ImageType (PS3.3 C.8.3.1.1.1); a mosaic is none any more once its tiles are apart."""
    words = [word for word in values.words(target, "ImageType")[2:] if word and word != "MOSAIC"]
    return words or ["OTHER"]


def _along_normal(target: Dataset) -> float:
    """Millimetres along the slice normal (PS3.3 C.7.6.2.1.2), which is how viewers sort slices."""
    across, down = np.array(target.ImageOrientationPatient, dtype=float).reshape(2, 3)
    return float(np.cross(across, down) @ np.array(target.ImagePositionPatient, dtype=float))
