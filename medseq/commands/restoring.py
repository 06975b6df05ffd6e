"""Commands that restore what was measured: reconstruct, denoise, interpolate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from medseq.commands.options import (
    Count,
    Goal,
    Kind,
    Options,
    Output,
    Positive,
    Report,
    SeriesOutput,
    Steps,
    Support,
    app,
    examples,
)
from medseq.errors import UsageError
from medseq.series_options import SeriesOptions

if TYPE_CHECKING:
    from medseq.bids_method import Method
    from medseq.clip import Clip, KSpace
    from medseq.gathering import Restored
    from medseq.terminal import Progress


@app.command(
    help_epilogue=examples(
        "reconstruct raw.h5 -o image.nii.gz",
        "reconstruct raw.h5 -o image.nii.gz --samples 8 --report",
        "reconstruct epi.h5 -o bold.nii.gz --denoise",
        "reconstruct radial.h5 -o image.nii.gz --spokes 16",
    )
)
def reconstruct(
    raw: Annotated[Path, Parameter(help="File of multi-coil k-space.")],
    /,
    *,
    output: Output,
    kind: Annotated[
        Literal["auto", "cine", "bold"], Parameter(help="What it shows; auto: bold for EPI, else cine.")
    ] = "auto",
    denoise: Annotated[bool, Parameter(help="BOLD: take away what cannot be a response, too.")] = False,
    keep_phase: Annotated[
        bool, Parameter(name="--complex", help="Write complex values, which few viewers open.")
    ] = False,
    spokes: Annotated[
        Count | None, Parameter(help="Cut a stream of radial or spiral readouts into frames of so many.")
    ] = None,
    steps: Annotated[Count | None, Parameter(help="Noise levels [default: 4, or 12 with several samples].")] = None,
    report: Report = False,
    support: Support = False,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> None:
    """Reconstruct an image series from undersampled k-space."""
    from medseq import reconstruction
    from medseq.bold_kspace import reconstruct_bold
    from medseq.jobs import reconstruct_file

    def work(kspace: KSpace, progress: Progress) -> Restored:
        common = {"support": support, "progress": progress, **asdict(options)}
        return reconstruction.reconstruct(kspace, steps=steps, **common)

    def bold_work(kspace: KSpace, progress: Progress) -> Restored:
        samples, device = options.samples, options.device
        return reconstruct_bold(kspace, denoise=denoise, samples=samples, device=device, progress=progress)

    settings = {"kind": kind, "denoise": denoise, "complex": keep_phase, "steps": steps, "support": support}
    settings |= {"spokes": spokes, **asdict(options)}
    print(reconstruct_file(raw, output, settings, work, bold_work, report=report))


@app.command(
    help_epilogue=examples(
        "denoise cine.nii.gz -o clean.nii.gz",
        "denoise cine.nii.gz -o clean.nii.gz --sigma 12",
        "denoise study --series 5 -o clean",
        "denoise cine.nii.gz --kind cine -o clean.nii.gz",
        "denoise rest.nii.gz --kind bold --goal fluctuations -o clean.nii.gz",
    )
)
def denoise(
    series: Annotated[Path, Parameter(help="NIfTI file, folder or file of DICOM, or BIDS dataset.")],
    /,
    *,
    output: SeriesOutput,
    kind: Kind = "auto",
    goal: Goal = "activation",
    censored: Annotated[Path | None, Parameter(help="BOLD: text file of a 0 or, for a bad volume, a 1 each.")] = None,
    sigma: Annotated[Positive | None, Parameter(help="Noise std in input units; estimated when not given.")] = None,
    steps: Annotated[Count | None, Parameter(help="Noise levels [default: 1, or 12 with several samples].")] = None,
    report: Report = False,
    support: Support = False,
    options: Options = Options(),  # noqa: B008 (frozen)
    reading: SeriesOptions = SeriesOptions(),  # noqa: B008 (frozen)
) -> int:
    """Remove noise from an image series, or from every one of a BIDS dataset."""
    from medseq import restore
    from medseq.bids_method import Method
    from medseq.bold_task import restore_bold
    from medseq.io import is_bids
    from medseq.jobs import read_censored
    from medseq.series_jobs import restore_series

    if is_bids(series):
        if censored is not None:
            raise UsageError("--censored is about one series; give one of the dataset's files")
        if support:
            raise UsageError("--support is about one series; give one of the dataset's files")
        method = Method(kind=kind, goal=goal, sigma=sigma, steps=steps, **asdict(options))
        return _restore_dataset(series, output, reading, method)

    def work(clip: Clip, progress: Progress) -> Restored:
        common = {"support": support, "progress": progress, **asdict(options)}
        return restore.denoise(clip, sigma=sigma, steps=steps, **common)

    bad = None if censored is None else read_censored(censored)

    def bold_work(clip: Clip, _: Progress) -> Restored:
        chosen = {name: value for name, value in asdict(options).items() if name != "seed"}  # nothing is drawn
        return restore_bold(clip, goal=goal, sigma=sigma, censored=bad, **chosen)

    settings = {"kind": kind, "goal": goal, "censored": censored, "sigma": sigma, "steps": steps, "support": support}
    settings |= asdict(options)
    print(restore_series("denoise", series, output, settings, work, reading, bold_work, report=report))
    return 0


@app.command(
    help_epilogue=examples(
        "interpolate cine.nii.gz -o smooth.nii.gz", "interpolate cine.nii.gz -o at.nii.gz --times times.txt"
    )
)
def interpolate(
    series: Annotated[Path, Parameter(help="NIfTI file, folder or file of DICOM, or BIDS dataset.")],
    /,
    *,
    output: SeriesOutput,
    factor: Annotated[
        int | None, Parameter(validator=Number(gte=2), help="Frames for every frame [default: 2].")
    ] = None,
    times: Annotated[Path | None, Parameter(help="Text file of the wanted times in seconds.")] = None,
    kind: Kind = "auto",
    steps: Steps = 2,
    report: Report = False,
    options: Options = Options(),  # noqa: B008 (frozen)
    reading: SeriesOptions = SeriesOptions(),  # noqa: B008 (frozen)
) -> int:
    """Fill in frames between those of an image series, or of every one of a BIDS dataset."""
    if factor is not None and times is not None:
        raise UsageError("--factor and --times exclude each other; give one")
    from medseq import restore
    from medseq.bids_method import Method
    from medseq.bold_task import resample_bold
    from medseq.io import is_bids
    from medseq.jobs import read_times
    from medseq.series_jobs import restore_series

    if is_bids(series):
        if times is not None:
            raise UsageError("--times is about one series; a BIDS dataset takes --factor")
        method = Method("interpolate", factor=factor or 2, steps=steps, **asdict(options))
        return _restore_dataset(series, output, reading, method)
    wanted = None if times is None else read_times(times)

    def work(clip: Clip, progress: Progress) -> Restored:
        return restore.interpolate(clip, factor or 2, wanted, steps=steps, progress=progress, **asdict(options))

    def bold_work(clip: Clip, _: Progress) -> Restored:
        return resample_bold(clip, factor or 2, wanted, samples=options.samples)

    settings = {"kind": kind, "factor": factor, "times": wanted, "steps": steps, **asdict(options)}
    print(restore_series("interpolate", series, output, settings, work, reading, bold_work, report=report))
    return 0


def _restore_dataset(dataset: Path, output: Path, reading: SeriesOptions, method: Method) -> int:
    """Restore every series of a BIDS dataset, say what became of them, and return the exit code."""
    from medseq.bids_run import restore_dataset

    if reading != SeriesOptions():
        raise UsageError(f"{dataset}: is a BIDS dataset; --series and the options about DICOM do not apply to it")
    report = restore_dataset(dataset, output, method=method)
    print(f"{len(report.done)} restored, {len(report.unchanged)} unchanged, {len(report.failed)} failed")
    return report.exit_code
