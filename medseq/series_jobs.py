"""One image series restored: NIfTI or DICOM in, NIfTI or DICOM out, with the `run.json` that explains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseq import terminal
from medseq.clip import Clip
from medseq.errors import UsageError
from medseq.filling import fill_missing
from medseq.gathering import Restored
from medseq.io import NIFTI_ENDINGS, is_nifti, load_clip, save_clip
from medseq.io.weights import bold_weights_path, weights_path
from medseq.jobs import beside, check_new_folder, check_output, input_named, pseudonym_key
from medseq.provenance import RunRecord, collected_warnings, staged, stem
from medseq.series_options import SeriesOptions
from medseq.terminal import Progress

if TYPE_CHECKING:
    from medseq.io.dicom import Derivation, DicomSeries
    from medseq.report.restored import ImageTask

Work = Callable[[Clip, Progress], Restored]


def restore_series(
    command: ImageTask,
    source: Path,
    output: Path,
    settings: Mapping[str, Any],
    work: Work,
    options: SeriesOptions,
    bold_work: Work | None = None,
    *,
    report: bool = False,
) -> str:
    """Read `source` (a NIfTI file, a DICOM file or folder), restore it and write `output`, and its std for samples.

    output: a NIfTI file, or a new folder for DICOM when the source is DICOM. command: what `run.json` calls it.
    settings: every option of the method by name; `prior`, `seed`, `device` and `precision` among them. work: restores
    what was read; bold_work: what is done to a BOLD series instead, without a prior. report: write a page to look
    at, too. Returns what to tell the user. Raises MedseqError like its parts, and UsageError for an impossible output.
    """
    to_nifti = _checked_target(source, output, options)
    key = pseudonym_key(options.deidentify, options.deidentify_key)
    record = _record(command, settings, options)
    with staged(output.parent) as folder, collected_warnings(terminal.warn) as record.warnings:
        with record.timed("read"):
            record.add_input(source)
            clip, dicom = read_series(source, options)
            by_bold = bold_work if bold_work and is_bold(settings["kind"], source, dicom) else None
            if by_bold is None:
                record.add_model(weights_path(settings["prior"]))
            elif settings.get("goal") == "fluctuations":
                record.add_model(bold_weights_path(settings["prior"]))
        named = input_named(source, settings["prior"])
        with record.timed("restore"), terminal.progress(command) as progress, named:
            # What is done to BOLD fills in by itself, as the prior is of hearts.
            before = clip if by_bold else _filled(clip, settings, progress)
            restored = by_bold(before, progress) if by_bold else work(before, progress)
        record.result = {**restored.info, **_lacking(clip)}
        place, prefix = (folder, f"{stem(output)}.") if to_nifti else (folder / output.name, "")
        with record.timed("write"):
            if to_nifti:
                if dicom is not None and not options.keep_phase:
                    restored = _magnitude(restored)
                _save_nifti(restored, folder / output.name, None if options.deidentify else source)
            else:
                assert dicom is not None
                place.mkdir()
                _save_dicom(restored, place, dicom, _derivation(record, settings), options.multiframe, key)
        if report:
            from medseq.report.restored import attempt_report, series_section

            title = "Series" if options.deidentify else stem(output)
            page = place / (f"{prefix}html" if to_nifti else "report.html")
            attempt_report(
                page,
                title,
                record,
                lambda: [series_section(_HEADINGS[command], command, before, restored)],
                older=output.parent / page.relative_to(folder),
            )
        record.save(place / f"{prefix}run.json")
    slices, _, frames, height, width = restored.clip.data.shape
    return f"{output}: {frames} frames of {width} x {height}, {slices} slices; {record.elapsed:.1f} s"


def _checked_target(source: Path, output: Path, options: SeriesOptions) -> bool:
    """Whether to write NIfTI; UsageError for what cannot be, before minutes are spent on it."""
    if is_nifti(output):
        check_output(output, NIFTI_ENDINGS, source)
        if options.multiframe:
            raise UsageError(f"{output}: --multiframe is about DICOM; give a folder as the output")
        return True
    if is_nifti(source):
        raise UsageError(f"{output}: a NIfTI series becomes NIfTI; end the output in .nii or .nii.gz")
    check_new_folder(output)
    return False


def _record(command: str, settings: Mapping[str, Any], options: SeriesOptions) -> RunRecord:
    prior = settings["prior"]
    named = {**settings, "prior": prior and Path(prior).name, "series": options.number, "precise": options.precise}
    named |= {"allow_missing_frames": options.allow_missing_frames, "deidentify": options.deidentify}
    return RunRecord(command, named, anonymous=options.deidentify)


def read_series(source: Path, options: SeriesOptions) -> tuple[Clip, DicomSeries | None]:
    """The series and, when it is DICOM, where each of its frames came from."""
    if is_nifti(source):
        if options.number is not None:
            raise UsageError(f"{source}: --series is about DICOM; a NIfTI file holds one series")
        return load_clip(source), None
    from medseq.io.dicom import choose_series, load_series

    chosen = choose_series(source, options.number, precise=options.precise)
    return load_series(chosen, allow_missing=options.allow_missing_frames), chosen


def is_bold(kind: str, source: Path, dicom: DicomSeries | None) -> bool:
    """kind: "cine", "bold", or "auto", which asks the DICOM header or the BIDS suffix in a file's name."""
    if kind != "auto":
        return kind == "bold"
    return dicom.kind == "bold" if dicom is not None else stem(source).endswith("_bold")


