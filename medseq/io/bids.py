"""BIDS datasets: which series of a dataset medseq restores, and reading them.

Source: BIDS 1.11. Functional series are standard (`func/*_bold.nii.gz`). BIDS has no cardiac datatype, so those are
medseq's own convention, which a `.bidsignore` with the line `**/heart` hides from validators:

    sub-01/heart/sub-01_acq-sa_cine.nii.gz      an image series
    sub-01/heart/sub-01_acq-sa_kspace.h5        raw data (ISMRMRD)

with JSON sidecars as everywhere in BIDS.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pathspec import GitIgnoreSpec

from medseq.clip import Clip, KSpace
from medseq.errors import InputError, MedseqWarning
from medseq.io import NIFTI_ENDINGS, is_raw, load_kspace
from medseq.io.bids_names import BidsName, parse_name
from medseq.io.bids_sidecar import Sidecar, phase_in_radians, read_json, read_sidecar, timed
from medseq.io.faults import reason
from medseq.io.nifti import load_nifti

DESCRIPTION = "dataset_description.json"
_READ: dict[str, dict[str, tuple[str, ...]]] = {
    "func": {"bold": NIFTI_ENDINGS},
    "heart": {"cine": NIFTI_ENDINGS, "kspace": (".h5", ".mrd")},
}
_WILD = {"", "*", "**", "sub-*", "ses-*"}


@dataclass(frozen=True)
class Run:
    """One acquisition: a magnitude series, a magnitude with its phase (`part-mag`, `part-phase`), or raw data.

    dataset: the root it lies under. file: the series, of which `name` are the parts. phase: its phase series, or None.
    """

    dataset: Path
    file: Path
    name: BidsName
    phase: Path | None = None

    @property
    def files(self) -> list[Path]:
        return [self.file] if self.phase is None else [self.file, self.phase]

    @property
    def folder(self) -> Path:
        """Where it lies in the dataset: `sub-01/func`."""
        return self.file.parent.relative_to(self.dataset)

    def sidecar(self) -> Sidecar:
        """What the dataset says of it. Raises InputError when a JSON file is unreadable."""
        return read_sidecar(self.dataset, self.file)

    def phase_sidecar(self) -> Sidecar:
        """What it says of the phase; nothing without one. Raises InputError like `sidecar`."""
        return {} if self.phase is None else read_sidecar(self.dataset, self.phase)

    def check_fetched(self) -> None:
        """Raise InputError when a file is a link to content that DataLad has not fetched."""
        for file in self.files:
            if file.is_symlink() and not file.exists():
                raise InputError(f"{file}: its content is not here; fetch it (datalad get, git annex get)")


def read_description(dataset: Path) -> Sidecar:
    """The `dataset_description.json`. Raises InputError when `dataset` is no BIDS dataset."""
    if not dataset.is_dir():
        raise InputError(f"{dataset}: no such folder; give the root of a BIDS dataset")
    if not (dataset / DESCRIPTION).is_file():
        raise InputError(f"{dataset}: not a BIDS dataset, as it has no {DESCRIPTION}; give its root, or add that file")
    return read_json(dataset / DESCRIPTION)


def find_runs(dataset: Path) -> list[Run]:
    """All series that medseq restores, by name; what `.bidsignore` lists is left out.

    Only names are looked at, so that a link whose content has not been fetched is found too, and refused when read.
    Raises InputError when `dataset` is no BIDS dataset, when a folder cannot be read, and on two files of one name.
    """
    dataset = dataset.absolute()
    read_description(dataset)
    ignored = _ignored(dataset)
    acquisitions: dict[tuple[Path, str], dict[str, Run]] = {}
    try:
        for name, path in _series(dataset):
            if ignored.match_file(path.relative_to(dataset).as_posix()):
                continue
            parts = acquisitions.setdefault((path.parent, name.without("part").stem), {})
            run = parts.setdefault(name.entities.get("part", "mag"), Run(dataset, path, name))
            if run.file != path:
                raise InputError(f"{path}: {run.file.name} is there too; keep one of them")
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error
    return [run for parts in acquisitions.values() for run in _paired(parts)]


def _paired(parts: dict[str, Run]) -> list[Run]:
    """The magnitude with its phase as one run; every other part stays alone."""
    if "mag" in parts and "phase" in parts:
        parts = {**parts, "mag": replace(parts["mag"], phase=parts["phase"].file)}
        del parts["phase"]
    return list(parts.values())


def _ignored(dataset: Path) -> GitIgnoreSpec:
    """The rules of `.bidsignore`, save those that hide all heart folders: they are for validators, not for medseq."""
    path = dataset / ".bidsignore"
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return GitIgnoreSpec.from_lines(line for line in lines if set(line.strip().split("/")) - _WILD != {"heart"})
    except (OSError, ValueError, re.error) as error:  # rules become regular expressions
        raise InputError(f"{path}: not readable as rules of file names ({reason(error)}); correct it") from error


def _series(dataset: Path) -> Iterator[tuple[BidsName, Path]]:
    """Every file whose name and place say that medseq can restore it."""
    subjects = _folders(dataset, "sub-")
    for place in [place for subject in subjects for place in (subject, *_folders(subject, "ses-"))]:
        for datatype, suffixes in _READ.items():
            folder = place / datatype
            for path in sorted(folder.iterdir()) if folder.is_dir() else []:
                name = parse_name(path.name)
                if name is None or not path.name.endswith(suffixes.get(name.suffix, ())):
                    continue
                if _belongs(name, path.relative_to(dataset)):
                    yield name, path


def _folders(parent: Path, prefix: str) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.name.startswith(prefix) and path.is_dir())


def _belongs(name: BidsName, inside: Path) -> bool:
    """Whether subject and session of the name are those of the folders."""
    labels = [f"{key}-{name.entities[key]}" for key in ("sub", "ses") if key in name.entities]
    return labels == list(inside.parts[:-2])


def load_run(run: Run) -> tuple[Clip | KSpace, Sidecar]:
    """The series of a run, and what its sidecars say.

    Image series are float32, or complex64 where the run has a phase; their times are those of `timed`.
    Raises InputError when a file is missing or broken, when magnitude and phase do not belong together or a part lacks
    its other one; warns with MedseqWarning of every assumption.
    """
    run.check_fetched()
    sidecar = run.sidecar()
    if is_raw(run.file):
        return load_kspace(run.file), sidecar
    part = run.name.entities.get("part", "mag")
    if part != "mag":
        lacking = "its part-mag is missing" if part == "phase" else "medseq reads part-mag and part-phase"
        raise InputError(f"{run.file}: cannot be used alone, as {lacking}; convert or rename it")
    clip = timed(_load_image(run.file, sidecar), sidecar, run.file)
    return clip if run.phase is None else _joined(clip, run, run.phase), sidecar


def _load_image(file: Path, sidecar: Sidecar) -> Clip:
    with warnings.catch_warnings():
        if "RepetitionTime" in sidecar or "VolumeTiming" in sidecar:
            # load_nifti knows only the sidecar beside the file; `timed` judges by all that apply.
            told = r".*(no frame interval in the header|the sidecar's RepetitionTime)"
            warnings.filterwarnings("ignore", told, MedseqWarning)
        return load_nifti(file)


def _joined(magnitude: Clip, run: Run, file: Path) -> Clip:
    """magnitude * exp(i phase)."""
    sidecar = run.phase_sidecar()
    phase = _load_image(file, sidecar)
    if phase.data.shape != magnitude.data.shape or phase.is_complex or magnitude.is_complex:
        raise InputError(
            f"{file}: {_sizes(phase)}, its magnitude {_sizes(magnitude)}; give the pair of one acquisition"
        )
    if not np.allclose(phase.affine, magnitude.affine, rtol=0, atol=1e-3):
        raise InputError(f"{file}: lies elsewhere than its magnitude; give the pair of one acquisition")
    if bool((magnitude.data < 0).any()):
        raise InputError(f"{run.file}: a magnitude cannot be negative; give the pair of one acquisition")
    return magnitude.with_data(torch.polar(magnitude.data, phase_in_radians(phase.data, sidecar.get("Units"), file)))


def _sizes(clip: Clip) -> str:
    slices, _, frames, height, width = clip.data.shape
    kind = "complex" if clip.is_complex else "real"
    return f"{kind} values of {width} x {height} x {slices} voxels and {frames} frames"
