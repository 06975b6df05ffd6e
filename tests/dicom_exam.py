"""What a pretended MR exam measures, and the classic DICOM image that any vendor would put it into.

Every stored value says where it was: column, row, slice and frame, so that no mirrored axis and no swapped pair of
frames can go unseen. Voxels are anisotropic, the matrix is not square, the plane is oblique to all three axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat

COLUMNS, ROWS = 24, 20
ROW_SPACING, COLUMN_SPACING, STEP = 2.0, 1.5, 8.0
# Direction cosines of a row and of a column (LPS), rounded as a scanner writes them.
ACROSS = np.array([0.6, 0.8, 0.0])
DOWN = np.array([-0.48, 0.36, 0.8])
NORMAL = np.cross(ACROSS, DOWN)
ORIGIN = np.array([11.25, -37.5, 22.75])
HEADS_UP = np.diag([-1.0, -1.0, 1.0])  # LPS -> RAS
RR, DELAY = 0.8, 0.0125
TR = 1.5
PHASE_LEVELS = 4096


@dataclass(frozen=True)
class Exam:
    """What is scanned. kind: "cine" or "bold". components: of "M", "P", "R", "I". jitter: relative spread of the
    heart's cycle over the slices. echo: milliseconds. name: makes the UIDs of one exam differ from another's.
    step: LPS millimetres from slice to slice. missing: (slice, frame) that were lost."""

    kind: str
    slices: int
    frames: int
    components: tuple[str, ...] = ("M",)
    jitter: float = 0.0
    echo: float = 30.0
    name: str = "exam"
    number: int = 7
    missing: tuple[tuple[int, int], ...] = ()
    step: np.ndarray = field(default_factory=lambda: STEP * NORMAL)

    def uid(self, *parts: object) -> str:
        return generate_uid(entropy_srcs=[f"{part}/" for part in (self.name, self.kind, *parts)])

    @property
    def is_cine(self) -> bool:
        return self.kind == "cine"

    @cached_property
    def cycles(self) -> np.ndarray:
        """(B,) seconds of the heart's cycle while each slice was scanned."""
        spread = np.linspace(-1, 1, self.slices) if self.slices > 1 else np.zeros(1)
        return np.round(RR * (1 + self.jitter * spread), 3)

    @cached_property
    def triggers(self) -> np.ndarray:
        """(B, T) seconds from the R wave to each frame."""
        return DELAY + self.cycles[:, None] * np.arange(self.frames) / self.frames

    @cached_property
    def slice_times(self) -> np.ndarray:
        """(B,) seconds from the start of a volume: even slices first, then odd ones."""
        order = np.r_[0 : self.slices : 2, 1 : self.slices : 2]
        return np.argsort(order) * TR / self.slices

    def begin(self, b: int, t: int) -> float:
        """Seconds from the start of the series to the acquisition of slice b of frame t."""
        return b * 10.0 + self.triggers[b, t] if self.is_cine else t * TR + self.slice_times[b]

    def cells(self, slices_first: bool = False) -> list[tuple[int, int, str]]:
        """(slice, frame, component) of every image that was not lost, frame by frame or slice by slice."""
        pairs = [(b, t) for t in range(self.frames) for b in range(self.slices) if (b, t) not in self.missing]
        pairs = sorted(pairs) if slices_first else pairs
        return [(b, t, component) for b, t in pairs for component in self.components]

    def position(self, b: int) -> np.ndarray:
        return ORIGIN + b * self.step

    @property
    def affine(self) -> np.ndarray:
        """4x4, (column, row, slice) -> RAS millimetres."""
        affine = np.eye(4)
        columns = np.stack([ACROSS * COLUMN_SPACING, DOWN * ROW_SPACING, self.step, ORIGIN], axis=1)
        affine[:3] = HEADS_UP @ columns
        return affine

    def stored(self, b: int, t: int, component: str = "M") -> np.ndarray:
        """(rows, columns) uint16: where it is, each value once in a series; phases as levels of 0 to 4095."""
        if ROWS * COLUMNS * self.slices * self.frames >= 2**15:
            raise ValueError("too many slices and frames to give each voxel a value of its own in 15 bits")
        y, x = np.mgrid[:ROWS, :COLUMNS]
        if component == "M":
            return (1 + x + COLUMNS * (y + ROWS * (b + self.slices * t))).astype(np.uint16)
        weights = {"P": (7, 111, 13, 517), "R": (5, 61, 113, 17), "I": (3, 71, 23, 217)}[component]
        return (np.tensordot(weights, [x, y, 0 * x + b, 0 * x + t], 1) % PHASE_LEVELS).astype(np.uint16)