def _filled(clip: Clip, settings: Mapping[str, Any], progress: Progress) -> Clip:
    names = ("prior", "seed", "device", "precision")
    return fill_missing(clip, progress=progress, **{name: settings[name] for name in names})


def _lacking(clip: Clip) -> dict[str, Any]:
    """What `run.json` says of frames that were filled in, slices and frames counted from 1."""
    if clip.present is None:
        return {}
    return {"filled_in": [{"slice": b + 1, "frame": t + 1} for b, t in (~clip.present).nonzero().tolist()]}


def _magnitude(restored: Restored) -> Restored:
    clip = restored.clip
    return replace(restored, clip=clip.with_data(clip.data.abs())) if clip.is_complex else restored


def _save_nifti(restored: Restored, path: Path, like: Path | None) -> None:
    save_clip(restored.clip, path, like=like)
    if restored.std is not None:
        save_clip(restored.std, path.with_name(beside(path, "std")), like=like)
    for name, extra in restored.maps.items():
        save_clip(extra, path.with_name(beside(path, name)), like=like)


def _derivation(record: RunRecord, settings: Mapping[str, Any]) -> Derivation:
    from medseq.io.dicom import Derivation

    model = record.model or {"name": "", "sha256": ""}
    return Derivation(
        task=record.command,
        description=_DESCRIPTIONS[record.command, record.model is None],
        model=model["name"],
        model_sha256=model["sha256"],
        options=record.options,
        seed=settings["seed"],
    )


def _save_dicom(
    restored: Restored,
    folder: Path,
    source: DicomSeries,
    derivation: Derivation,
    multiframe: bool,
    key: bytes | None,
) -> None:
    from medseq.io.dicom import save_derived

    save_derived(restored.clip, folder, source, derivation, std=restored.std, multiframe=multiframe, deidentify=key)
    for name, extra in restored.maps.items():  # they are no images of the patient, and no archive asks for them
        save_clip(extra, folder / f"{name}.nii.gz")


_HEADINGS = {"denoise": "Denoising", "interpolate": "Interpolation"}
# By command, and whether it was done without the prior, as to BOLD.
_DESCRIPTIONS = {
    ("denoise", False): "Noise removed with a learned video diffusion prior; for research only",
    ("denoise", True): "Noise reduced in what cannot be a haemodynamic response; for research only",
    ("interpolate", False): "Frames interpolated in time with a learned video diffusion prior; for research only",
    ("interpolate", True): "Volumes interpolated in time, band-limited; for research only",
}
