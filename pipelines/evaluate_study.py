"""Judge a study: many cases, several methods, one table of files in; figures, paired statistics and one report out.

    python pipelines/evaluate_study.py study.csv -o judged

The table has a line for each result, with the columns case, method, reference and result, and may have `ventricle` (a
mask around the left ventricle) and `region` (a mask of anything else). Files are NIfTI or DICOM, relative to the table.
The method that comes first is compared with each other one. A case that cannot be used is named and left out: exit 3.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from medseq import Clip, InputError, MedseqError, load_clip
from medseq.evaluate import Evaluation, evaluate_series
from medseq.evaluate_jobs import write_report, write_tables
from medseq.matching import check_grid
from medseq.provenance import RunRecord, collected_warnings, staged
from medseq.summary import summarise
from medseq.terminal import exit_code, explained, say, warn

COLUMNS = {"case", "method", "reference", "result"}
SHOWN = 4  # cases in the report with their series; the series of others are let go

Line = dict[str, str]


def read_table(path: Path) -> dict[str, list[Line]]:
    """The lines of each case, in the order of the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}); check the file") from error
    if not lines or not set(lines[0]) >= COLUMNS:
        raise InputError(f"{path}: needs the columns {', '.join(sorted(COLUMNS))}, and a line for each result")
    cases: dict[str, list[Line]] = {}
    for line in lines:
        cases.setdefault(line["case"], []).append(line)
    return cases


def judge(case: str, lines: list[Line], folder: Path, record: RunRecord) -> Evaluation:
    """One case: every method against the reference of its first line."""

    def load(name: str) -> Clip:
        record.add_input(folder / name)
        return load_clip(folder / name)

    def mask(column: str) -> Tensor | None:
        name = lines[0].get(column)
        if not name:
            return None
        found = load(name)
        check_grid(name, found, lines[0]["reference"], reference)
        return found.data.abs() > 0.5

    reference = load(lines[0]["reference"])
    results = {line["method"]: load(line["result"]) for line in lines}
    if len(results) < len(lines):
        raise InputError(f"{case}: a method has two results; give each a line of its own name")
    region = mask("region")
    regions = None if region is None else {"region": region}
    return evaluate_series(results, reference, case=case, regions=regions, ventricle=mask("ventricle"))


def evaluations(table: Path, record: RunRecord, failed: list[str]) -> Iterator[Evaluation]:
    """Those of all cases that can be used; the names of others go into `failed`."""
    kept = 0
    for case, lines in read_table(table).items():
        try:
            found = judge(case, lines, table.parent, record)
        except MedseqError as error:
            say(explained(error))
            failed.append(case)
            continue
        kept += 1
        yield found if kept <= SHOWN else replace(found, series={})


def run(table: Path, output: Path) -> int:
    """Write everything into `output`; returns the exit code."""
    record, failed = RunRecord("evaluate_study", {"table": table}), []
    with staged(output) as folder, collected_warnings(warn) as record.warnings:
        record.add_input(table)
        judged = list(evaluations(table, record, failed))
        if not judged:
            raise InputError(f"{table}: none of its cases can be used; see the lines above")
        summary = summarise([figure for found in judged for figure in found.figures])
        record.result = {"cases": len(judged), "failed": failed}
        write_tables(folder, judged, summary, record.options)
        write_report(folder, "Study", judged, summary, record)
        record.save(folder / "run.json")
    print(f"{output}: {len(judged)} cases, {len(failed)} failed; {record.elapsed:.0f} s")
    return 3 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    try:
        return run(chosen.table, chosen.output)
    except MedseqError as error:
        say(explained(error))
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
