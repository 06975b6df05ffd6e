"""What is to be done in a folder: every series found there becomes a unit; only headers are read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel

from medseq.errors import InputError, UsageError
from medseq.io import is_bids, is_nifti, is_raw
from medseq.io.bids import find_runs
from medseq.io.bids_sidecar import sidecars_of
from medseq.io.kspace import files_of
from medseq.provenance import stem
from medseq.study.ledger import content_of
from medseq.study.manifest import (
    FETCHED,
    Archived,
    Denoise,
    Estimate,
    Format,
    Input,
    Interpolate,
    Manifest,
    Reconstruct,
    Unit,
    safe_name,
)

if TYPE_CHECKING:
    from medseq.archive import Peer, Query

# After docs/measurements.md (46 s and 0.73 GiB for 17 million values), with room to spare: the program itself, and what
# each value of a series adds; k-space is held several times, coil by coil.
_PROGRAM_MB, _BYTES_A_VALUE, _BYTES_A_SAMPLE = 700, 30, 80
_START_SECONDS, _VALUES_A_SECOND = 10, 200_000
_COMPRESSION = 4  # values for each byte of a compressed file whose header tells nothing
_IMAGE = 256 * 256  # values of an image that nobody has seen yet
_ONLY_FILES = ("report", "deidentify", "allow_missing_frames", "precise", "multiframe")


@dataclass(frozen=True)
class Tasks:
    """What to do with each kind of data. nifti: write NIfTI of DICOM, too."""

    images: Denoise | Interpolate
    raw: Reconstruct
    nifti: bool = False


@dataclass(frozen=True)
class _Found:
    """A series: its files, how it is to be called (None: by number, as names of folders are often a patient's)."""

    path: Path
    also: tuple[Path, ...]
    size: int
    values: int
    format: str
    called: str | None
    series: int | None = None


def plan(source: Path, study: Path, tasks: Tasks, *, hashed: bool = False) -> Manifest:
    """The manifest of every series below `source`: a BIDS dataset, or a folder of NIfTI, raw data and DICOM.

    hashed: also note the SHA-256 of every input, which the run then insists on. What cannot be used is listed in
    `refused`; a broken file may be a unit all the same, and its run says what is wrong. Raises InputError when there is
    no series, UsageError when source and study are one, or for options that a BIDS dataset does not know.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder that holds the series")
    source, study = source.resolve(), study.resolve()
    if source == study or source.is_relative_to(study):
        raise UsageError(f"{study}: holds the source; choose another folder for the study")
    refused: list[str] = []
    if is_bids(source):
        _check_bids(tasks)
        found = list(_bids(source))
    else:
        found = [*_files(source, study), *_dicom(source, study, refused)]
    if not found:
        raise InputError(f"{source}: holds no series (NIfTI, DICOM, raw data, BIDS); give the folder that does")
    names = _names(found, numbered=tasks.images.deidentify)
    units = [_unit(each, name, source, tasks) for each, name in zip(found, names, strict=True)]
    if hashed:
        units = [_hashed(unit, source) for unit in units]
    return Manifest(source=str(source), units=tuple(units), refused=tuple(refused))


def plan_archive(peer: Peer, query: Query, tasks: Tasks, description: str = "*") -> Manifest:
    """The manifest of the series of an archive that match `query`, each of them to be fetched when its unit runs.

    description: of the series, with * and ? for any characters, in whatever case. What medseq itself has stored there
    is left out. Estimates know the number of images alone. Raises InputError when nothing matches, else as
    `archive.find` does.
    """
    from medseq.archive import find
    from medseq.archive.transfer import instances_of

    matching = [
        (Archived(study=each.uid.study, series=each.uid.series), each.number, len(instances_of(peer, each.uid)))
        for each in find(peer, query)
        if "medseq" not in each.description and fnmatchcase(each.description.lower(), description.lower())
    ]
    if not matching:
        raise InputError(f"{peer.address}: has no such series; look for it with medseq archive find")
    source = Path(FETCHED)
    found = [_Found(source / uid.folder, (), 0, count * _IMAGE, "dicom", None, n) for uid, n, count in matching]
    names = _names(found, numbered=tasks.images.deidentify)
    units = []
    for (archived, _, _), each, name in zip(matching, found, names, strict=True):
        unit = _unit(each, name, source, tasks)
        units.append(unit.model_copy(update={"input": unit.input.model_copy(update={"archived": archived})}))
    return Manifest(source=FETCHED, units=tuple(units))


def _check_bids(tasks: Tasks) -> None:
    given = {**tasks.images.model_dump(exclude_defaults=True), **tasks.raw.model_dump(exclude_defaults=True)}
    for name in (*_ONLY_FILES, "denoise"):
        if name in given:
            raise UsageError(f"--{name.replace('_', '-')} does not apply to a BIDS dataset (docs/bids.md)")


def _bids(dataset: Path) -> Iterator[_Found]:
    for run in find_runs(dataset):
        also = [path for file in run.files for path in sidecars_of(dataset, file)]
        also += [run.phase] if run.phase is not None else []
        size = sum(_size(file) for file in run.files)
        values = _raw_values(size) if is_raw(run.file) else len(run.files) * _nifti_values(run.file)
        yield _Found(run.file, tuple(dict.fromkeys(also)), size, values, "bids", run.name.stem)


def _files(source: Path, study: Path) -> Iterator[_Found]:
    for path in sorted(source.rglob("*")):
        if not (is_nifti(path) or is_raw(path)) or path.is_relative_to(study) or not path.is_file():
            continue
        called = path.relative_to(source).with_name(stem(path)).as_posix()
        if is_raw(path):
            also = tuple(files_of(path)[1:])
            size = _size(path)
            yield _Found(path, also, size, _raw_values(size), "raw", called)
        else:
            sidecar = path.with_name(f"{stem(path)}.json")
            also = (sidecar,) if sidecar.is_file() else ()
            yield _Found(path, also, _size(path), _nifti_values(path), "nifti", called)


def _dicom(source: Path, study: Path, refused: list[str]) -> Iterator[_Found]:
    """Every DICOM series with more than one frame, by the folder that holds it and its number."""
    from medseq.io.dicom import find_series

    try:
        found = find_series(source)
    except InputError:  # there is none
        return
    refused += [f"{_relative(each.what, source)}: {each.reason}" for each in found.refused]
    chosen = []
    for series in found.series:
        files = {frame.path for row in (*series.frames, *(series.phases or ())) for frame in row if frame is not None}
        folder = Path(os.path.commonpath([file.parent for file in files]))
        if not folder.is_relative_to(study) and len(series.times) > 1:
            chosen.append((series, folder, files))
    twins = Counter((folder, series.number) for series, folder, _ in chosen)
    for series, folder, files in chosen:
        if twins[folder, series.number] > 1 or (series.number is None and sum(f == folder for _, f, _ in chosen) > 1):
            refused.append(
                f"{_relative(str(folder), source)}: several series have number {series.number}; give each a folder"
            )
            continue
        values = prod(series.matrix) * len(series.frames) * len(series.times)
        values *= 1 if series.phases is None else 2
        yield _Found(folder, (), sum(map(_size, files)), values, "dicom", None, series.number)


def _relative(what: str, source: Path) -> str:
    return what.replace(f"{source}/", "").replace(str(source), "source")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # its run says why
        return 0


def _nifti_values(path: Path) -> int:
    """Values of a series by its header; of a broken file a guess."""
    try:
        image = nibabel.load(path)
        assert isinstance(image, nibabel.spatialimages.SpatialImage)
        return prod(image.shape)
    except Exception:  # noqa: BLE001 - nibabel's faults share no base class, and the unit's run names the fault
        return _size(path) * _COMPRESSION


def _raw_values(size: int) -> int:
    """8 bytes a complex value; coils are combined, but there is all that comes with reconstruction."""
    return size // 8


def _names(found: Sequence[_Found], *, numbered: bool) -> list[str]:
    """Names that can be files', each once. numbered: tell nothing of the files."""
    names: list[str] = []
    taken: set[str] = set()
    for number, each in enumerate(found, start=1):
        wanted = f"unit-{number:04d}"
        if each.called is not None and not numbered:
            wanted = safe_name(each.called.replace("/", "_"))
        elif each.format == "dicom" and not numbered:
            wanted = f"dicom-{number:04d}" + (f"_series-{each.series}" if each.series is not None else "")
        name, twin = wanted, 1
        while name.lower() in taken:
            twin += 1
            name = f"{wanted}-{twin}"
        taken.add(name.lower())
        names.append(name)
    return names


def _unit(found: _Found, name: str, source: Path, tasks: Tasks) -> Unit:
    raw = is_raw(found.path)
    frames = tasks.images.factor if isinstance(tasks.images, Interpolate) and not raw else 1
    values = found.values * frames
    task = tasks.raw if raw else tasks.images
    form = _format(found, tasks)
    if isinstance(task, Denoise | Interpolate) and form != "dicom":
        task = task.model_copy(update={"multiframe": False})
    each = (_BYTES_A_SAMPLE if raw else _BYTES_A_VALUE) + 8 * (task.samples - 1)
    return Unit(
        name=name,
        input=Input(
            path=found.path.relative_to(source).as_posix() or ".",
            also=tuple(path.relative_to(source).as_posix() for path in found.also),
            series=found.series,
            bytes=found.size,
        ),
        task=task,
        output=f"results/{name}",
        format=form,
        estimate=Estimate(
            memory_mb=_PROGRAM_MB + (values * each >> 20),
            disk_mb=1 + (values * 4 * (2 if task.samples > 1 else 1) >> 20),
            seconds=_START_SECONDS + values * task.samples // _VALUES_A_SECOND,
        ),
    )


def _format(found: _Found, tasks: Tasks) -> Format:
    if found.format == "bids":
        return "bids"
    return "dicom" if found.format == "dicom" and not tasks.nifti else "nifti"


def _hashed(unit: Unit, source: Path) -> Unit:
    content = content_of(unit, source, None)
    return unit.model_copy(update={"input": unit.input.model_copy(update={"sha256": content.sha256})})
