"""One job: a file in, files out with the `run.json` that explains them; all of it or nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from medseq import terminal
from medseq.clip import Clip, KSpace
from medseq.errors import InputError, UsageError
from medseq.gathering import Restored
from medseq.io import NIFTI_ENDINGS, RAW_OUTPUT_ENDINGS, load_clip, load_kspace, save_clip, save_kspace
from medseq.io.faults import check_is_file, reason
from medseq.io.kspace import files_of
from medseq.io.weights import weights_path
from medseq.provenance import RunRecord, collected_warnings, staged, stem
from medseq.simulate import (
    SPOKES,
    acquire,
    acquire_epi,
    golden_trajectory,
    simulate_bold,
    simulate_bold_images,
    simulate_cine,
)
from medseq.terminal import Progress
from medseq.trajectories import binned

_SHORTEST_SECRET = 16  # bytes


Reconstruction = Callable[[KSpace, Progress], Restored]


def reconstruct_file(
    source: Path,
    output: Path,
    settings: Mapping[str, Any],
    work: Reconstruction,
    bold_work: Reconstruction,
    *,
    report: bool = False,
) -> str:
    """Read raw data, reconstruct them and write NIfTI `output`, its maps or `_std`, and its `.run.json`.

    settings: every option, by name; `prior`, `kind`, `denoise`, `spokes` (a frame, or None) and `complex` (what is
    written) among them. work:
    reconstructs what was read; bold_work: does so with BOLD, without a prior. report: write a page to look at, too,
    ending in `.html`. Returns what to tell the user. Raises MedseqError like `load_kspace` and both, and UsageError for
    an impossible output, or to denoise what is no BOLD.
    """
    check_output(output, NIFTI_ENDINGS, source)
    prior = settings["prior"]
    record = RunRecord("reconstruct", {**settings, "prior": prior and Path(prior).name})
    with staged(output.parent) as folder, collected_warnings(terminal.warn) as record.warnings:
        with record.timed("read"):
            for file in files_of(source):
                record.add_input(file)
            kspace = load_kspace(source)
            if settings["spokes"] is not None:
                kspace = _cut(source, kspace, settings["spokes"])
            bold = settings["kind"] == "bold" or (settings["kind"] == "auto" and kspace.epi)
            if settings["denoise"] and not bold:
                raise UsageError(f"{source}: --denoise is about BOLD, as the prior denoises all else; say --kind bold")
            if not bold:
                record.add_model(weights_path(prior))
        with record.timed("restore"), terminal.progress("reconstruct") as progress, input_named(source, prior):
            restored = (bold_work if bold else work)(kspace, progress)
        record.result = restored.info
        with record.timed("write"):
            clip = restored.clip
            save_clip(clip if settings["complex"] else clip.with_data(clip.data.abs()), folder / output.name)
            if restored.std is not None:
                save_clip(restored.std, folder / beside(output, "std"))
            for name, extra in restored.maps.items():
                save_clip(extra, folder / beside(output, name))
        if report:
            from medseq.report.restored import attempt_report, kspace_section

            page = f"{stem(output)}.html"
            attempt_report(
                folder / page,
                stem(output),
                record,
                lambda: [kspace_section("Reconstruction", kspace, restored)],
                older=output.parent / page,
            )
        record.save(folder / f"{stem(output)}.run.json")
    slices, _, frames, height, width = restored.clip.data.shape
    return f"{output}: {frames} frames of {width} x {height}, {slices} slices; {record.elapsed:.1f} s"


def _cut(source: Path, kspace: KSpace, spokes: int) -> KSpace:
    """A stream of readouts in frames; complaints name the file."""
    try:
        return binned(kspace, spokes)
    except UsageError as error:
        raise UsageError(f"{source}: --spokes {spokes}: {error}") from error


@contextmanager
def input_named(source: Path, prior: str | None) -> Iterator[None]:
    """Begin every complaint about what was read with its name, which numerics do not know; those about a prior have
    their own."""
    try:
        yield
    except InputError as error:
        if str(source) in str(error) or weights_path(prior).stem in str(error):
            raise
        raise InputError(f"{source}: {error}") from error


def generate_file(output: Path, settings: Mapping[str, Any], work: Callable[[Progress], Restored]) -> str:
    """Write the clips that `work` makes as NIfTI, and one `.run.json`: `output`, or for several `_1`, `_2`, ... of it.

    settings: every option, by name; `prior` among them. Returns what to tell the user. Raises MedseqError like `work`,
    and UsageError for an impossible output.
    """
    check_output(output, NIFTI_ENDINGS)
    prior = settings["prior"]
    record = RunRecord("generate", {**settings, "prior": prior and Path(prior).name})
    with staged(output.parent) as folder, collected_warnings(terminal.warn) as record.warnings:
        record.add_model(weights_path(prior))
        with record.timed("generate"), terminal.progress("generate") as progress:
            made = work(progress)
        record.result = made.info
        count, _, frames, height, width = made.clip.data.shape
        with record.timed("write"):
            for number, data in enumerate(made.clip.data.split(1), start=1):
                name = output.name if count == 1 else beside(output, str(number))
                save_clip(made.clip.with_data(data), folder / name)
        record.save(folder / f"{stem(output)}.run.json")
    clips = f"{output}:" if count == 1 else f"{output.parent / beside(output, f'1 to {count}')}: {count} clips of"
    return f"{clips} {frames} frames of {width} x {height}; {record.elapsed:.1f} s"


def simulate_file(
    kind: str,
    output: Path,
    *,
    source: Path | None = None,
    truth: Path | None = None,
    phantom: Mapping[str, Any],
    scan: Mapping[str, Any],
    seed: int = 0,
) -> str:
    """Write a phantom (NIfTI) or its k-space (.h5) to `output`, what is known of it to `truth`, and a `.run.json`.

    kind: "cine" or "bold". source: a NIfTI series to measure instead of a phantom. phantom: frames, size, slices for
    `simulate_cine` or `simulate_bold`; scan: coils, acceleration, noise for `acquire`, or `acquire_epi` of BOLD, and
    trajectory, spokes of a cine (see `golden_trajectory`); None stands for their defaults.
    Returns what to tell the user. Raises UsageError for options that do not go together.
    """
    check_output(output, (*NIFTI_ENDINGS, *RAW_OUTPUT_ENDINGS), source)
    if truth is not None:
        check_output(truth, NIFTI_ENDINGS, source)
        if truth.absolute() == output.absolute():
            raise UsageError(f"{truth}: is the output too; choose another name for the truth")
    raw = output.name.lower().endswith(RAW_OUTPUT_ENDINGS)
    if not raw and (source or _given(scan)):
        raise UsageError(
            f"{output}: --from, --coils, --acceleration, --trajectory, --spokes and --noise make k-space; "
            "end the output in .h5"
        )
    _check_trajectory(kind, output, scan)
    if source and _given(phantom):
        raise UsageError("--from excludes --frames, --size and --slices, which shape a phantom")
    record = RunRecord("simulate", {"kind": kind, "from": source, "seed": seed, **phantom, **scan})
    with ExitStack() as stack:
        record.warnings = stack.enter_context(collected_warnings(terminal.warn))
        folder = stack.enter_context(staged(output.parent))
        clip, known = _scene(kind, source, record, {**_given(phantom), "seed": seed}, raw)
        if raw:
            kspace = _acquired(kind, clip, _given(scan), seed)
            record.result = {"coils": kspace.coils, "noise": kspace.noise}
            save_kspace(kspace, folder / output.name)
        else:
            save_clip(clip.with_data(clip.data.abs()), folder / output.name)
        if truth is not None:
            beside = folder if truth.parent == output.parent else stack.enter_context(staged(truth.parent))
            save_clip(known.with_data(known.data.abs()), beside / truth.name)
        record.save(folder / f"{stem(output)}.run.json")
    return f"{output}: {clip.frames} frames of {clip.data.shape[-1]} x {clip.data.shape[-2]}"


def _check_trajectory(kind: str, output: Path, scan: Mapping[str, Any]) -> None:
    """Raise UsageError for options of a trajectory that do not go with the others."""
    given = _given(scan)
    if "trajectory" not in given:
        if "spokes" in given:
            raise UsageError("--spokes goes with --trajectory; give both or none")
        return
    if kind == "bold":
        raise UsageError("--trajectory is for a cine; BOLD is measured by EPI")
    if "acceleration" in given:
        raise UsageError("--acceleration counts lines; along a trajectory say --spokes")
    if output.suffix.lower() not in (".h5", ".mrd"):
        raise UsageError(f"{output}: only ISMRMRD holds a trajectory; end the output in .h5")


def _acquired(kind: str, clip: Clip, scan: dict[str, Any], seed: int) -> KSpace:
    if kind == "bold":
        return acquire_epi(clip, seed=seed, **scan)
    name, spokes = scan.pop("trajectory", None), scan.pop("spokes", SPOKES)
    if name is not None:
        scan["trajectory"] = golden_trajectory(name, clip, spokes)
    return acquire(clip, seed=seed, **scan)


def beside(output: Path, word: str) -> str:
    """`x.nii.gz` and `std` -> `x_std.nii.gz`."""
    return f"{stem(output)}_{word}{output.name.removeprefix(stem(output))}"


def read_times(path: Path) -> np.ndarray:
    """Seconds (T,) from a text file. Raises InputError when it is missing or holds anything else."""
    times = _numbers_in(path)
    if not len(times) or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise InputError(f"{path}: must hold finite seconds that increase; correct it")
    return times


def read_censored(path: Path) -> np.ndarray:
    """Which volumes are bad, (T,) bool: a text file of one 0 or 1 a volume, 1 for a bad one (as FSL and AFNI write it).

    Raises InputError when it is missing or holds anything else.
    """
    values = _numbers_in(path)
    if len(values) == 0 or not np.isin(values, (0, 1)).all():
        raise InputError(f"{path}: must hold a 0 (good) or a 1 (bad) for each volume; correct it")
    return values.astype(bool)


def _numbers_in(path: Path) -> np.ndarray:
    """The numbers in a text file."""
    check_is_file(path)
    try:
        return np.array([float(word) for word in path.read_text(encoding="utf-8").replace(",", " ").split()])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: must hold numbers apart by blanks, commas or line ends; correct it ({reason(error)})"
        ) from error


def check_output(output: Path, endings: Sequence[str], source: Path | None = None) -> None:
    """Raise UsageError for an output of the wrong ending, or that is the input, before minutes are spent on it."""
    if not output.name.lower().endswith(tuple(endings)):
        raise UsageError(f"{output}: the output must end in {' or '.join(endings)}")
    if source is not None and source.exists() and output.exists() and source.samefile(output):
        raise UsageError(f"{output}: is the input; choose another name for the output")


def check_new_folder(output: Path) -> None:
    """Raise UsageError for a folder of DICOM to write whose name says a file, or that holds something already."""
    if output.suffix.lower() in (".dcm", ".gz", ".h5", ".nii", ".png"):
        raise UsageError(f"{output}: DICOM is written into a folder of its own; give the name of a folder")
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise UsageError(f"{output}: exists; give a new folder, so that old and new files do not mix")


def pseudonym_key(deidentify: bool, file: Path | None) -> bytes | None:
    """The secret that pseudonyms are made with: of a file, so that they are equal from run to run, or a random one.

    None without `deidentify`. Raises UsageError for a file without it, InputError for one that is missing or too short.
    """
    if not deidentify:
        if file is not None:
            raise UsageError("--deidentify-key goes with --deidentify; give both or none")
        return None
    if file is None:
        return secrets.token_bytes(32)
    check_is_file(file)
    try:
        secret = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give a file of secret bytes") from error
    if len(secret) < _SHORTEST_SECRET:
        raise InputError(
            f"{file}: is no secret, with {len(secret)} bytes; put at least {_SHORTEST_SECRET} random ones in"
        )
    return sha256(secret).digest()


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; the library's own defaults stand for the others."""
    return {name: value for name, value in options.items() if value is not None}


def _scene(
    kind: str, source: Path | None, record: RunRecord, phantom: Mapping[str, Any], raw: bool
) -> tuple[Clip, Clip]:
    """The series to measure and what is known of it: itself, or where a BOLD series is active.

    raw: k-space is made of it, whose noise is not yet there."""
    if source is None and kind == "bold":
        return (simulate_bold_images if raw else simulate_bold)(**phantom)
    if source is None:
        clip = simulate_cine(**phantom)
        return clip, clip
    record.add_input(source)
    clip = load_clip(source)
    if kind == "cine" and clip.period is None and clip.frames > 1:
        # NIfTI has no field for it, and the frames of a cine are one whole cycle.
        clip = replace(clip, period=float(np.ptp(np.asarray(clip.times)) * clip.frames / (clip.frames - 1)))
    return clip, clip
