"""NaN and infinity, which decimal strings can spell, are found in a header before anything computes with them."""

from __future__ import annotations

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from medseq.io.dicom.values import items, numbers

# What geometry, timing and scaling are computed from (PS3.3 C.7.6.2, C.7.6.16, C.8.3, C.8.13).
_KEYWORDS = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("RepetitionTime", "EchoTime", "EffectiveEchoTime", "TriggerTime", "NominalInterval", "TemporalResolution"),
    *("FrameTime", "FrameTimeVector", "NominalCardiacTriggerDelayTime", "ActualCardiacTriggerDelayTime"),
    *("NominalPercentageOfCardiacPhase", "RRIntervalTimeNominal", "TemporalPositionTimeOffset"),
    *("RescaleSlope", "RescaleIntercept", "RealWorldValueSlope", "RealWorldValueIntercept"),
)
_NUMBERS = frozenset(BaseTag(tag) for tag in map(tag_for_keyword, _KEYWORDS) if tag is not None)
_SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "RealWorldValueMappingSequence")


def check_finite(dataset: Dataset) -> None:
    """Raise InputError naming the attribute when one of geometry, timing or scaling is no finite number.

    Looks at the dataset itself and at its functional groups, shared and per frame.
    """
    _check(dataset)
    for key in _SEQUENCES:
        for item in items(dataset, key):
            _check_below(item)


def _check(dataset: Dataset) -> None:
    for tag in _NUMBERS & dataset.keys():
        numbers(dataset, tag)


def _check_below(dataset: Dataset) -> None:
    """The same, in all the public sequences below as well."""
    _check(dataset)
    for tag in list(dataset.keys()):
        if not tag.is_private and _is_sequence(dataset, tag):
            for item in items(dataset, tag):
                _check_below(item)


def _is_sequence(dataset: Dataset, tag: BaseTag) -> bool:
    """Whether an element is a sequence, without converting it; implicit encoding does not say it."""
    element: DataElement | RawDataElement = dataset.get_item(tag)
    return (element.VR or (dictionary_has_tag(tag) and dictionary_VR(tag))) == "SQ"
