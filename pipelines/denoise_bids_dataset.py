"""Denoise every functional and cardiac series of a BIDS dataset, several runs at a time, into one of derivatives.

    python pipelines/denoise_bids_dataset.py dataset -o night

The derivatives are in `night/collected/derivatives/`, valid by bids-validator; `index.html` beside it leads to the page
of every run, `figures.csv` has a line for every number. A broken run costs itself alone and is named: exit 3. The same
line goes on after whatever stopped it, and redoes nothing whose series, sidecars, options and model are as they were.
For one run after the other, straight into a folder of derivatives, there is `medseq-bids` (docs/bids.md).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseq import InputError, MedseqError
from medseq.io import is_bids
from medseq.study.collect import collect
from medseq.study.manifest import Denoise, Reconstruct, save_manifest
from medseq.study.plan import Tasks, plan
from medseq.study.run import Settings, run_study
from medseq.terminal import explained, say


def denoise_dataset(dataset: Path, study: Path, task: Denoise, settings: Settings) -> int:
    """Plan, run and collect; returns the exit code. Raw cardiac data of the dataset are reconstructed."""
    if not is_bids(dataset):
        raise InputError(f"{dataset}: is no BIDS dataset; give the folder with dataset_description.json")
    manifest = plan(dataset, study, Tasks(task, Reconstruct(prior=task.prior)))
    study.mkdir(parents=True, exist_ok=True)
    save_manifest(manifest, study)
    summary = run_study(study, settings)
    print(collect(study))
    return summary.exit_code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="root of a BIDS dataset")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the study, outside of the dataset")
    parser.add_argument("--goal", choices=("activation", "fluctuations"), default="activation", help="docs/fmri.md")
    parser.add_argument("--workers", type=int, help="runs at a time [default: by GPUs, or cores and memory]")
    options = parser.parse_args()
    try:
        task, settings = Denoise(goal=options.goal), Settings(workers=options.workers)
        return denoise_dataset(options.dataset, options.output, task, settings)
    except MedseqError as fault:
        say(explained(fault))
        return fault.exit_code


if __name__ == "__main__":
    sys.exit(main())