def decimal(value: float) -> DSfloat:
    """A decimal string of at most 16 characters."""
    return DSfloat(float(value), auto_format=True)


def decimals(values: np.ndarray) -> list[DSfloat]:
    return [decimal(value) for value in values]


def clock(seconds: float) -> str:
    """Seconds after ten in the morning, as TM."""
    minutes, seconds = divmod(36000 + seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}{minutes:02d}{seconds:09.6f}"


def item(**attributes: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def sequence(**attributes: object) -> Sequence:
    return Sequence([item(**attributes)])


def common(exam: Exam) -> Dataset:
    """Patient, study, equipment and frame of reference: what every object of the exam shares."""
    return item(
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Doe^Jane",
        PatientID="SECRET-17",
        PatientBirthDate="19700101",
        PatientSex="F",
        PatientAge="054Y",
        PatientWeight=decimal(61),
        StudyInstanceUID=exam.uid("study"),
        StudyDate="20240229",
        StudyTime="100000",
        StudyID="1",
        StudyDescription="Phantom",
        AccessionNumber="A1",
        ReferringPhysicianName="",
        Modality="MR",
        SeriesDate="20240229",
        SeriesTime=clock(0),
        SeriesDescription=f"{exam.kind} phantom",
        ProtocolName=f"{exam.kind} phantom",
        PatientPosition="HFS",
        BodyPartExamined="HEART" if exam.is_cine else "BRAIN",
        FrameOfReferenceUID=exam.uid("frame of reference"),
        PositionReferenceIndicator="",
        InstitutionName="Hospital of nowhere",
        DeviceSerialNumber="1234",
        SoftwareVersions="1.0",
        ContentDate="20240229",
        AcquisitionDate="20240229",
    )


def pixels(dataset: Dataset, stored: np.ndarray) -> None:
    """Image Pixel module. stored: (rows, columns) or (frames, rows, columns), 16 bits."""
    stored = np.ascontiguousarray(stored)
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"


def window(stored: np.ndarray) -> dict[str, DSfloat]:
    low, high = float(stored.min()), float(stored.max())
    return {"WindowCenter": decimal((low + high) / 2), "WindowWidth": decimal(max(high - low, 1))}


def classic(exam: Exam, b: int, t: int, component: str, stored: np.ndarray) -> Dataset:
    """One MR Image Storage object of slice b, frame t, without anything that is a vendor's choice (PS3.3 A.4)."""
    dataset = common(exam)
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = exam.uid("instance", component, b, t)
    dataset.SeriesInstanceUID = exam.uid("series")
    dataset.SeriesNumber = exam.number
    dataset.InstanceNumber = 1
    dataset.AcquisitionNumber = 1
    dataset.AcquisitionTime = dataset.ContentTime = clock(exam.begin(b, t))
    dataset.ImagePositionPatient = decimals(exam.position(b))
    dataset.ImageOrientationPatient = decimals(np.r_[ACROSS, DOWN])
    dataset.PixelSpacing = decimals(np.array([ROW_SPACING, COLUMN_SPACING]))
    dataset.SliceThickness = decimal(6)
    dataset.SpacingBetweenSlices = decimal(STEP)
    dataset.SliceLocation = decimal(exam.position(b) @ NORMAL)
    dataset.ScanningSequence = ["GR"] if exam.is_cine else ["EP", "GR"]
    dataset.SequenceVariant = "SS" if exam.is_cine else "SK"
    dataset.ScanOptions = "CG" if exam.is_cine else "FS"
    dataset.MRAcquisitionType = "2D"
    dataset.RepetitionTime = decimal(41.2 if exam.is_cine else 1000 * TR)
    dataset.EchoTime = decimal(1.4 if exam.is_cine else exam.echo)
    dataset.EchoTrainLength = 1
    dataset.EchoNumbers = 1
    dataset.FlipAngle = decimal(50)
    dataset.MagneticFieldStrength = decimal(3)
    dataset.ImagingFrequency = decimal(123.25)
    dataset.ImagedNucleus = "1H"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", component]
    if exam.is_cine:
        dataset.TriggerTime = decimal(1000 * exam.triggers[b, t])
        dataset.NominalInterval = int(round(1000 * exam.cycles[b]))
        dataset.HeartRate = int(round(60 / exam.cycles[b]))
        dataset.CardiacNumberOfImages = exam.frames
    for keyword, value in window(stored).items():
        setattr(dataset, keyword, value)
    pixels(dataset, stored)
    return dataset
