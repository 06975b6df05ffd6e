"""More frames a heartbeat: every cine series of a DICOM study becomes a derived DICOM series with frames in between.

    python pipelines/interpolate_dicom_cine_study.py study -o smooth --factor 2

Each goes into a folder of its own in `smooth`, whole or not at all; those that are there are not made again. Geometry,
patient and frame of reference are those of the source; frames that were not acquired are marked as synthetic, and every
image says that it is for research only (docs/dicom-conformance.md). A series that fails is named: exit 3.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medseq import InputError, MedseqError, interpolate
from medseq.io.dicom import Derivation, DicomSeries, find_series, load_series, save_derived
from medseq.io.weights import weights_path
from medseq.provenance import sha256, staged, stem
from medseq.terminal import exit_code, exit_code_of_many, explained, say

SEED = 0


def derivation(factor: int, prior: str | None) -> Derivation:
    """What the results say of how they were made."""
    weights = weights_path(prior)
    return Derivation(
        task="interpolate",
        description="Frames interpolated in time with a learned video diffusion prior; for research only",
        model=stem(weights),
        model_sha256=sha256(weights),
        options={"factor": factor},
        seed=SEED,
    )


def interpolate_series(source: DicomSeries, output: Path, name: str, factor: int, prior: str | None) -> str:
    """Write one series into the folder `name` of `output`; returns what to tell the user."""
    made = interpolate(load_series(source), factor=factor, prior=prior, seed=SEED).clip
    with staged(output) as place:
        (place / name).mkdir()
        images = save_derived(made, place / name, source, derivation(factor, prior))
    return f"{name}: {len(source.times)} frames became {made.frames}, {len(images)} images"


def interpolate_study(study: Path, output: Path, factor: int, prior: str | None) -> int:
    """Every cine of a study; a series that fails does not stop the others. Returns the exit code."""
    found = find_series(study)
    codes, done = [InputError.exit_code] * len(found.refused), 0
    for refused in found.refused:
        say(f"{refused.what}: {refused.reason}")
    cines = [series for series in found.series if series.kind == "cine"]
    if not cines and not codes:
        raise InputError(f"{study}: holds no cine; medseq info shows what there is")
    for place, source in enumerate(cines, start=1):
        name = f"cine-{place:03d}_series-{source.number}"
        try:
            if not (output / name).exists():
                print(interpolate_series(source, output, name, factor, prior))
            done += 1
        except MedseqError as fault:
            say(f"series {source.number}: {explained(fault)}")
            codes.append(exit_code(fault))
    return exit_code_of_many(codes, some_done=done > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of DICOM files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the derived series")
    parser.add_argument("--factor", type=int, default=2, help="frames for every frame")
    parser.add_argument("--prior", help="another prior than the one that medseq ships")
    options = parser.parse_args()
    try:
        return interpolate_study(options.study, options.output, options.factor, options.prior)
    except MedseqError as fault:
        say(explained(fault))
        return fault.exit_code


if __name__ == "__main__":
    sys.exit(main())
