"""The basic confidentiality profile: nothing planted survives, references hold, and an image stays a valid one."""

from __future__ import annotations

import re
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path

import pytest
from dicom_files import element, mr_image, save
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.uid import UID, MRImageStorage

from medseq.errors import InputError
from medseq.io.dicom.deidentify import METHOD, deidentified
from medseq.io.dicom.opening import candidates

KEY = b"a secret of sixteen bytes"
NAME = "Zzyzx^Quux"

# What anybody would look for, written down without the table that the code uses.
IDENTITIES = re.findall(
    r"\w+",
    """
    PatientName PatientID OtherPatientNames OtherPatientIDs PatientBirthName PatientMotherBirthName
    PatientAddress PatientTelephoneNumbers PatientReligiousPreference PatientComments EthnicGroup Occupation
    MilitaryRank Allergies AdditionalPatientHistory CountryOfResidence RegionOfResidence MedicalRecordLocator
    InsurancePlanIdentification AccessionNumber InstitutionName InstitutionAddress InstitutionalDepartmentName
    StationName ReferringPhysicianName ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers
    PhysiciansOfRecord PerformingPhysicianName NameOfPhysiciansReadingStudy RequestingPhysician OperatorsName
    AdmittingDiagnosesDescription StudyDescription SeriesDescription ProtocolName ImageComments StudyComments
    PerformedProcedureStepDescription PerformedProcedureStepID RequestedProcedureDescription
    RequestedProcedureID StudyID DeviceSerialNumber DerivationDescription AcquisitionComments ContrastBolusAgent
    CurrentPatientLocation ScheduledPerformingPhysicianName TextComments TextString ContentCreatorName
    PersonName PersonAddress VerifyingOrganization VerifyingObserverName ReviewerName ResponsiblePerson
    ResponsibleOrganization IssuerOfPatientID AdmissionID ServiceEpisodeDescription ClinicalTrialSponsorName
    ClinicalTrialSubjectID
    """,
)
DATES = ["StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "PatientBirthDate", "InstanceCreationDate"]
TIMES = ["StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "PatientBirthTime", "InstanceCreationTime"]
UIDS = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"]
REFERENCES = ["ReferencedSOPInstanceUID", "SynchronizationFrameOfReferenceUID", "ConcatenationUID"]


def planted() -> Dataset:
    """An identity in every place that is known for it, here, in sequences that stay, and in private ones."""
    dataset = mr_image()
    plant(dataset)
    inner, item = Dataset(), Dataset()
    plant(inner)
    item.PurposeOfReferenceCodeSequence = [inner]
    plant(item)
    dataset.SourceImageSequence = [item]
    dataset.ContributingEquipmentSequence = [deepcopy(item)]
    dataset.PerFrameFunctionalGroupsSequence = [deepcopy(item)]
    dataset.RequestAttributesSequence = [deepcopy(item)]
    dataset.OtherPatientIDsSequence = [deepcopy(item)]
    return dataset


def plant(dataset: Dataset) -> None:
    for keyword in IDENTITIES:
        vr = dictionary_VR(keyword)
        dataset.add_new(tag_for_keyword(keyword), vr, [NAME] if vr == "PN" else "Quux Zzyzx"[:16])
    for keyword in DATES:
        setattr(dataset, keyword, "19871231")
    for keyword in TIMES:
        setattr(dataset, keyword, "112233.44")
    dataset.AcquisitionDateTime = "19871231112233.44"
    for keyword in REFERENCES:
        setattr(dataset, keyword, "1.2.4711")
    dataset.PatientAge, dataset.PatientWeight, dataset.PatientSize = "087Y", "87.6543", "1.87654"
    block = dataset.private_block(0x0009, "Quux", create=True)
    block.add_new(1, "LO", "Zzyzx")
    block.add_new(2, "SQ", [Dataset()])
    dataset.add_new(0x60000010, "US", 16)
    dataset.add_new(0x60003000, "OW", b"Zzyzx Quux")
    dataset.add_new(0x60004000, "LT", "Zzyzx")
    dataset.add_new(0x50002500, "LO", "Zzyzx")
    dataset.add_new(0x00104711, "LO", "Zzyzx of an attribute that nobody knows")


TRACES = [b"zzyzx", b"quux", b"19871231", b"112233.44", b"1.2.4711", b"087y", b"87.6543", b"1.87654"]


def test_nothing_planted_is_left_in_the_file(tmp_path: Path) -> None:
    dataset = planted()
    dataset.preamble = b"Quux" * 32
    save(dataset, tmp_path / "before.dcm")
    source = dcmread(tmp_path / "before.dcm")
    source.file_meta.SourceApplicationEntityTitle = "ZZYZX"
    before = (tmp_path / "before.dcm").read_bytes().lower()
    assert all(trace in before for trace in TRACES)
    deidentified(source, KEY).save_as(tmp_path / "after.dcm", enforce_file_format=True)
    after = (tmp_path / "after.dcm").read_bytes()
    assert after[:128] == bytes(128)
    assert [trace for trace in TRACES if trace in after.lower()] == []
    for uid in (b"1.2.3.4\0", b"1.2.3\0"):
        assert uid in before and uid not in after


def test_nothing_private_and_no_overlay_is_left_anywhere() -> None:
    def visit(dataset: Dataset) -> int:
        deeper = [visit(item) for each in dataset if each.VR == "SQ" for item in each.value]
        assert not any(each.tag.is_private or each.tag.group >> 8 in (0x50, 0x60) for each in dataset)
        return 1 + sum(deeper)

    assert visit(deidentified(planted(), KEY)) >= 6  # the sequences that may stay do


def test_what_an_image_needs_is_kept() -> None:
    source = mr_image()
    source.RepetitionTime, source.EchoTime, source.PatientPosition = "35", "1.5", "HFS"
    source.Manufacturer, source.MagneticFieldStrength, source.PatientSex = "GE", "3", "F"
    clean = deidentified(source, KEY)
    gone = {"PatientSex", *UIDS}
    for each in source:
        if each.keyword not in gone:
            assert clean[each.tag] == each, each.keyword
    assert "PatientSex" in clean and not clean.PatientSex


def test_method_and_codes_are_recorded() -> None:
    clean = deidentified(planted(), KEY)
    assert clean.PatientIdentityRemoved == "YES" and clean.LongitudinalTemporalInformationModified == "REMOVED"
    assert METHOD in clean.DeidentificationMethod
    (code,) = clean.DeidentificationMethodCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM")


def test_equal_uids_stay_equal_across_files_and_references() -> None:
    first, second = mr_image(), mr_image()
    second.SOPInstanceUID = "1.2.3.5"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MRImageStorage, first.SOPInstanceUID
    second.SourceImageSequence = [item]
    first.FrameOfReferenceUID = second.FrameOfReferenceUID = "1.2.840.113619.2"
    one, two = deidentified(first, KEY), deidentified(second, KEY)
    assert two.SourceImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert two.SourceImageSequence[0].ReferencedSOPClassUID == two.SOPClassUID == MRImageStorage
    assert all(one[key] == two[key] for key in UIDS[1:]) and one.SOPInstanceUID != two.SOPInstanceUID
    new = [one.SOPInstanceUID, two.SOPInstanceUID, *(one[key].value for key in UIDS[1:])]
    assert len(set(new)) == 5 and all(uid.startswith("2.25.") and UID(uid).is_valid for uid in new)


def test_the_pseudonym_of_a_patient_follows_from_the_key() -> None:
    source = planted()
    other = planted()
    other.PatientID = "another"
    assert deidentified(source, KEY).PatientID == deidentified(planted(), KEY).PatientID
    assert deidentified(source, KEY).PatientID != deidentified(other, KEY).PatientID
    assert deidentified(source, KEY).PatientID != deidentified(source, b"another").PatientID
    assert deidentified(source, KEY).StudyInstanceUID != deidentified(source, b"another").StudyInstanceUID


def test_the_source_is_left_alone() -> None:
    source = planted()
    before = deepcopy(source)
    clean = deidentified(source, KEY)
    assert source == before
    assert deidentified(source, KEY) == clean
    clean.SourceImageSequence[0].CodeValue = "changed"
    assert source == before


def test_standard_uids_and_several_uids_in_one_attribute() -> None:
    source = mr_image()
    source.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"  # Talairach
    source.IrradiationEventUID = ["1.2.5", "1.2.6", "1.2.5"]
    clean = deidentified(source, KEY)
    assert clean.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    a, b, c = clean.IrradiationEventUID
    assert a == c != b and a.startswith("2.25.")


def test_what_cannot_be_read_cannot_be_cleaned(tmp_path: Path) -> None:
    path = save(mr_image(), tmp_path / "a.dcm")
    spoilt = element(0x00180080, "DS", b"Quux")
    path.write_bytes(path.read_bytes().replace(element(0x00280002, "US", b"\1\0"), spoilt))
    with pytest.raises(InputError, match="RepetitionTime cannot be read") as refused:
        deidentified(dcmread(path), KEY)
    assert "Quux" not in str(refused.value)


def test_every_name_in_the_dictionary_is_cleaned() -> None:
    """Also those of attributes that the table of the standard does not list."""
    source = mr_image()
    for keyword in ("EvaluatorName", "SecondaryReviewerName", "PersonName", "PatientMotherBirthName"):
        setattr(source, keyword, NAME)
    source.SecondaryReviewDate = "19871231"
    written = str(deidentified(source, KEY))
    assert "Quux" not in written and "1987" not in written


def errors(path: Path) -> set[str]:
    """The error lines of dciodvfy, whose exit code says nothing."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not on PATH")
    done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, errors="replace", timeout=60)
    assert 0 <= done.returncode < 128, "the judge crashed"
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


def one_of_each(real_data: Path) -> list[Path]:
    """A GE, a Siemens and a Philips image, and one enhanced."""
    folders = ["dcm_qa_nih/In", "fmri_rest_dicom", "badinput/pydicom_test_files", "badinput/pydicom_data"]
    found: dict[str, Path] = {}
    for path in (path for folder in folders for path in candidates(real_data / folder)):
        if path.suffix == ".dcm" and ("dcm_qa_nih" in str(path) or path.name.startswith(("MR", "emri", "2101"))):
            dataset = dcmread(path, stop_before_pixels=True)
            found.setdefault(f"{dataset.get('Manufacturer')} {dataset.get('SOPClassUID')}", path)
    return list(found.values())


def test_a_valid_image_stays_one(real_data: Path, tmp_path: Path) -> None:
    broken = mr_image()
    del broken.Rows
    assert errors(save(broken, tmp_path / "broken.dcm"))  # the judge sees something
    paths = one_of_each(real_data)
    assert len(paths) >= 4
    for path in paths:
        source = dcmread(path)
        clean = deidentified(source, KEY)
        assert clean.PixelData == source.PixelData
        clean.save_as(tmp_path / "after.dcm", enforce_file_format=True)
        assert errors(tmp_path / "after.dcm") <= errors(path), path.name


def test_a_series_stays_one(real_data: Path, tmp_path: Path) -> None:
    """dcentvfy finds the attributes of patient, study, series and equipment equal in all its files."""
    if shutil.which("dcentvfy") is None:
        pytest.skip("dcentvfy is not on PATH")
    for number, path in enumerate(candidates(real_data / "fmri_rest_dicom")[:6]):
        clean = deidentified(dcmread(path), KEY)
        clean.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    files = sorted(tmp_path.glob("*.dcm"))
    assert judged(files) == ""
    spoilt = dcmread(files[0])
    spoilt.PatientID = "another"
    spoilt.save_as(files[0])
    assert judged(files) != ""


def judged(files: list[Path]) -> str:
    done = subprocess.run(["dcentvfy", *files], capture_output=True, text=True, timeout=60)
    assert 0 <= done.returncode < 128, "the judge crashed"
    return done.stdout + done.stderr


def test_the_planted_names_are_of_the_standard() -> None:
    """A misspelt keyword would plant nothing."""
    assert all(keyword_for_tag(tag_for_keyword(keyword)) == keyword for keyword in IDENTITIES + DATES + TIMES)
