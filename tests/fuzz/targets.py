"""Every target by its name."""

from __future__ import annotations

from fuzz import texts
from fuzz.dicom import CODEC, DICOM, SERIES
from fuzz.nifti import NIFTI
from fuzz.raw import BART, CMRXRECON, FASTMRI, ISMRMRD, TWIX

TARGETS = {
    target.name: target
    for target in (DICOM, SERIES, CODEC, NIFTI, ISMRMRD, FASTMRI, CMRXRECON, BART, TWIX, *texts.TARGETS)
}
