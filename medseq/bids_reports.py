"""One page a subject of a dataset of derivatives, from what lies in it: every series beside its source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medseq import __version__, terminal
from medseq.bids_method import Method, derivative_name, map_name, std_name
from medseq.clip import Clip, KSpace
from medseq.errors import InputError
from medseq.gathering import Restored
from medseq.io import load_clip
from medseq.io.bids import Run, find_runs, load_run
from medseq.io.bids_names import BidsName
from medseq.io.bids_sidecar import read_json
from medseq.provenance import collected_warnings, sha256

if TYPE_CHECKING:
    from medseq.report.blocks import Section

_MODES: tuple[Literal["denoise", "interpolate"], ...] = ("denoise", "interpolate")
# Of a record, what only medseq-bids itself needs.
_INTERNAL = ("fingerprint", "outputs")
# What `bold_task` makes maps of.
_MAPS = ("dof_lost", "removed")


def page_of(run: Run, out: Path) -> Path:
    """Of the subject of a run: `sub-01.html` at the root, where users of fMRIPrep look for it."""
    return out / f"sub-{run.name.entities['sub']}.html"


def write_subject_pages(dataset: Path, out: Path, runs: Iterable[Run]) -> dict[str, Exception]:
    """Write the page of every subject of `runs`: all of the subject's series that are restored in `out`.

    Series of the dataset that are not are named on the page. One page that fails is told on stderr and the others go
    on. Returns the failures by the name of the page.
    """
    pages = {page_of(run, out) for run in runs}
    everything = find_runs(dataset)
    failed: dict[str, Exception] = {}
    for page in sorted(pages):
        try:
            with collected_warnings(lambda _: None):  # they were told when the series were restored
                _write(page, out, [run for run in everything if page_of(run, out) == page])
        except Exception as error:
            terminal.say(f"{page.name}: {terminal.explained(error)}")
            failed[page.name] = error
            page.unlink(missing_ok=True)  # it told of older results
    return failed


def _write(page: Path, out: Path, runs: list[Run]) -> None:
    from medseq.report.page import Page, write_page
    from medseq.report.record import provenance

    sections: list[Section] = []
    warnings: list[str] = []
    for run in runs:
        made = list(_derivatives(run, out))
        if not made:
            warnings.append(f"{run.name.stem}: not restored, and so not shown here")
        for name, content in made:
            if not _is_source(run, content):
                warnings.append(f"{name.stem}: its source has changed since, and so it is not shown here")
                continue
            result = {key: value for key, value in content["result"].items() if key not in _INTERNAL}
            made_how = provenance({**content, "result": result})
            sections.append(replace(_section(run, out, name, content), provenance=made_how))
            warnings += [f"{name.stem}: {text}" for text in content["warnings"]]
    if not sections:
        raise InputError(f"{out}: holds no restored series of {page.stem}; restore some before asking for reports")
    write_page(Page(page.stem, f"{len(sections)} series restored with medseq {__version__}", sections, warnings), page)


def _derivatives(run: Run, out: Path) -> Iterator[tuple[BidsName, dict[str, Any]]]:
    """The names of what a run was restored to, with their records, as far as they are there."""
    names = [derivative_name(run, Method(mode=mode)) for mode in _MODES]
    for name in names[:1] if names[0] == names[1] else names:  # raw data are reconstructed in either mode
        log = out / "logs" / f"{name.stem}.run.json"
        if log.is_file() and (out / run.folder / str(name)).is_file():
            yield name, read_json(log)


def _is_source(run: Run, content: Mapping[str, Any]) -> bool:
    """Whether the files of a run are still those that a record tells of."""
    return {sha256(file) for file in run.files} == {file["sha256"] for file in content["inputs"]}


def _section(run: Run, out: Path, name: BidsName, content: Mapping[str, Any]) -> Section:
    from medseq.report.restored import kspace_section, series_section

    before, _ = load_run(run)
    restored = _read(out / run.folder, name, content, before)
    if isinstance(before, KSpace):
        return kspace_section(name.stem, before, restored)
    return series_section(name.stem, content["command"], before, restored)


def _read(folder: Path, name: BidsName, content: Mapping[str, Any], before: Clip | KSpace) -> Restored:
    """What was written of a run, with the times and the period that its source has."""
    clip = load_clip(folder / str(name))
    same = clip.frames == before.frames and content["command"] != "interpolate"
    clip = replace(clip, times=before.times if same else clip.times, period=before.period)
    std, maps = folder / str(std_name(name)), {key: folder / str(map_name(name, key)) for key in _MAPS}
    return Restored(
        clip,
        std=clip.with_data(load_clip(std).data) if std.is_file() else None,
        info=content["result"],
        maps={key: load_clip(path) for key, path in maps.items() if path.is_file()},
    )
