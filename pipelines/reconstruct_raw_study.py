"""Reconstruct every raw file below a folder: images, a report of each, and one table of all figures.

    python pipelines/reconstruct_raw_study.py scans -o night

`scans` holds ISMRMRD, fastMRI, CMRxRecon, BART or Siemens files (docs/raw-formats.md); images beside them are left
alone. `night/collected/index.html` leads to every image and report, and `figures.csv` has a line for every number. A
broken file costs itself alone and is named: exit 3. The same line goes on after whatever stopped it, does new files as
well, and redoes nothing. docs/studies.md says what a study promises.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseq import InputError, MedseqError
from medseq.study.collect import collect
from medseq.study.manifest import Denoise, Manifest, Reconstruct, save_manifest
from medseq.study.plan import Tasks, plan
from medseq.study.run import Settings, run_study
from medseq.terminal import explained, say


def plan_raw(source: Path, study: Path, task: Reconstruct) -> Manifest:
    """The raw data of a folder alone."""
    everything = plan(source, study, Tasks(Denoise(), task))
    raw = tuple(unit for unit in everything.units if unit.task == task)
    if not raw:
        raise InputError(f"{source}: holds no raw data that medseq reads; see docs/raw-formats.md")
    return everything.model_copy(update={"units": raw, "refused": ()})


def reconstruct_study(source: Path, study: Path, task: Reconstruct, settings: Settings) -> int:
    """Plan, run and collect; returns the exit code."""
    manifest = plan_raw(source, study, task)
    study.mkdir(parents=True, exist_ok=True)
    save_manifest(manifest, study)
    summary = run_study(study, settings)
    print(collect(study))
    return summary.exit_code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of raw data")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--workers", type=int, help="files at a time [default: by GPUs, or cores and memory]")
    options = parser.parse_args()
    try:
        task, settings = Reconstruct(report=True), Settings(workers=options.workers)
        return reconstruct_study(options.source, options.output, task, settings)
    except MedseqError as fault:
        say(explained(fault))
        return fault.exit_code


if __name__ == "__main__":
    sys.exit(main())
