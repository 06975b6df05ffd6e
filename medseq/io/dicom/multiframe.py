"""All images of a derived series as one Enhanced MR object (PS3.3 A.36), for readers that prefer one file."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sr.codedict import codes
from pydicom.uid import EnhancedMRImageStorage

from medseq.clip import Clip
from medseq.io.dicom import values
from medseq.io.dicom.classic import copied, decimal, item, same_study
from medseq.io.dicom.derived import NewSeries, code_item, mapping_item
from medseq.io.dicom.kept import EQUIPMENT, SERIES, keywords
from medseq.io.dicom.series import Kind
from medseq.io.dicom.uids import content_uid

# In these all the images agree.
_COMMON = keywords(
    "SeriesInstanceUID ImageComments ContentQualification BurnedInAnnotation LossyImageCompression "
    "LossyImageCompressionRatio LossyImageCompressionMethod PresentationLUTShape CodingSchemeIdentificationSequence "
    "ContributingEquipmentSequence Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored "
    "HighBit ContentDate ContentTime MagneticFieldStrength RepetitionTime EchoTime FlipAngle"
)
_FLAVOURS: dict[Kind, str] = {"cine": "CARDIAC", "bold": "FMRI", "perfusion": "PERFUSION", "other": "OTHER"}
_DIMENSIONS = ("StackID", "InStackPositionNumber", "TemporalPositionIndex")
# Enhanced General Equipment (PS3.3 C.7.5.2) demands what a classic source may leave out.
_MUST_BE_KNOWN = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions")


def enhanced_image(images: Sequence[Dataset], clip: Clip, series: NewSeries, kind: Kind) -> Dataset:
    """One Enhanced MR object of the classic `images` of a derived series, numbered phase by phase.

    kind: of the source. Dimensions are the position in the stack and the index in time. Rescale and real world mapping
    are both written, as an enhanced object may have either. The macros of pulse sequence and timing, mandatory in
    originals only, are left out: no classic source tells all of what they demand (specific absorption, operating
    mode). Its repetition time, echo time and flip angle stand beside them, where converters look as well.
    """
    first = images[0]
    dataset = same_study(first)
    dataset.update(copied(first, (*SERIES, *EQUIPMENT, *_COMMON)))
    dataset.setdefault("PositionReferenceIndicator", None)
    for keyword in _MUST_BE_KNOWN:
        if values.text(dataset, keyword) is None:
            setattr(dataset, keyword, "unknown")
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.SOPInstanceUID = content_uid([series.uid, "enhanced"])
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = len(images)
    if any("SyntheticData" in image for image in images):
        dataset.SyntheticData = "YES"
    dataset.update(_image_description(first, kind))
    dataset.PixelRepresentation = first.PixelRepresentation
    dataset.AcquisitionContextSequence = []
    dataset.ApplicableSafetyStandardAgency = "UNKNOWN"  # mandatory, but no classic header says it
    _add_dimensions(dataset)
    dataset.SharedFunctionalGroupsSequence = [_shared_groups(first, series, kind)]
    dataset.PerFrameFunctionalGroupsSequence = [_frame_groups(image, clip) for image in images]
    dataset.SourceImageEvidenceSequence = [
        item(StudyInstanceUID=first.StudyInstanceUID, ReferencedSeriesSequence=_all_references(images))
    ]
    dataset.add_new("PixelData", "OW", b"".join(image.PixelData for image in images))
    return dataset


def _image_description(image: Dataset, kind: Kind) -> Dataset:
    """What PS3.3 C.8.13.3 says of object and frames alike (the MR Image Description macro aside from the type)."""
    return item(
        ImageType=["DERIVED", "PRIMARY", _FLAVOURS[kind], "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        ComplexImageComponent="PHASE" if "P" in image.ImageType else "MAGNITUDE",
        AcquisitionContrast="UNKNOWN",
    )


def _add_dimensions(dataset: Dataset) -> None:
    organization = content_uid([dataset.SOPInstanceUID, "dimensions"])
    dataset.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organization)]
    dataset.DimensionIndexSequence = [
        item(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=tag_for_keyword(name),
            FunctionalGroupPointer=tag_for_keyword("FrameContentSequence"),
            DimensionDescriptionLabel=name,
        )
        for name in _DIMENSIONS
    ]


def _shared_groups(image: Dataset, series: NewSeries, kind: Kind) -> Dataset:
    """What all frames have in common (PS3.3 C.7.6.16.2, C.8.13.5)."""
    frame_type = _image_description(image, kind)
    frame_type.FrameType = frame_type.ImageType
    del frame_type.ImageType
    scale = series.scale
    return item(
        PixelMeasuresSequence=[copied(image, ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"))],
        PlaneOrientationSequence=[copied(image, ("ImageOrientationPatient",))],
        FrameAnatomySequence=[item(FrameLaterality="U", AnatomicRegionSequence=[_region(image)])],
        MRImageFrameTypeSequence=[frame_type],
        FrameVOILUTSequence=[copied(image, ("WindowCenter", "WindowWidth"))],
        PixelValueTransformationSequence=[
            item(RescaleSlope=decimal(scale.slope), RescaleIntercept=decimal(scale.intercept), RescaleType="US")
        ],
        RealWorldValueMappingSequence=[mapping_item(series)],
    )


def _region(image: Dataset) -> Dataset:
    """Frame Anatomy is mandatory in Enhanced MR, but a classic source need not say more than a word."""
    known = values.items(image, "AnatomicRegionSequence")
    if known:
        return known[0]
    regions = {"HEART": codes.SCT.Heart, "BRAIN": codes.SCT.Brain}
    return code_item(regions.get(values.text(image, "BodyPartExamined") or "", codes.SCT.EntireBody))


def _frame_groups(image: Dataset, clip: Clip) -> Dataset:
    """What is a frame's own: its place in space and time, and its sources."""
    time, position = divmod(image.InstanceNumber - 1, clip.data.shape[0])
    content = item(
        StackID="1",
        InStackPositionNumber=position + 1,
        TemporalPositionIndex=time + 1,
        DimensionIndexValues=[1, position + 1, time + 1],
    )
    day, clock = values.text(image, "AcquisitionDate"), values.text(image, "AcquisitionTime")
    if day and clock:
        content.FrameAcquisitionDateTime = content.FrameReferenceDateTime = day + clock
    groups = item(
        FrameContentSequence=[content],
        PlanePositionSequence=[copied(image, ("ImagePositionPatient",))],
        DerivationImageSequence=[
            copied(image, ("DerivationDescription", "DerivationCodeSequence", "SourceImageSequence"))
        ],
    )
    if clip.period is None:
        groups.TemporalPositionSequence = [item(TemporalPositionTimeOffset=float(clip.times[time] - clip.times[0]))]
    else:
        groups.CardiacSynchronizationSequence = [_cardiac(image, time, clip.frames, clip.period)]
    return groups


def _cardiac(image: Dataset, time: int, frames: int, period: float) -> Dataset:
    """The Cardiac Synchronization macro (PS3.3 C.7.6.16.2.7): milliseconds after the R wave, on the slice's clock."""
    return item(
        NominalCardiacTriggerDelayTime=float(image.TriggerTime),
        NominalPercentageOfCardiacPhase=100.0 * time / frames,
        RRIntervalTimeNominal=values.number(image, "NominalInterval") or 1000.0 * period,
    )


def _all_references(images: Sequence[Dataset]) -> list[Dataset]:
    """The images' ReferencedSeriesSequence joined: each series once, each object in it once."""
    found: dict[str, dict[str, Dataset]] = {}
    for series in (series for image in images for series in image.ReferencedSeriesSequence):
        instances = found.setdefault(series.SeriesInstanceUID, {})
        instances.update({one.ReferencedSOPInstanceUID: one for one in series.ReferencedInstanceSequence})
    return [
        item(SeriesInstanceUID=uid, ReferencedSOPSequence=list(instances.values())) for uid, instances in found.items()
    ]
