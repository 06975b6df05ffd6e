"""What a derived MR image says of itself: what it was made of, by what, how, and that it is for research only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from torch import Tensor

from medseq import __version__
from medseq.errors import UsageError
from medseq.io.dicom import values
from medseq.io.dicom.classic import item
from medseq.io.dicom.scale import Scale

LABEL = "RESEARCH ONLY - NOT FOR DIAGNOSIS"
SCHEME = "99MEDSEQ"
# The code of CID 7203 that comes nearest, and our own which says it exactly.
_CODES = {
    "denoise": (codes.DCM.Smoothing, Code("DENOISE", SCHEME, "Denoised with a video diffusion prior")),
    "reconstruct": (codes.DCM.Smoothing, Code("RECONSTRUCT", SCHEME, "Reconstructed with a video diffusion prior")),
    "interpolate": (codes.DCM.SpatialResampling, Code("INTERPOLATE", SCHEME, "Frames interpolated in time")),
    "fill": (codes.DCM.SpatialResampling, Code("FILL", SCHEME, "Missing frames filled in")),
    "process": (Code("PROCESS", SCHEME, "Processed by other software"),),
}


@dataclass(frozen=True)
class Derivation:
    """How a series was made; nothing in it may identify anybody.

    task: "denoise", "reconstruct", "interpolate", "fill", or "process" for what other software did. description: one
    sentence. model, model_sha256: the weights, empty where there were none. options, seed: what else decided the
    result. synthetic: (B, T) bool, frames filled in where the source has none; interpolated frames are found from their
    times.
    Raises UsageError on another task.
    """

    task: str
    description: str
    model: str = ""
    model_sha256: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    synthetic: np.ndarray | Tensor | None = None

    def __post_init__(self) -> None:
        if self.task not in _CODES:
            raise UsageError(f"no derivation is called {self.task!r}; choose of {', '.join(_CODES)}")

    @property
    def what(self) -> str:
        """The task and, where there was one, the model."""
        return f"{self.task}, model {_plain(self.model)}" if self.model else self.task

    @property
    def canonical(self) -> str:
        """The same text for the same derivation, whatever the order of its options."""
        what = [__version__, self.task, self.description, self.model, self.model_sha256, dict(self.options), self.seed]
        return json.dumps(what, sort_keys=True, default=str)


@dataclass(frozen=True)
class SourceImage:
    """One frame that a derived one was made of: its file's header, and its number there (None in a classic file)."""

    header: Dataset
    frame_number: int | None = None


@dataclass(frozen=True)
class NewSeries:
    """What all images of one derived series share.

    title: what it holds, for its description. units: UCUM, of the real values that `scale` maps to.
    """

    derivation: Derivation
    uid: str
    number: int
    title: str
    scale: Scale
    units: Code = codes.UCUM.NoUnits


def describe(dataset: Dataset, series: NewSeries, sources: Sequence[SourceImage], synthetic: bool) -> None:
    """Turn a copy of the source's header into that of a derived image, times and pixels aside."""
    derivation = series.derivation
    title = f" medseq {series.title}"
    dataset.SeriesInstanceUID = series.uid
    dataset.SeriesNumber = series.number
    dataset.SeriesDescription = (values.text(dataset, "SeriesDescription") or "")[: 64 - len(title)].rstrip() + title
    dataset.ImageComments = f"{LABEL}. medseq {__version__} {derivation.what}"
    dataset.ContentQualification = "RESEARCH"
    if synthetic:
        dataset.SyntheticData = "YES"
    dataset.BurnedInAnnotation = values.text(dataset, "BurnedInAnnotation") or "NO"
    dataset.LossyImageCompression = values.text(dataset, "LossyImageCompression") or "00"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.DerivationDescription = _plain(derivation.description)[:1024]
    dataset.DerivationCodeSequence = [code_item(code) for code in _CODES[derivation.task]]
    dataset.CodingSchemeIdentificationSequence = [item(CodingSchemeDesignator=SCHEME, CodingSchemeName="medseq")]
    dataset.ContributingEquipmentSequence = [equipment(derivation)]
    dataset.SourceImageSequence = source_items(sources)
    dataset.ReferencedSeriesSequence = series_items(sources)
    if not series.scale.is_identity:
        dataset.RealWorldValueMappingSequence = [mapping_item(series)]


