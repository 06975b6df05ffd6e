"""The Enhanced MR object that any vendor would put a pretended exam into: many frames a file (PS3.3 A.36)."""

from __future__ import annotations

import numpy as np
from dicom_exam import (
    ACROSS,
    COLUMN_SPACING,
    COLUMNS,
    DOWN,
    ROW_SPACING,
    ROWS,
    RR,
    STEP,
    TR,
    Exam,
    clock,
    common,
    decimal,
    decimals,
    item,
    pixels,
    sequence,
    window,
)
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage

HEART = {"CodeValue": "80891009", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Heart"}
BRAIN = {"CodeValue": "12738006", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Brain"}
# The words of PS3.3 C.8.13.3.1: complex image component of a frame.
COMPONENT = {"M": "MAGNITUDE", "P": "PHASE", "R": "REAL", "I": "IMAGINARY"}
DIMENSIONS = ("StackID", "InStackPositionNumber", "TemporalPositionIndex")


def frame_groups(exam: Exam, b: int, t: int, component: str, scale: tuple[float, float]) -> Dataset:
    """The per-frame functional groups of one frame (PS3.3 C.7.6.16, C.8.13.5)."""
    acquired = "20240229" + clock(exam.begin(b, t))
    groups = item(
        FrameContentSequence=sequence(
            FrameAcquisitionNumber=t + 1,
            FrameReferenceDateTime=acquired,
            FrameAcquisitionDateTime=acquired,
            FrameAcquisitionDuration=40.0,
            StackID="1",
            InStackPositionNumber=b + 1,
            TemporalPositionIndex=t + 1,
            DimensionIndexValues=[1, b + 1, t + 1],
        ),
        PlanePositionSequence=sequence(ImagePositionPatient=decimals(exam.position(b))),
        MRImageFrameTypeSequence=sequence(
            FrameType=["ORIGINAL", "PRIMARY", "CARDIAC" if exam.is_cine else "FMRI", "NONE"],
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
            ComplexImageComponent=COMPONENT[component],
            AcquisitionContrast="UNKNOWN",
        ),
        PixelValueTransformationSequence=sequence(
            RescaleIntercept=decimal(scale[1]), RescaleSlope=decimal(scale[0]), RescaleType="US"
        ),
        FrameVOILUTSequence=sequence(**window(exam.stored(b, t, component))),
    )
    if exam.is_cine:
        groups.CardiacSynchronizationSequence = sequence(
            NominalCardiacTriggerDelayTime=1000.0 * exam.triggers[b, t],
            NominalPercentageOfCardiacPhase=100.0 * t / exam.frames,
            RRIntervalTimeNominal=1000.0 * exam.cycles[b],
        )
    return groups


def shared_groups(exam: Exam) -> Dataset:
    """The shared functional groups (PS3.3 C.8.13.5)."""
    return item(
        PlaneOrientationSequence=sequence(ImageOrientationPatient=decimals(np.r_[ACROSS, DOWN])),
        PixelMeasuresSequence=sequence(
            PixelSpacing=decimals(np.array([ROW_SPACING, COLUMN_SPACING])),
            SliceThickness=decimal(6),
            SpacingBetweenSlices=decimal(STEP),
        ),
        MRTimingAndRelatedParametersSequence=sequence(
            RepetitionTime=decimal(41.2 if exam.is_cine else 1000 * TR),
            FlipAngle=decimal(50),
            EchoTrainLength=1,
            RFEchoTrainLength=0,
            GradientEchoTrainLength=1,
            SpecificAbsorptionRateSequence=sequence(
                SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=0.1
            ),
            OperatingModeSequence=sequence(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL"),
        ),
        MREchoSequence=sequence(EffectiveEchoTime=1.4 if exam.is_cine else exam.echo),
        FrameAnatomySequence=sequence(
            FrameLaterality="U", AnatomicRegionSequence=sequence(**(HEART if exam.is_cine else BRAIN))
        ),
        MRAveragesSequence=sequence(NumberOfAverages=1.0),
        MRFOVGeometrySequence=sequence(
            InPlanePhaseEncodingDirection="COLUMN",
            MRAcquisitionFrequencyEncodingSteps=COLUMNS,
            MRAcquisitionPhaseEncodingStepsInPlane=ROWS,
            PercentSampling=decimal(100),
            PercentPhaseFieldOfView=decimal(100),
        ),
        **_hardware(),
    )


def _hardware() -> dict[str, Sequence]:
    """What the standard wants to hear about coils and preparation, all of it unremarkable."""
    return {
        "MRModifierSequence": sequence(
            InversionRecovery="NO",
            FlowCompensation="NONE",
            Spoiling="RF",
            T2Preparation="NO",
            SpectrallySelectedExcitation="NONE",
            SpatialPresaturation="NONE",
            PartialFourier="NO",
            ParallelAcquisition="NO",
        ),
        "MRImagingModifierSequence": sequence(
            MagnetizationTransfer="NONE",
            BloodSignalNulling="NO",
            Tagging="NONE",
            TransmitterFrequency=123.25,
            PixelBandwidth=decimal(900),
        ),
        "MRReceiveCoilSequence": sequence(
            ReceiveCoilName="Body",
            ReceiveCoilManufacturerName="",
            ReceiveCoilType="BODY",
            QuadratureReceiveCoil="YES",
        ),
        "MRTransmitCoilSequence": sequence(
            TransmitCoilName="Body", TransmitCoilManufacturerName="", TransmitCoilType="BODY"
        ),
    }


def enhanced(
    exam: Exam, cells: list[tuple[int, int, str]], stored: np.ndarray, scales: dict[str, tuple[float, float]]
) -> Dataset:
    """One Enhanced MR object of the given (slice, frame, component) in this order (PS3.3 A.36)."""
    dataset = common(exam)
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.SOPInstanceUID = exam.uid("instance", *cells)
    dataset.SeriesInstanceUID = exam.uid("series")
    dataset.SeriesNumber = exam.number
    dataset.InstanceNumber = 1
    first = min(exam.begin(b, t) for b, t, _ in cells)
    dataset.ContentTime = dataset.AcquisitionTime = clock(first)
    dataset.AcquisitionDateTime = "20240229" + clock(first)
    dataset.AcquisitionNumber = 1
    dataset.AcquisitionDuration = 1000.0
    dataset.MagneticFieldStrength = 3.0
    dataset.PulseSequenceName = "phantom"
    dataset.MRAcquisitionType = "2D"
    dataset.EchoPulseSequence = "GRADIENT"
    dataset.EchoPlanarPulseSequence = "NO" if exam.is_cine else "YES"
    dataset.update(_pulse_sequence())
    dataset.CardiacSynchronizationTechnique = "RETROSPECTIVE" if exam.is_cine else "NONE"
    if exam.is_cine:
        dataset.update(_heart_beats())
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "CARDIAC" if exam.is_cine else "FMRI", "NONE"]
    dataset.PixelPresentation = "MONOCHROME"
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    components = {component for _, _, component in cells}
    dataset.ComplexImageComponent = COMPONENT[components.pop()] if len(components) == 1 else "MIXED"
    dataset.AcquisitionContrast = "UNKNOWN"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.AcquisitionContextSequence = Sequence()
    dataset.NumberOfFrames = len(cells)
    organization = exam.uid("dimensions")
    dataset.DimensionOrganizationSequence = sequence(DimensionOrganizationUID=organization)
    dataset.DimensionIndexSequence = Sequence(
        item(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=tag_for_keyword(name),
            FunctionalGroupPointer=tag_for_keyword("FrameContentSequence"),
        )
        for name in DIMENSIONS
    )
    dataset.SharedFunctionalGroupsSequence = Sequence([shared_groups(exam)])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        frame_groups(exam, b, t, component, scales[component]) for b, t, component in cells
    )
    pixels(dataset, stored)
    return dataset


def _pulse_sequence() -> Dataset:
    """The rest of the MR Pulse Sequence and MR Image modules (PS3.3 C.8.13.4), all of it unremarkable."""
    return item(
        ResonantNucleus="1H",
        KSpaceFiltering="NONE",
        ApplicableSafetyStandardAgency="IEC",
        ContentQualification="PRODUCT",
        MultiPlanarExcitation="NO",
        PhaseContrast="NO",
        SteadyStatePulseSequence="NONE",
        SaturationRecovery="NO",
        SpectrallySelectedSuppression="NONE",
        GeometryOfKSpaceTraversal="RECTILINEAR",
        RectilinearPhaseEncodeReordering="LINEAR",
        SegmentedKSpaceTraversal="SINGLE",
        NumberOfKSpaceTrajectories=1,
        OversamplingPhase="NONE",
        TimeOfFlightContrast="NO",
        RespiratoryMotionCompensationTechnique="NONE",
    )


def _heart_beats() -> Dataset:
    """The Cardiac Synchronization module (PS3.3 C.7.6.18.1)."""
    return item(
        CardiacSignalSource="ECG",
        CardiacRRIntervalSpecified=1000.0 * RR,
        CardiacBeatRejectionTechnique="NONE",
        LowRRValue=700,
        HighRRValue=900,
        IntervalsAcquired=10,
        IntervalsRejected=0,
    )
