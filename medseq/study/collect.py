"""What a study gave, in one place: figures of all units as CSV, and a page that leads to every result."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from medseq import __version__
from medseq.provenance import staged
from medseq.report.blocks import Block, Page, Section, Table, Text
from medseq.report.page import write_page
from medseq.study.ledger import SEAL
from medseq.study.manifest import Unit, load_manifest
from medseq.study.status import Standing, Status, read_status

COLLECTED = "collected"
_HEADER = ("unit", "task", "figure", "value")


@dataclass(frozen=True)
class _Result:
    """What lies in the folder of a unit that is done; paths are relative to `collected/`. run: its run.json."""

    unit: Unit
    standing: Standing
    main: str
    pages: Sequence[str]
    run: Mapping[str, Any]


def collect(folder: Path) -> str:
    """Write `collected/units.csv`, `figures.csv` and `index.html` of the study in `folder`; returns what to tell.

    Of a BIDS dataset, as long as that is there, `collected/derivatives/` holds what all units made as one dataset.
    Nothing in tables and page names a file of the source, a folder or a person beyond the names of the units. Raises
    InputError for a manifest that is none, ResourceError when they cannot be written.
    """
    manifest, status = load_manifest(folder), read_status(folder)
    standings = {each.unit: each for each in status.units}
    results = [
        _result(folder, unit, standings[unit.name]) for unit in manifest.units if standings[unit.name].state == "done"
    ]
    rows = [row for result in results for row in _figures(result)]
    with staged(folder / COLLECTED) as place:
        _write_csv(place / "figures.csv", _HEADER, rows)
        header = ("unit", "task", "state", "attempts", "seconds", "memory_mb", "exit_code", "reason")
        _write_csv(
            place / "units.csv", header, [[_cell(getattr(each, name)) for name in header] for each in status.units]
        )
        write_page(_page(status, results), place / "index.html")
    source = (folder / manifest.source).resolve()
    datasets = [folder / result.unit.output for result in results if result.unit.format == "bids" and source.is_dir()]
    if datasets:
        from medseq.study.derivatives import merge

        merge(datasets, source, folder / COLLECTED / "derivatives")
    done = f"{len(results)} of {len(status.units)} units done"
    made = "index.html, units.csv, figures.csv" + (", derivatives" if datasets else "")
    return f"{folder / COLLECTED}: {made}; {done}, {len(rows)} figures"


def _result(folder: Path, unit: Unit, standing: Standing) -> _Result:
    output = folder / unit.output
    files = sorted(path for path in output.rglob("*") if path.is_file() and path.name != SEAL)
    relative = [f"../{path.relative_to(folder).as_posix()}" for path in files]
    pages = [path for path in relative if path.endswith(".html")]
    images = [path for path in relative if path.endswith((".nii.gz", ".nii"))]
    main = min(images, key=len) if images and unit.format != "dicom" else f"../{unit.output}/"
    runs = [path for path in files if path.name.endswith("run.json")]
    return _Result(unit, standing, main, pages, read_run(runs[0]) if runs else {})


def read_run(path: Path) -> Mapping[str, Any]:
    """The `run.json` of a result; nothing where it makes no sense."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _figures(result: _Result) -> Iterator[Sequence[str]]:
    """Every number of the run's `result` and `seconds`, what is nested by dotted names."""
    for part in ("result", "seconds"):
        prefix = "" if part == "result" else "seconds."
        for name, value in _numbers(result.run.get(part, {})):
            yield result.unit.name, result.unit.task.command, f"{prefix}{name}", f"{value:.9g}"


def _numbers(content: object, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield name, content


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(header)
        table.writerows([[_harmless(cell) for cell in row] for row in rows])


def _harmless(cell: str) -> str:
    """Text that a spreadsheet does not take for a formula (OWASP, CSV injection)."""
    return f"'{cell}" if cell[:1] in ("=", "+", "@", "\t") or (cell[:1] == "-" and not _is_number(cell)) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _page(status: Status, results: Sequence[_Result]) -> Page:
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items() if count)
    sections = []
    if results:
        sections.append(Section("Results", [_result_table(results)]))
    failed = [each for each in status.units if each.state == "failed"]
    if failed:
        rows = [
            (each.unit, each.task, _cell(each.exit_code) or "limit", str(each.attempts), each.reason or "")
            for each in failed
        ]
        sections.append(Section("Failed", [Table("", ("unit", "task", "exit code", "attempts", "reason"), rows)]))
    rest = [each.unit for each in status.units if each.state not in ("done", "failed")]
    if rest:
        sections.append(Section("Not done", [Text("", [", ".join(rest)])]))
    if status.refused:
        told = [f"{len(status.refused)} files or series of the source cannot be used; study.yaml lists them."]
        sections.append(Section("Refused", [Text("", told)]))
    return Page("Study", counts, sections, provenance={"medseq": __version__})


def _result_table(results: Sequence[_Result]) -> Block:
    rows, links = [], []
    for result in results:
        took = result.standing
        rows.append(
            (
                result.unit.name,
                result.unit.task.command,
                f"{took.seconds:.0f} s",
                f"{took.memory_mb}",
                "report" if result.pages else "",
            )
        )
        links.append((_link(result.main), None, None, None, _link(result.pages[0]) if result.pages else None))
    return Table("", ("unit", "task", "took", "MiB", "page"), rows, links=links)


def _link(path: str) -> str:
    return quote(PurePosixPath(path).as_posix())