def keep_own_words(clean: Dataset, dataset: Dataset) -> None:
    """Put into the de-identified copy of `dataset` what medseq itself says of it: the basic profile removes every text.

    Whoever gets the copy must still see that it was derived, how, and that it is for research only.
    """
    own = item(ImageComments=dataset.ImageComments, SeriesDescription=dataset.SeriesDescription)
    own.SeriesDescription = own.SeriesDescription[own.SeriesDescription.rindex("medseq") :]
    own.ContributingEquipmentSequence = [dataset.ContributingEquipmentSequence[-1]]
    if "DerivationDescription" in dataset:
        own.DerivationDescription = dataset.DerivationDescription
    clean.update(own)


def code_item(code: Code) -> Dataset:
    """A code sequence's item (PS3.3 section 8.8)."""
    return item(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)


def source_items(sources: Iterable[SourceImage]) -> list[Dataset]:
    """Items of SourceImageSequence (PS3.3 C.12.4), one for each object, with the numbers of its frames."""
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    found: dict[str, Dataset] = {}
    for source in sources:
        reference = found.setdefault(source.header.SOPInstanceUID, _reference(source.header))
        reference.SpatialLocationsPreserved = "YES"
        reference.PurposeOfReferenceCodeSequence = [code_item(purpose)]
        if source.frame_number is not None:
            reference.ReferencedFrameNumber = [*_frame_numbers(reference), source.frame_number]
    return list(found.values())


def series_items(sources: Iterable[SourceImage]) -> list[Dataset]:
    """Items of ReferencedSeriesSequence (PS3.3 C.12.2): the sources again, by series."""
    found: dict[str, dict[str, Dataset]] = {}
    for source in sources:
        instances = found.setdefault(source.header.SeriesInstanceUID, {})
        instances.setdefault(source.header.SOPInstanceUID, _reference(source.header))
    return [
        item(SeriesInstanceUID=uid, ReferencedInstanceSequence=list(instances.values()))
        for uid, instances in found.items()
    ]


def equipment(derivation: Derivation) -> Dataset:
    """The item of ContributingEquipmentSequence (PS3.3 C.12.1.1.5) that stands for medseq.

    Its version is in the description, as converters take a SoftwareVersions in here for the scanner's.
    """
    weights = f", SHA-256 {derivation.model_sha256}, seed {derivation.seed}" if derivation.model else ""
    return item(
        PurposeOfReferenceCodeSequence=[code_item(codes.DCM.ProcessingEquipment)],
        Manufacturer="medseq",
        ContributionDescription=f"medseq {__version__} {derivation.what}{weights}",
    )


def mapping_item(series: NewSeries) -> Dataset:
    """The item of RealWorldValueMappingSequence (PS3.3 C.7.6.16.2.11): from stored values back to the source's."""
    scale = series.scale
    bounds = np.iinfo(scale.dtype)
    mapping = item(
        LUTExplanation="Values on the source's scale",
        LUTLabel="medseq",
        RealWorldValueSlope=float(scale.slope),
        RealWorldValueIntercept=float(scale.intercept),
        MeasurementUnitsCodeSequence=[code_item(series.units)],
    )
    representation = "SS" if bounds.min < 0 else "US"
    mapping.add_new("RealWorldValueFirstValueMapped", representation, int(bounds.min))
    mapping.add_new("RealWorldValueLastValueMapped", representation, int(bounds.max))
    return mapping


def _reference(header: Dataset) -> Dataset:
    return item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)


def _frame_numbers(reference: Dataset) -> list[int]:
    numbers = reference.get("ReferencedFrameNumber", [])
    return [int(numbers)] if isinstance(numbers, int) else [int(number) for number in numbers]


def _plain(text: str) -> str:
    """Text that every character set of DICOM holds, in one line."""
    return " ".join(text.encode("ascii", "replace").decode().split())
