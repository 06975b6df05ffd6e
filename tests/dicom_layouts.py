"""How each vendor lays a series out in files: what is a file, a series, a number, where time and scale are found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from dicom_enhanced import enhanced
from dicom_exam import COLUMNS, ROWS, TR, Exam, classic, clock, decimal, decimals, item, sequence
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import LegacyConvertedEnhancedMRImageStorage

Cell = tuple[int, int, str]
Scale = tuple[float, float]
UNSCALED: Scale = (1.0, 0.0)
# Stored to real values of a phase image: 4096 levels from -pi to pi in each vendor's unit.
SIEMENS_PHASE: Scale = (2.0, -4096.0)  # of 4096 for pi
PHILIPS_PHASE: Scale = (1.5, -3072.0)  # milliradians
GE_OFFSET = 2048  # signed, milliradians


@dataclass(frozen=True)
class Layout:
    """objects: the files of an exam. real: stored levels, frame, component -> real values, radians for a phase."""

    objects: Callable[[Exam], Iterable[Dataset]]
    real: Callable[[np.ndarray, int, str], np.ndarray]


# --- classic: one image a file -------------------------------------------------------------------------------------


def _siemens_image(exam: Exam, cell: Cell) -> Dataset:
    """A series of its own for each component."""
    b, t, component = cell
    image = classic(exam, b, t, component, exam.stored(b, t, component))
    image.Manufacturer, image.ManufacturerModelName = "SIEMENS", "Skyra"
    image.ImageType = ["ORIGINAL", "PRIMARY", component, "ND"]
    if component == "P":
        image.SeriesNumber = exam.number + 1
        image.SeriesInstanceUID = exam.uid("series", "P")
        image.RescaleSlope, image.RescaleIntercept = map(decimal, SIEMENS_PHASE)
        image.RescaleType = "US"
    return image


def siemens(exam: Exam) -> Iterable[Dataset]:
    """Cine: a series of its own for each slice and component, numbered within it."""
    for b, t, component in exam.cells(slices_first=True):
        image = _siemens_image(exam, (b, t, component))
        image.InstanceNumber = t + 1
        if exam.is_cine:
            image.SeriesNumber = exam.number + b + exam.slices * exam.components.index(component)
            image.SeriesInstanceUID = exam.uid("series", b, component)
        else:
            image.AcquisitionNumber = t + 1
            image.InstanceNumber = b + exam.slices * t + 1
        yield image


def siemens_mosaic(exam: Exam, csa: bool = True) -> Iterable[Dataset]:
    """All slices of a volume as tiles of one big image, whose position is that of the big image."""
    side = math.ceil(math.sqrt(exam.slices))
    for t in sorted({t for _, t, _ in exam.cells()}):
        for component in exam.components:
            mosaic = np.zeros((side * ROWS, side * COLUMNS), np.uint16)
            for b in range(exam.slices):
                y, x = ROWS * (b // side), COLUMNS * (b % side)
                mosaic[y : y + ROWS, x : x + COLUMNS] = exam.stored(b, t, component)
            image = _siemens_image(exam, (0, t, component))
            image.Rows, image.Columns, image.PixelData = *mosaic.shape, mosaic.tobytes()
            corner = np.array([(side - 1) * COLUMNS / 2, (side - 1) * ROWS / 2, 0, 1]) * [-1, -1, 1, 1]
            image.ImagePositionPatient = decimals([-1, -1, 1] * (exam.affine @ corner)[:3])
            image.ImageType = ["ORIGINAL", "PRIMARY", component, "ND", "MOSAIC"]
            image.AcquisitionTime = clock(t * TR)
            image.AcquisitionNumber = image.InstanceNumber = t + 1
            block = image.private_block(0x0019, "SIEMENS MR HEADER", create=True)
            block.add_new(0x0A, "US", exam.slices)
            block.add_new(0x29, "FD", list(1000 * exam.slice_times))
            if csa:
                normal = exam.step / np.linalg.norm(exam.step)
                block = image.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
                block.add_new(0x10, "OB", _csa(exam.slices, normal, 1000 * exam.slice_times))
            yield image


def _csa(slices: int, normal: np.ndarray, times: np.ndarray) -> bytes:
    """The vendor's own image header, version 2, with the three fields that a mosaic needs."""
    fields = {
        b"NumberOfImagesInMosaic": (b"US", [str(slices)]),
        b"SliceNormalVector": (b"FD", [f"{value:.8f}" for value in normal]),
        b"MosaicRefAcqTimes": (b"FD", [f"{value:.8f}" for value in times]),
    }
    parts = [b"SV10", b"\4\3\2\1", len(fields).to_bytes(4, "little"), (77).to_bytes(4, "little")]
    for name, (vr, texts) in fields.items():
        numbers = [len(texts), 77]
        parts += [
            name.ljust(64, b"\0"),
            len(texts).to_bytes(4, "little"),
            vr.ljust(4, b"\0"),
            (0).to_bytes(4, "little"),
        ]
        parts += [number.to_bytes(4, "little") for number in numbers]
        for text in texts:
            raw = text.encode() + b"\0"
            padded = raw.ljust(-(-len(raw) // 4) * 4, b"\0")
            parts += [number.to_bytes(4, "little") for number in (len(raw), len(raw), 77, len(raw))] + [padded]
    return b"".join(parts)


def ge(exam: Exam) -> Iterable[Dataset]:
    """One series. fMRI has no time of any kind: InstanceNumber counts volume by volume. The component is private."""
    code = {"M": 0, "P": 1, "R": 2, "I": 3}
    for number, (b, t, component) in enumerate(exam.cells(slices_first=exam.is_cine), 1):
        stored = exam.stored(b, t, component).astype(np.int16)
        image = classic(exam, b, t, component, stored if component == "M" else (stored - GE_OFFSET).astype(np.int16))
        image.Manufacturer, image.ManufacturerModelName = "GE MEDICAL SYSTEMS", "DISCOVERY MR750"
        image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER" if exam.is_cine else "EPI", "NONE"]
        image.InstanceNumber = number
        block = image.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x2F, "SS", code[component])
        if not exam.is_cine:
            image.AcquisitionTime = image.ContentTime = clock(0)
            image.NumberOfTemporalPositions = exam.frames
            image.ImagesInAcquisition = exam.slices
            image.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(
                0x5E, "DS", decimal(1e4 * exam.slice_times[b] + 1e4 * t * TR)
            )
        yield image


def philips(exam: Exam) -> Iterable[Dataset]:
    """One series, slice by slice, a rescale slope for each frame. In fMRI TriggerTime is when the volume began."""
    for number, (b, t, component) in enumerate(exam.cells(slices_first=True), 1):
        image = classic(exam, b, t, component, exam.stored(b, t, component))
        image.Manufacturer, image.ManufacturerModelName = "Philips", "Ingenia"
        image.ImageType = ["ORIGINAL", "PRIMARY", "PHASE MAP" if component == "P" else "M_FFE", component, "FFE"]
        image.InstanceNumber = number
        slope, intercept = PHILIPS_PHASE if component == "P" else (_philips_slope(t), 0.0)
        image.RescaleSlope, image.RescaleIntercept = decimal(slope), decimal(intercept)
        image.RescaleType = "milliradials" if component == "P" else "normalized"
        image.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", PHILIPS_SCALE)
        image.NumberOfTemporalPositions = 1 if exam.is_cine else exam.frames
        image.TemporalPositionIdentifier = 1 if exam.is_cine else t + 1
        if not exam.is_cine:
            image.AcquisitionTime = image.ContentTime = clock(round(t * TR, 2))
            image.TriggerTime = decimal(1000 * TR * t)
        yield image


PHILIPS_SCALE = 0.0625


def _philips_slope(t: int) -> float:
    return 1.5 + 0.25 * t


def simple_classic(manufacturer: str, model: str, exam: Exam) -> Iterable[Dataset]:
    """Canon and United Imaging: one series, volume by volume, each image with its acquisition time."""
    for number, (b, t, component) in enumerate(exam.cells(), 1):
        image = classic(exam, b, t, component, exam.stored(b, t, component))
        image.Manufacturer, image.ManufacturerModelName = manufacturer, model
        image.InstanceNumber = number
        if not exam.is_cine:
            image.AcquisitionNumber = t + 1
            image.NumberOfTemporalPositions = exam.frames
        yield image


# --- enhanced: many images a file ----------------------------------------------------------------------------------


def _enhanced(exam: Exam, cells: list[Cell], maker: tuple[str, str], phase: Scale = SIEMENS_PHASE) -> Dataset:
    stored = np.array([exam.stored(*cell) for cell in cells])
    image = enhanced(exam, cells, stored, {"M": UNSCALED, "P": phase})
    image.Manufacturer, image.ManufacturerModelName = maker
    return image


def _drop(image: Dataset, keyword: str) -> None:
    for groups in image.PerFrameFunctionalGroupsSequence:
        delattr(groups.FrameContentSequence[0], keyword)


def siemens_xa(exam: Exam, series_a_volume: bool = False) -> Iterable[Dataset]:
    """XA: fMRI has one file a volume, in XA30 a series too; cine one file and series a slice."""
    axis = 0 if exam.is_cine else 1
    for component in exam.components:
        cells = [cell for cell in exam.cells(slices_first=exam.is_cine) if cell[2] == component]
        for group in sorted({cell[axis] for cell in cells}):
            image = _enhanced(exam, [cell for cell in cells if cell[axis] == group], ("SIEMENS", "MAGNETOM Vida"))
            image.SoftwareVersions = "syngo MR XA30" if series_a_volume else "syngo MR XA11"
            image.InstanceNumber = group + 1
            if exam.is_cine or series_a_volume:
                image.SeriesNumber = exam.number + group
                image.InstanceNumber = 1
                image.SeriesInstanceUID = exam.uid("series", group, component)
            if component == "P":
                image.SeriesNumber += 100
                image.SeriesInstanceUID = exam.uid(image.SeriesInstanceUID, "P")
            if not exam.is_cine:
                image.AcquisitionNumber = group + 1
                for groups in image.PerFrameFunctionalGroupsSequence:
                    content = groups.FrameContentSequence[0]
                    content.TemporalPositionIndex = content.FrameAcquisitionNumber = 1
                    content.DimensionIndexValues = [1, content.InStackPositionNumber, 1]
            yield image


def philips_enhanced(exam: Exam) -> Iterable[Dataset]:
    """Everything in one file, slice by slice, magnitude and phase told apart by a private dimension as well."""
    cells = exam.cells(slices_first=True)
    image = _enhanced(exam, cells, ("Philips Medical Systems", "Ingenia"), PHILIPS_PHASE)
    pointer = item(
        DimensionOrganizationUID=image.DimensionIndexSequence[0].DimensionOrganizationUID,
        DimensionIndexPointer=0x20051011,
        DimensionIndexPrivateCreator="Philips MR Imaging DD 001",
        FunctionalGroupPointer=tag_for_keyword("FrameContentSequence"),
    )
    image.DimensionIndexSequence.append(pointer)
    for (_, t, component), groups in zip(cells, image.PerFrameFunctionalGroupsSequence, strict=True):
        content, values = groups.FrameContentSequence[0], groups.PixelValueTransformationSequence[0]
        content.DimensionIndexValues = [*content.DimensionIndexValues, exam.components.index(component) + 1]
        if component == "M":
            values.RescaleSlope = decimal(_philips_slope(t))
        content.FrameAcquisitionDateTime = content.FrameReferenceDateTime = "20240229" + clock(0)
        if not exam.is_cine:
            groups.TemporalPositionSequence = sequence(TemporalPositionTimeOffset=t * TR)
    yield image


def ge_enhanced(exam: Exam) -> Iterable[Dataset]:
    """One file without temporal index: only times tell the frames apart."""
    image = _enhanced(exam, exam.cells(), ("GE MEDICAL SYSTEMS", "SIGNA Premier"), (1.0, -GE_OFFSET))
    _drop(image, "TemporalPositionIndex")
    _drop(image, "DimensionIndexValues")
    for groups in image.PerFrameFunctionalGroupsSequence:
        content = groups.FrameContentSequence[0]
        content.DimensionIndexValues = [1, content.InStackPositionNumber]
    del image.DimensionIndexSequence[2]
    yield image


def simple_enhanced(manufacturer: str, model: str, exam: Exam) -> Iterable[Dataset]:
    yield _enhanced(exam, exam.cells(), (manufacturer, model))


def legacy(exam: Exam) -> Iterable[Dataset]:
    """Classic images that an archive has packed into one: what has no place stays in Unassigned sequences (A.70)."""
    cells = exam.cells()
    image = _enhanced(exam, cells, ("SIEMENS", "Avanto"))
    image.SOPClassUID = LegacyConvertedEnhancedMRImageStorage
    del image.DimensionIndexSequence, image.DimensionOrganizationSequence
    for name in ("StackID", "InStackPositionNumber", "TemporalPositionIndex", "DimensionIndexValues"):
        _drop(image, name)
    shared = image.SharedFunctionalGroupsSequence[0]
    shared.UnassignedSharedConvertedAttributesSequence = sequence(
        RepetitionTime=shared.MRTimingAndRelatedParametersSequence[0].RepetitionTime,
        EchoTime=decimal(shared.MREchoSequence[0].EffectiveEchoTime),
        ScanningSequence="GR" if exam.is_cine else ["EP", "GR"],
    )
    del shared.MRTimingAndRelatedParametersSequence, shared.MREchoSequence
    for (b, t, component), groups in zip(cells, image.PerFrameFunctionalGroupsSequence, strict=True):
        if exam.is_cine:
            del groups.CardiacSynchronizationSequence
        old = classic(exam, b, t, component, exam.stored(b, t, component))
        names = ("TriggerTime", "NominalInterval", "ImageType", "AcquisitionTime", "InstanceNumber")
        groups.UnassignedPerFrameConvertedAttributesSequence = Sequence(
            [item(**{name: old[name].value for name in names if name in old})]
        )
        groups.ConversionSourceAttributesSequence = sequence(
            ReferencedSOPClassUID=old.SOPClassUID, ReferencedSOPInstanceUID=old.SOPInstanceUID
        )
    yield image


# --- stored levels to real values ----------------------------------------------------------------------------------


def _siemens_real(stored: np.ndarray, t: int, component: str) -> np.ndarray:
    slope, intercept = SIEMENS_PHASE
    return (slope * stored + intercept) / 4096 * np.pi if component == "P" else stored


def _philips_real(stored: np.ndarray, t: int, component: str) -> np.ndarray:
    slope, intercept = PHILIPS_PHASE
    return (slope * stored + intercept) / 1000 if component == "P" else _philips_slope(t) * stored


def _ge_real(stored: np.ndarray, t: int, component: str) -> np.ndarray:
    signed = stored - GE_OFFSET
    return {"M": stored, "P": signed / 1000, "R": signed, "I": signed}[component]


LAYOUTS = {
    "siemens": Layout(siemens, _siemens_real),
    "siemens-mosaic": Layout(siemens_mosaic, _siemens_real),
    "siemens-mosaic-without-csa": Layout(partial(siemens_mosaic, csa=False), _siemens_real),
    "siemens-xa": Layout(siemens_xa, _siemens_real),
    "siemens-xa30": Layout(partial(siemens_xa, series_a_volume=True), _siemens_real),
    "philips": Layout(philips, _philips_real),
    "philips-enhanced": Layout(philips_enhanced, _philips_real),
    "ge": Layout(ge, _ge_real),
    "ge-enhanced": Layout(ge_enhanced, _ge_real),
    "canon": Layout(partial(simple_classic, "CANON_MEC", "Vantage Galan"), _siemens_real),
    "canon-enhanced": Layout(partial(simple_enhanced, "CANON_MEC", "Vantage Galan"), _siemens_real),
    "uih": Layout(partial(simple_classic, "UIH", "uMR 790"), _siemens_real),
    "uih-enhanced": Layout(partial(simple_enhanced, "UIH", "uMR 790"), _siemens_real),
    "legacy": Layout(legacy, _siemens_real),
}
