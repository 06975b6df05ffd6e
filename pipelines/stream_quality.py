"""Frames reconstructed as they arrive beside the offline result, on a real heart over several beats.

    MEDSEQ_DATA=... python pipelines/stream_quality.py -o runs/stream [--beats 3] [--held 12] [--irregular]

The short-axis cine (`cine_acdc`) is replayed for some beats, measured with ever new lines; one beat more goes before,
of which the calibration is taken, and whose last --held frames (all of them) were held back and are the past of those
that follow. --irregular: every beat has a length of its own (within 15 %) and the chest
rises and falls by 2 voxels, so that no frame ever comes again. Offline are one beat and all frames that the stream saw,
by `medseq.reconstruct` as it comes. Prints PSNR (dB) in the heart, beat by beat, and writes a figure.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import matplotlib
import torch
from benchmark_cases import human_cine, measured, with_phase
from torch import Tensor

import medseq
from medseq import KSpace
from medseq.baselines import kt_sparse, sense
from medseq.causal import Calibrated, CausalReconstruction, calibrated
from medseq.metrics import dynamic_region, psnr
from medseq.operators import Fourier
from medseq.warmstart import sense_operator

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

SLIDING = 12  # frames of the classical sliding windows
EVERY = 5  # frames from one result of a slow baseline to the next


def beating(cine: Tensor, beats: int, irregular: bool) -> Tensor:
    """(1, 1, beats * T, Y, X) magnitudes: the cine again and again, or at other phases and shifted by breathing."""
    if not irregular:
        return cine.repeat(1, 1, beats, 1, 1)
    frames = cine.shape[2]
    g = torch.Generator().manual_seed(0)
    rate = 1 + 0.15 * (2 * torch.rand(beats, generator=g) - 1)
    phase = (rate.repeat_interleave(frames) / frames).cumsum(0)
    spectrum = torch.fft.fft(cine, dim=2) / frames
    order = torch.fft.fftfreq(frames, 1 / frames)
    at_phase = torch.polar(torch.ones(len(phase), frames), 2 * math.pi * phase[:, None] * order)
    moving = torch.einsum("tf,bcfyx->bctyx", at_phase, spectrum)
    shift = 2 * torch.sin(2 * math.pi * torch.arange(len(phase)) / (3.3 * frames))
    ramp = torch.polar(
        torch.ones(len(phase), cine.shape[3]), -2 * math.pi * shift[:, None] * torch.fft.fftfreq(cine.shape[3])
    )
    return torch.fft.ifft(torch.fft.fft(moving, dim=3) * ramp[:, :, None], dim=3).abs()


def part(kspace: KSpace, frames: slice, period: float | None = None) -> KSpace:
    data, keep = kspace.data[:, :, frames], kspace.keep[:, :, frames]
    return replace(kspace, data=data, keep=keep, times=kspace.times[frames], period=period)


def streamed(
    held: KSpace | None, kspace: KSpace, known: Calibrated, options: argparse.Namespace
) -> tuple[Tensor, float]:
    """The images, and CPU seconds a frame. held: the frames held back before them."""
    reconstruction = CausalReconstruction(options.prior, known, device=options.device)
    if held is not None:
        reconstruction.first(held.data, held.keep)
    start, images = time.process_time(), []
    for t in range(kspace.frames):
        images.append(reconstruction.frame(kspace.data[:, :, t : t + 1], kspace.keep[:, :, t : t + 1]))
    return torch.cat(images, 2), (time.process_time() - start) / kspace.frames


def view_shared(kspace: KSpace, known: Calibrated) -> Tensor:
    """Every line as it was last measured (view sharing: Riederer 1988), unfolded by the coils where it never was."""
    y, keep = torch.zeros_like(kspace.data[:, :, :1]), torch.zeros_like(kspace.keep[:, :, :1])
    images = []
    for t in range(kspace.frames):
        now = kspace.keep[:, :, t : t + 1]
        y, keep = torch.where(now, kspace.data[:, :, t : t + 1], y), keep | now
        images.append(sense(y, sense_operator(keep, known.maps), iterations=8))
    return torch.cat(images, 2)


def sliding(kspace: KSpace, known: Calibrated, frames: list[int]) -> Tensor:
    """The newest frame of `kt_sparse` on the last frames, for some of the frames."""
    images = []
    for t in frames:
        window = part(kspace, slice(max(0, t + 1 - SLIDING), t + 1))
        images.append(kt_sparse(window.data, sense_operator(window.keep, known.maps), iterations=20)[:, :, -1:])
    return torch.cat(images, 2)


def by_beat(images: Tensor, truth: Tensor, region: Tensor, frames: int, peak: float) -> list[float]:
    """PSNR in the region, of each beat, over one peak."""
    found = []
    for start in range(0, images.shape[2] - frames + 1, frames):
        beat = slice(start, start + frames)
        true = truth[:, :, beat].abs()
        found.append(psnr(images[:, :, beat].abs(), true, region) + 20 * math.log10(peak / float(true.max())))
    return found


def figure(path: Path, truth: Tensor, results: dict[str, Tensor], frame: int, region: Tensor) -> None:
    """A frame, its error x 5 and a profile over time through the middle of the heart, of each result."""
    peak = float(truth.abs().max())
    column = int(region[0, 0, 0].any(0).nonzero().float().mean())
    columns = {"truth": truth, **results}
    _, axes = plt.subplots(3, len(columns), figsize=(3.4 * len(columns), 8), squeeze=False)
    for k, (name, images) in enumerate(columns.items()):
        error = 5 * (images.abs() - truth.abs()[:, :, : images.shape[2]])
        at = min(frame, images.shape[2] - 1)
        axes[0, k].set_title(name)
        axes[0, k].imshow(images[0, 0, at].abs(), cmap="gray", vmin=0, vmax=0.8 * peak)
        axes[1, k].imshow(error[0, 0, at], cmap="gray", vmin=-peak, vmax=peak)
        axes[2, k].imshow(images[0, 0, :, :, column].abs().T, cmap="gray", vmin=0, vmax=0.8 * peak, aspect="auto")
    for axis in axes.flat:
        axis.set_axis_off()
    plt.tight_layout()
    plt.savefig(path, dpi=70)
    plt.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--beats", type=int, default=3)
    parser.add_argument("--acceleration", type=float, default=8.0)
    parser.add_argument("--held", type=int, help="frames held back, of those before (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--irregular", action="store_true")
    parser.add_argument("--prior")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    if not os.environ.get("MEDSEQ_DATA"):
        raise SystemExit("set MEDSEQ_DATA to the folder that holds cine_acdc and coils")
    data = Path(os.environ["MEDSEQ_DATA"])
    cine = human_cine(data)
    frames, region = cine.shape[2], dynamic_region(cine)
    one = with_phase(cine)
    clip = replace(with_phase(beating(cine, options.beats + 1, options.irregular)), period=None)
    kspace, _ = measured(data, clip, options.acceleration, options.seed)
    known = calibrated(part(kspace, slice(0, frames)))
    count = frames if options.held is None else options.held
    held = part(kspace, slice(frames - count, frames)) if count else None
    kspace, truth = part(kspace, slice(frames, None)), clip.data[:, :, frames:]
    options.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[float]] = {}

    def told(name: str, images: Tensor, true: Tensor = truth, length: int = frames) -> None:
        rows[name] = by_beat(images, true, region, length, float(truth.abs().max()))
        print(f"{name:32}", *(f"{value:6.2f}" for value in rows[name]), flush=True)

    images, seconds = streamed(held, kspace, known, options)
    told("as they arrive", images)
    told("last frame held", torch.cat([images[:, :, :1], images[:, :, :-1]], 2))
    first = part(kspace, slice(0, frames), None if options.irregular else one.period)
    offline = medseq.reconstruct(first, prior=options.prior, device=options.device).clip.data
    told("offline, first beat alone", offline)
    whole = medseq.reconstruct(kspace, prior=options.prior, device=options.device).clip.data
    told("offline, all frames", whole)
    told("view sharing", view_shared(kspace, known))
    some = list(range(EVERY - 1, kspace.frames, EVERY))
    told(f"k-t sparse of the last {SLIDING}", sliding(kspace, known, some), truth[:, :, some], frames // EVERY)
    told("zero-filled", known.maps.conj().mul(Fourier().adjoint(kspace.data)).sum(1, keepdim=True))
    gap = rows["offline, all frames"][-1] - rows["as they arrive"][-1]
    print(f"{seconds:.2f} CPU s a frame; in the last beat {gap:.2f} dB behind offline on all frames")
    name = f"{'irregular' if options.irregular else 'regular'}-{options.acceleration:g}-{options.seed}-{count}"
    (options.out / f"{name}.json").write_text(json.dumps({"psnr_heart": rows, "cpu_seconds": seconds}, indent=1))
    results = {"as they arrive": images, "offline, all frames": whole}
    figure(options.out / f"{name}.png", truth, results, kspace.frames - 2 * frames // 3, region)


if __name__ == "__main__":
    main()
