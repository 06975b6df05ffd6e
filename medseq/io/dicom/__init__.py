"""DICOM series in and out: what scanners and archives hold, with geometry and timing kept exact.

    find_series     every image series in a file or folder, in order of slice and time, with what is wrong with it
    load_dicom      one of them as a Clip
    save_dicom      a derived series beside its source
"""
