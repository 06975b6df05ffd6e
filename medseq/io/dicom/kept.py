"""Which attributes of a source a derived image keeps, by the modules of PS3.3."""

from __future__ import annotations


def keywords(text: str) -> tuple[str, ...]:
    """The words of a table."""
    return tuple(text.split())


# Patient and study are kept as they stand, empty attributes too: an archive must not find one study told in two ways.
PATIENT = keywords(
    "ReferencedPatientSequence PatientName PatientID IssuerOfPatientID TypeOfPatientID "
    "IssuerOfPatientIDQualifiersSequence SourcePatientGroupIdentificationSequence "
    "GroupOfPatientsIdentificationSequence PatientBirthDate PatientBirthTime PatientBirthDateInAlternativeCalendar "
    "PatientDeathDateInAlternativeCalendar PatientAlternativeCalendar PatientSex QualityControlSubject "
    "StrainDescription StrainNomenclature StrainStockSequence StrainAdditionalInformation StrainCodeSequence "
    "GeneticModificationsSequence OtherPatientNames OtherPatientIDsSequence ReferencedPatientPhotoSequence "
    "EthnicGroupCodeSequence PatientSpeciesDescription PatientSpeciesCodeSequence PatientBreedDescription "
    "PatientBreedCodeSequence BreedRegistrationSequence ResponsiblePerson ResponsiblePersonRole "
    "ResponsibleOrganization EthnicGroup PatientComments PatientIdentityRemoved DeidentificationMethod "
    "DeidentificationMethodCodeSequence ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName "
    "IssuerOfClinicalTrialProtocolID OtherClinicalTrialProtocolIDsSequence ClinicalTrialSiteID ClinicalTrialSiteName "
    "IssuerOfClinicalTrialSiteID ClinicalTrialSubjectID IssuerOfClinicalTrialSubjectID ClinicalTrialSubjectReadingID "
    "IssuerOfClinicalTrialSubjectReadingID ClinicalTrialProtocolEthicsCommitteeName "
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber LongitudinalTemporalInformationModified"
)
STUDY = keywords(
    "StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence ReferringPhysicianName "
    "ReferringPhysicianIdentificationSequence ConsultingPhysicianName ConsultingPhysicianIdentificationSequence "
    "StudyDescription ProcedureCodeSequence PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence "
    "NameOfPhysiciansReadingStudy PhysiciansReadingStudyIdentificationSequence ReferencedStudySequence "
    "StudyInstanceUID StudyID RequestingService RequestingServiceCodeSequence ReasonForPerformedProcedureCodeSequence "
    "AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize PatientSizeCodeSequence "
    "PatientBodyMassIndex MeasuredAPDimension MeasuredLateralDimension PatientWeight MedicalAlerts Allergies "
    "Occupation SmokingStatus AdditionalPatientHistory PregnancyStatus LastMenstrualDate PatientSexNeutered "
    "ReasonForVisit ReasonForVisitCodeSequence AdmissionID IssuerOfAdmissionIDSequence ServiceEpisodeID "
    "ServiceEpisodeDescription IssuerOfServiceEpisodeIDSequence PatientState ClinicalTrialTimePointID "
    "ClinicalTrialTimePointDescription LongitudinalTemporalOffsetFromEvent LongitudinalTemporalEventType "
    "ClinicalTrialTimePointTypeCodeSequence IssuerOfClinicalTrialTimePointID ConsentForClinicalTrialUseSequence"
)
# Of the rest what is filled and valid.
SERIES = keywords(
    "Modality SeriesNumber SeriesDescription SeriesDate SeriesTime ProtocolName BodyPartExamined Laterality "
    "PatientPosition AnatomicalOrientationType PerformingPhysicianName OperatorsName RequestAttributesSequence "
    "ClinicalTrialCoordinatingCenterName ClinicalTrialSeriesID ClinicalTrialSeriesDescription "
    "FrameOfReferenceUID PositionReferenceIndicator SpecificCharacterSet TimezoneOffsetFromUTC"
)
EQUIPMENT = keywords(
    "Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions StationName InstitutionName "
    "InstitutionAddress InstitutionalDepartmentName"
)
IMAGE = keywords(
    "ImageType AcquisitionNumber AcquisitionDate AcquisitionTime ContentDate ContentTime AcquisitionDuration "
    "AnatomicRegionSequence PrimaryAnatomicStructureSequence ImageLaterality ImageComments BurnedInAnnotation "
    "RecognizableVisualFeatures LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod "
    "PhotometricInterpretation ImageOrientationPatient PixelSpacing SliceThickness SpacingBetweenSlices "
    "ContrastBolusAgent ContrastBolusAgentSequence ContrastBolusAdministrationRouteSequence ContrastBolusRoute "
    "ContrastBolusVolume ContrastBolusStartTime ContrastBolusStopTime ContrastBolusTotalDose ContrastFlowRate "
    "ContrastFlowDuration ContrastBolusIngredient ContrastBolusIngredientConcentration"
)
ACQUISITION = keywords(
    "ScanningSequence SequenceVariant ScanOptions MRAcquisitionType SequenceName AngioFlag RepetitionTime EchoTime "
    "InversionTime NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers MagneticFieldStrength "
    "NumberOfPhaseEncodingSteps EchoTrainLength PercentSampling PercentPhaseFieldOfView PixelBandwidth TriggerTime "
    "NominalInterval BeatRejectionFlag LowRRValue HighRRValue IntervalsAcquired IntervalsRejected PVCRejection "
    "SkipBeats HeartRate CardiacNumberOfImages TriggerWindow ReconstructionDiameter ReceiveCoilName TransmitCoilName "
    "AcquisitionMatrix InPlanePhaseEncodingDirection FlipAngle VariableFlipAngleFlag SAR dBdt B1rms "
    "TemporalPositionIdentifier NumberOfTemporalPositions TemporalResolution"
)
KEPT = (*SERIES, *EQUIPMENT, *IMAGE, *ACQUISITION)

# Type 2 of PS3.3: must be there, empty when unknown.
MAY_BE_EMPTY = keywords(
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName SeriesNumber PositionReferenceIndicator Manufacturer SliceThickness ScanOptions "
    "MRAcquisitionType RepetitionTime EchoTime EchoTrainLength"
)
