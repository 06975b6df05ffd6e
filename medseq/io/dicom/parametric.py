"""The uncertainty of a derived series, as Parametric Maps (PS3.3 A.75) beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes

from medseq import __version__
from medseq.io.dicom.classic import copied, item, same_study
from medseq.io.dicom.derived import LABEL, NewSeries, equipment
from medseq.io.dicom.uids import content_uid
from medseq.io.dicom.values import quiet


def uncertainty_map(
    std: np.ndarray, images: Sequence[Dataset], series: NewSeries, number: int, instance: int
) -> Dataset:
    """The standard deviations of one time as a float32 Parametric Map object.

    std: (B, Y, X), in the units of the images. images: the B derived images of that time, which the map refers to
    slice by slice and shares patient, study and plane with. number: of the new series; instance: of the object in it.
    """
    import highdicom as hd

    mapping = hd.pm.RealWorldValueMapping(
        lut_label="std",
        lut_explanation="Standard deviation of the posterior",
        unit=series.units,
        value_range=(0.0, float(np.finfo(np.float32).max)),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.DCM.StandardDeviation,
    )
    top = float(std.max()) or 1.0
    uid = content_uid([series.uid, "std", str(number)])
    with quiet():  # its warnings quote the patient's name
        dataset: Dataset = hd.pm.ParametricMap(
            source_images=images,
            pixel_array=np.ascontiguousarray(std, dtype=np.float32),
            series_instance_uid=uid,
            series_number=(images[0].SeriesNumber // 100) * 100 + number,
            sop_instance_uid=content_uid([uid, str(instance), std.tobytes()]),
            instance_number=instance,
            manufacturer="medseq",
            manufacturer_model_name="medseq",
            software_versions=__version__,
            device_serial_number="none",
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[hd.VOILUTTransformation(window_center=top / 2, window_width=top)],
            content_label="STD",
            content_description=LABEL,
        )
    dataset.update(same_study(images[0]))
    dataset.SeriesDescription = f"{images[0].SeriesDescription} std"[:64]
    dataset.ImageComments = images[0].ImageComments
    dataset.Laterality = None  # type 2C, and highdicom copies no body part that would free it
    dataset.ContributingEquipmentSequence[-1] = equipment(series.derivation)  # highdicom's own, with the time of day
    _forget_the_clock(dataset, images[0])
    return dataset


def _forget_the_clock(map_: Dataset, image: Dataset) -> None:
    """Replace what highdicom takes from the clock and from chance, so that the same call writes the same bytes."""
    del map_.InstanceCreationDate, map_.InstanceCreationTime
    map_.update(copied(image, ("ContentDate", "ContentTime")))
    organization = content_uid([map_.SOPInstanceUID, "dimensions"])
    for entry in (*map_.DimensionOrganizationSequence, *map_.DimensionIndexSequence):
        entry.DimensionOrganizationUID = organization


def refer_to_enhanced(map_: Dataset, images: Sequence[Dataset], enhanced: Dataset) -> None:
    """Let a map of `images` refer to the one enhanced object that holds them, by the numbers of its frames.

    highdicom itself refuses an enhanced object as the source, as its frames of different times share a position.
    """
    numbers = {image.SOPInstanceUID: image.InstanceNumber for image in images}
    for groups in map_.PerFrameFunctionalGroupsSequence:
        for source in groups.DerivationImageSequence[0].SourceImageSequence:
            source.ReferencedFrameNumber = numbers[source.ReferencedSOPInstanceUID]
            source.ReferencedSOPClassUID = enhanced.SOPClassUID
            source.ReferencedSOPInstanceUID = enhanced.SOPInstanceUID
    reference = item(ReferencedSOPClassUID=enhanced.SOPClassUID, ReferencedSOPInstanceUID=enhanced.SOPInstanceUID)
    map_.ReferencedSeriesSequence = [
        item(SeriesInstanceUID=enhanced.SeriesInstanceUID, ReferencedInstanceSequence=[reference])
    ]
