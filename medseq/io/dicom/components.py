"""What the values of an MR image are: magnitude, phase, real or imaginary part, or a map of something else."""

from __future__ import annotations

import math

from pydicom import Dataset

from medseq.io.dicom import values
from medseq.io.dicom.attributes import Attributes

MAGNITUDE, PHASE, REAL, IMAGINARY = "M", "P", "R", "I"

# ComplexImageComponent (PS3.3 C.8.13.3.1.1), and the words of vendors in ImageType and FrameType.
_STANDARD = {"MAGNITUDE": MAGNITUDE, "PHASE": PHASE, "REAL": REAL, "IMAGINARY": IMAGINARY}
_WORDS = _STANDARD | {
    **dict.fromkeys(("M", "M_FFE", "M_SE", "M_IR", "M_TSE"), MAGNITUDE),
    **dict.fromkeys(("P", "PHASE MAP", "PHASE_MAP", "P_FFE", "P_SE", "P_IR"), PHASE),
    **dict.fromkeys(("R", "R_FFE", "R_SE", "R_IR"), REAL),
    **dict.fromkeys(("I", "I_FFE", "I_SE", "I_IR"), IMAGINARY),
}
_MAPS = ("FIELDMAP", "B0", "B1", "VELOCITY", "DIFFUSION", "ADC", "FA", "TRACEW")
_GE_CODES = {0: MAGNITUDE, 1: PHASE, 2: REAL, 3: IMAGINARY}
GE_SIGNED = 1000.0  # GE stores phase in milliradians, without a word about it


def component(frame: Attributes, vendor: str) -> str:
    """One of the four components, or the word that names the map it is ("B0 MAP").

    Sources, the first that speaks: words in ImageType (value 3 on) that name a map, GE's private (0043,102F),
    ComplexImageComponent, the words again. What none of them names is taken for a magnitude, as it nearly always is.
    """
    image_type = kind_words(frame)
    named = next((word for word in image_type if _is_map(word)), None)
    if named is not None:
        return named
    code = frame.private(0x0043, "GEMS_PARM_01", 0x2F) if vendor == "GE" else None
    if code and int(code[0]) in _GE_CODES:
        return _GE_CODES[int(code[0])]
    standard = _STANDARD.get(frame.text("ComplexImageComponent") or "")
    return standard or next((_WORDS[word] for word in image_type if word in _WORDS), MAGNITUDE)


def kind_words(frame: Attributes) -> tuple[str, ...]:
    """FrameType of the frame, else ImageType, from its third value on."""
    return (frame.words("FrameType") or frame.words("ImageType"))[2:]


def _is_map(word: str) -> bool:
    return word in _MAPS or (word.endswith("MAP") and word not in _WORDS)


def radians_per_unit(vendor: str, header: Dataset, slope: float, intercept: float) -> float | None:
    """Radians that one real value of a phase image stands for; None when nobody says.

    slope, intercept: from stored to real values. Phase has no unit in the standard. Philips rescales to milliradians
    (or radians), GE stores milliradians, Siemens maps -pi..pi to -4096..4096 and without rescale to 0..4096 (what it
    needs beyond is in `phase_intercept`). Elsewhere the range of the values must be one of these.
    """
    if vendor == "GE":
        return 1 / GE_SIGNED
    if vendor == "Siemens":
        return math.pi / 4096 if (slope, intercept) != (1.0, 0.0) else math.pi / 2048
    reach = _reach(header, slope, intercept)
    for full in (math.pi, 1000 * math.pi, 4096.0):
        if 0.95 * full < reach < 1.05 * full:
            return math.pi / full
    return None


def phase_intercept(vendor: str, slope: float, intercept: float) -> float:
    """Siemens phase without rescale is unsigned: pi is to be taken off."""
    return -math.pi if vendor == "Siemens" and (slope, intercept) == (1.0, 0.0) else 0.0


def _reach(header: Dataset, slope: float, intercept: float) -> float:
    """The real value that stands for -pi, without its sign: that of the lowest value the stored bits can say."""
    bits = values.whole(header, "BitsStored") or 16
    signed = bool(values.whole(header, "PixelRepresentation"))
    return abs(intercept - slope * 2 ** (bits - 1) if signed else intercept)
