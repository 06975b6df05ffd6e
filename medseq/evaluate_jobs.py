"""Series judged from files: figures as CSV and JSON, a report for people, and the `run.json` that explains them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from medseq import terminal
from medseq.activation import Stimuli
from medseq.bold_evaluation import evaluate_bold
from medseq.clip import Clip
from medseq.errors import InputError, UsageError
from medseq.evaluate import REFERENCE, Curve, Evaluation, Figure, evaluate_series
from medseq.evaluate_options import EvaluateOptions
from medseq.io import is_nifti, load_clip
from medseq.io.events import load_events
from medseq.jobs import beside
from medseq.matching import check_grid, matched
from medseq.provenance import RunRecord, collected_warnings, plain, staged, stem
from medseq.report.evaluation import evaluation_page
from medseq.report.page import write_page
from medseq.report.record import provenance
from medseq.series_jobs import is_bold, read_series
from medseq.series_options import SeriesOptions
from medseq.summary import Summary, summarise


def evaluate_files(results: Sequence[Path], reference: Path | None, output: Path, options: EvaluateOptions) -> str:
    """Judge the series `results` (NIfTI or DICOM) of one case and write metrics, summary and report into `output`.

    The map of lost degrees of freedom that `medseq denoise` writes beside a BOLD result is taken into account where it
    lies there. Returns what to tell the user. Raises InputError for series that cannot be read or do not agree, and
    UsageError for options that do not go together.
    """
    names = _names(results, options.names)
    _check(options, reference, results)
    record = RunRecord("evaluate", {**asdict(options), "reference": reference, "names": names})
    with staged(output) as folder, collected_warnings(terminal.warn) as record.warnings:
        with record.timed("read"):
            paths = ({} if reference is None else {REFERENCE: reference}) | dict(zip(names, results, strict=True))
            series, bold = _read(paths, options, record)
        with record.timed("evaluate"):
            case = options.case or stem(reference or results[0])
            judge = _judge_bold if bold else _judge
            found = judge(series, paths, case, options, record)
            summary = summarise(found.figures)
        with record.timed("write"):
            write_tables(folder, [found], summary, record.options)
        record.result = {"figures": len(found.figures), "frames": next(iter(found.series.values())).frames}
        write_report(folder, "Evaluation", [found], summary, record)
        record.save(folder / "run.json")
    return f"{output}: {len(found.figures)} figures of {len(results)} results; {record.elapsed:.1f} s"


def write_tables(
    folder: Path, evaluations: Sequence[Evaluation], summary: Summary, settings: Mapping[str, Any]
) -> None:
    """Write `metrics.csv`, `curves.csv` (a number a line) and `summary.json`: means, tests, agreement, settings."""
    _write_figures(folder / "metrics.csv", (figure for found in evaluations for figure in found.figures))
    _write_curves(folder / "curves.csv", (curve for found in evaluations for curve in found.curves))
    content = {"settings": plain(settings), **summary.as_json()}
    (folder / "summary.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_report(
    folder: Path, title: str, evaluations: Sequence[Evaluation], summary: Summary, record: RunRecord
) -> None:
    """Write `report.html`, which says what `record` knows."""
    about = record.content()
    page = evaluation_page(title, evaluations, summary, warnings=about["warnings"], provenance=provenance(about))
    write_page(page, folder / "report.html")


def _write_figures(path: Path, figures: Iterable[Figure]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("case", "method", "metric", "region", "value", "unit"))
        for f in figures:
            table.writerow((f.case, f.method, f.metric, f.region, f"{f.value:.9g}", f.unit))


def _write_curves(path: Path, curves: Iterable[Curve]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("case", "method", "metric", "region", "time", "value", "unit"))
        for c in curves:
            for time, value in zip(c.times.tolist(), c.values.tolist(), strict=True):
                table.writerow((c.case, c.method, c.metric, c.region, f"{time:.9g}", f"{value:.9g}", c.unit))


def _names(results: Sequence[Path], given: Sequence[str]) -> list[str]:
    """What the methods are called: as given, else by their files, else by the folders of these."""
    if not results:
        raise UsageError("RESULT is missing: give the series to judge")
    choices = (
        [list(given)]
        if given
        else [[stem(path) for path in results], [path.absolute().parent.name for path in results]]
    )
    for names in choices:
        if len(set(names)) == len(results) == len(names) and REFERENCE not in names:
            return names
    raise UsageError(
        f"{len(results)} results need as many different names, none of them {REFERENCE}; give each a --name"
    )


def _check(options: EvaluateOptions, reference: Path | None, results: Sequence[Path]) -> None:
    series = len(results) + (reference is not None)
    if options.masks and len(options.masks) != series:
        raise UsageError(
            f"--mask: {series} series need as many masks, that of the reference first; got {len(options.masks)}"
        )
    if options.masks and options.ventricle:
        raise UsageError("--mask and --ventricle exclude each other; give one")
    if options.condition is not None and options.design is None:
        raise UsageError("--condition is one of the events of --design; give both")


def _read(paths: Mapping[str, Path], options: EvaluateOptions, record: RunRecord) -> tuple[dict[str, Clip], bool]:
    """The series at their common times, and whether they are BOLD; they are called by their paths where they differ."""
    clips, bold = {}, options.kind == "bold"
    for path in paths.values():
        record.add_input(path)
        clips[str(path)], dicom = read_series(path, SeriesOptions())
        bold = bold or (options.kind == "auto" and is_bold("auto", path, dicom))
    common = matched(clips)
    return {name: common[str(path)] for name, path in paths.items()}, bold


def _judge(
    series: Mapping[str, Clip], paths: Mapping[str, Path], case: str, options: EvaluateOptions, record: RunRecord
) -> Evaluation:
    if options.design is not None:
        raise UsageError("--design is about BOLD; add --kind bold")
    first_name, first = str(next(iter(paths.values()))), next(iter(series.values()))
    around = None if options.ventricle is None else _mask(options.ventricle, first_name, first, record)
    masks = {
        name: _mask(path, first_name, first, record).expand(first.data.shape)
        for name, path in zip(series, options.masks)  # noqa: B905 (none, or as many)
    }
    return evaluate_series(
        _results(series),
        series.get(REFERENCE),
        case=case,
        regions={stem(path): _mask(path, first_name, first, record) for path in options.regions},
        ventricle=around,
        masks=masks or None,
        perfusion=options.kind == "perfusion",
    )


def _judge_bold(
    series: Mapping[str, Clip], paths: Mapping[str, Path], case: str, options: EvaluateOptions, record: RunRecord
) -> Evaluation:
    if options.masks or options.ventricle:
        raise UsageError("--mask and --ventricle are about the heart; for BOLD give --region")
    first_name, first = str(next(iter(paths.values()))), next(iter(series.values()))
    task, others = (None, []) if options.design is None else _stimuli(options.design, options.condition, record)
    lost = {}
    for name, path in paths.items():
        map_of = path.with_name(beside(path, "dof_lost")) if is_nifti(path) else path / "dof_lost.nii.gz"
        if map_of.is_file():
            lost[name] = _map(map_of, first_name, first, record).data
    return evaluate_bold(
        _results(series),
        series.get(REFERENCE),
        case=case,
        regions={stem(path): _mask(path, first_name, first, record) for path in options.regions},
        task=task,
        others=others,
        dof_lost=lost,
    )


def _results(series: Mapping[str, Clip]) -> dict[str, Clip]:
    return {name: clip for name, clip in series.items() if name != REFERENCE}


def _map(path: Path, like_name: str, like: Clip, record: RunRecord) -> Clip:
    """A map or a series of them on the grid, and at the times, of the series."""
    record.add_input(path)
    clip = load_clip(path)
    check_grid(str(path), clip, like_name, like)
    if clip.frames == 1:
        return clip
    common = matched({like_name: like, str(path): clip})[str(path)]
    if common.frames != like.frames:
        raise InputError(f"{path}: has {common.frames} frames for the {like.frames} of {like_name}; give one or all")
    return common


def _mask(path: Path, like_name: str, like: Clip, record: RunRecord) -> Tensor:
    return _map(path, like_name, like, record).data.abs() > 0.5


def _stimuli(design: Path, condition: str | None, record: RunRecord) -> tuple[Stimuli, list[Stimuli]]:
    """The condition that is tested, and all others."""
    record.add_input(design)
    events = load_events(design)
    if condition is None and len(events) > 1:
        raise UsageError(f"{design}: holds {', '.join(events)}; choose one with --condition")
    chosen = condition or next(iter(events))
    if chosen not in events:
        raise UsageError(f"{design}: holds no {chosen}, but {', '.join(events)}; give one of these as --condition")
    return events[chosen], [stimuli for name, stimuli in events.items() if name != chosen]
