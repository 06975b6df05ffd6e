"""What a second worker gains: the same units of a study by one worker and by two, and the ratio of their times.

    python pipelines/study_efficiency.py -o DIR [--engine slurm] [--units 6]

Units are reconstructions of simulated k-space on one thread. Time counts from the start of the first unit to the end of
the last, by the ledger, so that what it takes to start workers is left out. Use it on a machine that is otherwise idle.

Efficiency is time(1 worker) / (2 time(2 workers)). The share of the time in which workers had a unit is told
beside it: what it lacks of 1 the engine loses (and the end, where units are few); the rest is cores that slow others.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from statistics import mean

from medseq.errors import MedseqError, ResourceError, UsageError
from medseq.jobs import simulate_file
from medseq.study.engine import LOCAL
from medseq.study.ledger import Entry, entry_path, read_entry
from medseq.study.manifest import Denoise, Reconstruct, load_manifest, save_manifest
from medseq.study.plan import Tasks, plan
from medseq.study.run import Settings, run_study
from medseq.terminal import exit_code, explained, say

LEAST = 20  # seconds of a unit, below which the ratio says little


def entries_of(source: Path, study: Path, settings: Settings) -> list[Entry]:
    """Plan and run a study; the last word on each of its units."""
    manifest = plan(source, study, Tasks(Denoise(), Reconstruct()))
    study.mkdir()
    save_manifest(manifest, study)
    if run_study(study, settings).exit_code:
        raise ResourceError(f"{study}: not every unit was done; look at what `medseq study status` says")
    found = [read_entry(entry_path(study, unit.name)) for unit in load_manifest(study).units]
    return [entry for entry in found if entry is not None]


def seconds_of(entries: list[Entry]) -> float:
    """From the start of the first unit to the end of the last."""
    begun = [datetime.fromisoformat(entry.started).timestamp() for entry in entries]
    return max(start + entry.seconds for start, entry in zip(begun, entries, strict=True)) - min(begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--engine", default=LOCAL, help="local or slurm")
    parser.add_argument("--units", type=int, default=6, help="an even number, so that neither of two workers waits")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    try:
        if asked.output.exists():
            raise UsageError(f"{asked.output}: exists; name a new folder (-o)")
        source = asked.output / "source"
        source.mkdir(parents=True)
        phantom = {"frames": asked.frames, "size": (asked.size, asked.size), "slices": 1}
        for number in range(asked.units):
            simulate_file("cine", source / f"raw{number}.h5", phantom=phantom, scan={}, seed=number)
        times = {}
        for workers in (1, 2):
            settings = Settings(asked.engine, workers, 1, 6000, device=asked.device)
            entries = entries_of(source.resolve(), asked.output / f"by{workers}", settings)
            times[workers] = seconds_of(entries)
            busy = sum(entry.seconds for entry in entries)
            unit = mean(entry.seconds for entry in entries)
            share = busy / workers / times[workers]
            print(f"{workers} at a time: {times[workers]:.0f} s, {unit:.1f} s a unit, at work for {share:.3f} of it")
            if unit < LEAST:
                say(f"warning: units of less than {LEAST} s; raise --frames or --size")
    except (MedseqError, OSError) as error:
        say(explained(error))
        return exit_code(error)
    print(f"efficiency on 2 workers: {times[1] / (2 * times[2]):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
