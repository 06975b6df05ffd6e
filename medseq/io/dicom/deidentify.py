"""The Basic Application Level Confidentiality Profile (PS3.15 Annex E), applied to a dataset.

What becomes of each attribute stands in the table of dicom-anonymizer, which is generated from the standard (2026c).
Its actions are applied here, as those of the package hand out random UIDs and leave sequences unvisited.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from typing import Any

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from medseq.errors import InputError
from medseq.io.dicom.values import quiet, text

METHOD = "Basic Application Confidentiality Profile"
_CODE = "113100"  # of METHOD, in PS3.16 CID 7050
# Standard UIDs name kinds of things and never a thing (PS3.6 Annex A).
_STANDARD_ROOT = "1.2.840.10008."
_KINDS = re.compile("SOPClass|TransferSyntax|CodingScheme|Context|Mapping|ImplementationClass|CreatorVersion")
# Curves and overlays (PS3.3 C.9.2), which hold annotations; half an overlay would not be valid.
_CURVES, _OVERLAYS = 0x50, 0x60
_FREE_TEXT = {"LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT"}
_PERSONAL = {"PN", "DA", "DT", "TM"}
_KEPT_META = ("MediaStorageSOPClassUID", "TransferSyntaxUID")


def _tags(*groups: list[tuple[int, ...]]) -> frozenset[int]:
    return frozenset((entry[0] << 16) | entry[1] for group in groups for entry in group if len(entry) == 2)


# PS3.15 Table E.1-1. Where it leaves the choice to the IOD, the value is emptied or replaced rather than removed:
# right for an attribute of any type, so that a valid image stays one.
_REPLACED = _tags(table.D_TAGS, table.Z_D_TAGS, table.X_D_TAGS, table.X_Z_D_TAGS)
_EMPTIED = _tags(table.Z_TAGS, table.X_Z_TAGS)
_REMOVED = _tags(table.X_TAGS)
# Most sequences must have an item if they are there; the one that need not have is of type 2 in Enhanced MR.
_REMOVABLE = _tags(table.X_Z_TAGS, table.X_D_TAGS, table.X_Z_D_TAGS) - {0x00400555}

_DUMMIES: dict[str, Any] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "ANONYMIZED"),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV", "DS", "IS"), 0),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW", "UN"), bytes(8)),
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "UR": "https://anonymized.invalid",
    "SQ": [],
}


def deidentified(dataset: Dataset, key: bytes) -> Dataset:
    """A copy without what could identify the patient, as the basic profile of PS3.15 Annex E demands.

    key: the secret that UIDs and the patient's ID are replaced with (HMAC-SHA256): equal ones stay equal within all
    that is de-identified with one key, so that references hold, and nobody without the key can tell which they were.
    All sequences are visited; private attributes, curves and overlays are removed, and so is text in attributes that
    the standard does not know. The pixels are kept as they are, also where somebody has burned text into them.
    Method, code and removal of times are recorded (PS3.3 C.7.1.1, C.12.1). The copy has new `file_meta`, if any, and
    no preamble.
    Raises InputError when an attribute cannot be read, as it cannot be cleaned either.
    """
    with quiet():
        clean = _cleaned(dataset, key)
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = f"medseq: {METHOD}, PS3.15"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = _CODE, "DCM", METHOD
    clean.DeidentificationMethodCodeSequence = [code]
    clean.LongitudinalTemporalInformationModified = "REMOVED"
    meta = getattr(dataset, "file_meta", None)
    if meta is not None:
        clean.file_meta = _file_meta(meta, clean)
    return clean


def _file_meta(meta: Dataset, clean: Dataset) -> FileMetaDataset:
    """Class and transfer syntax; the titles of the applications it came through (PS3.10 section 7.1) are left out."""
    kept = FileMetaDataset()
    for keyword in _KEPT_META:
        if keyword in meta:
            setattr(kept, keyword, meta[keyword].value)
    if text(clean, "SOPInstanceUID"):
        kept.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    return kept


def _cleaned(dataset: Dataset, key: bytes) -> Dataset:
    clean = Dataset()
    for tag in sorted(dataset.keys()):
        if tag.is_private or tag in _REMOVED or tag.group >> 8 in (_CURVES, _OVERLAYS):
            continue
        try:
            element = _cleaned_element(dataset[tag], key)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever pydicom raises on a broken value
            name = keyword_for_tag(tag) or str(tag)
            raise InputError(f"{name} cannot be read, and so not be de-identified; correct or remove it") from error
        if element is not None:
            clean.add(element)
    return clean


def _cleaned_element(element: DataElement, key: bytes) -> DataElement | None:
    is_unknown_text = element.VR in _FREE_TEXT and not dictionary_has_tag(element.tag)
    if is_unknown_text or (element.VR == "SQ" and element.tag in _REMOVABLE):
        return None
    return DataElement(element.tag, element.VR, _value(element, key))


def _value(element: DataElement, key: bytes) -> Any:
    """What stays of the value of an attribute that is not removed."""
    if element.is_empty:
        return element.value
    if element.tag == 0x00100020:
        return _secret(key, f"patient {element.value}").hex()[:16].upper()
    if element.tag in _EMPTIED:
        return [] if element.VR == "SQ" else None
    if element.tag in _REPLACED and element.VR != "UI":
        return _DUMMIES[element.VR]
    if element.VR == "SQ":
        return Sequence([_cleaned(item, key) for item in element.value])
    if element.VR == "UI" and not _KINDS.search(element.keyword):
        uids = element.value if isinstance(element.value, MultiValue) else [element.value]
        return [_new_uid(uid, key) for uid in uids]
    # Not in the table, yet a name or a date.
    return None if element.VR in _PERSONAL else element.value


def _new_uid(uid: str, key: bytes) -> str:
    """A UID made of a UUID (PS3.5 Annex B.2), always the same for the same UID and key; standard ones are kept."""
    if uid.startswith(_STANDARD_ROOT):
        return uid
    return f"2.25.{uuid.UUID(bytes=_secret(key, uid)[:16], version=4).int}"


def _secret(key: bytes, value: str) -> bytes:
    return hmac.new(key, value.encode(), hashlib.sha256).digest()
