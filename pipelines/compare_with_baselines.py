"""medseq beside the classical methods on series of your own: figures, paired statistics and one report.

    python pipelines/compare_with_baselines.py references -o compared --task reconstruct --acceleration 8

`references` holds fully sampled series of little noise (NIfTI); each is a case. It is measured anew, so that the truth
is known: undersampled through simulated coils (reconstruct), with noise (denoise), or every second frame (interpolate).
Every method gets the same, and its result is kept in `compared/results`. Weights of classical methods are fixed; with
--tune each gets those that are best on the reference of the very case, which favours it. medseq has no weights to
choose. `evaluate_study.py` judges: `compared/judged/report.html`. What is no case is named and left out: exit 3.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import evaluate_study
import torch
from benchmark_methods import Method, denoisers, interpolations, reconstructions, tuned
from torch import Tensor

import medseq
from medseq import Clip, InputError, MedseqError, load_clip, psnr, save_clip
from medseq.clip import series_scale
from medseq.io import is_nifti
from medseq.noise import unit_noise
from medseq.provenance import stem
from medseq.simulate import acquire
from medseq.terminal import explained, say


def restored(truth: Clip, options: argparse.Namespace) -> tuple[Clip, list[Method]]:
    """What medseq makes of one case measured anew, and the classical methods for the same measurement."""
    if options.task == "reconstruct":
        kspace = acquire(truth, acceleration=options.acceleration, noise=options.noise, seed=options.seed)
        return medseq.reconstruct(kspace, prior=options.prior).clip, reconstructions(kspace)
    if options.task == "interpolate":
        last = truth.frames if truth.period else truth.frames - 1 | 1  # without a cycle nothing follows the last
        known = replace(truth, data=truth.data[:, :, :last:2], times=truth.times[:last:2])
        ours = medseq.interpolate(known, times=truth.times[:last], prior=options.prior).clip
        return ours, interpolations(known, torch.tensor(truth.times[:last]))
    image, sigma = truth.data.to(torch.complex64), options.noise * float(series_scale(truth.data.mean(2)))
    image = image + sigma * unit_noise(image, torch.Generator().manual_seed(options.seed))
    noisy = truth.with_data(image if truth.is_complex else image.abs())
    return medseq.denoise(noisy, prior=options.prior).clip, denoisers(noisy)


def results(truth: Clip, options: argparse.Namespace) -> Iterator[tuple[str, Clip]]:
    """The series of every method, by its name; medseq's first, with which the others are compared."""
    ours, methods = restored(truth, options)
    yield "medseq", ours

    def score(image: Tensor) -> float:
        return psnr(image.abs(), truth.data[:, :, : image.shape[2]].abs())

    for method in methods:
        image = tuned(method, score).image if options.tune else method.run(*method.start)
        yield method.name, ours.with_data(image)


def lines_of(file: Path, options: argparse.Namespace) -> list[dict[str, str]]:
    """Restore one case; what the table says of it, files relative to the table."""
    case = file.relative_to(options.references).with_name(stem(file)).as_posix()
    reference, lines = os.path.relpath(file, options.output), []
    for method, clip in results(load_clip(file), options):
        result = Path("results", case, f"{method.replace(' ', '_')}.nii.gz")
        (options.output / result.parent).mkdir(parents=True, exist_ok=True)
        save_clip(clip.with_data(clip.data.abs()), options.output / result)
        lines.append({"case": case, "method": method, "reference": reference, "result": result.as_posix()})
    return lines


def compare(options: argparse.Namespace) -> int:
    """Every case by every method, then the judgement; returns the exit code."""
    lines, failed = list[dict[str, str]](), False
    for file in sorted(path for path in options.references.rglob("*") if is_nifti(path)):
        try:
            lines += lines_of(file, options)
            print(f"{file}: done", flush=True)
        except MedseqError as fault:
            say(f"{file}: {explained(fault)}")
            failed = True
    if not lines:
        raise InputError(f"{options.references}: holds no series that can be used; give a folder of NIfTI series")
    table = options.output / "study.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return evaluate_study.run(table, options.output / "judged") or (3 if failed else 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", type=Path, help="folder of NIfTI series")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--task", choices=("reconstruct", "denoise", "interpolate"), default="reconstruct")
    parser.add_argument("--acceleration", type=float, default=8)
    parser.add_argument("--noise", type=float, default=0.01, help="std as a share of the series' scale")
    parser.add_argument("--tune", action="store_true", help="best weights on each reference for the classical methods")
    parser.add_argument("--prior", help="another prior than the one that medseq ships")
    parser.add_argument("--seed", type=int, default=0)
    try:
        return compare(parser.parse_args())
    except MedseqError as fault:
        say(explained(fault))
        return fault.exit_code


if __name__ == "__main__":
    sys.exit(main())
