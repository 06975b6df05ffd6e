"""The cases of `benchmark.py`: real series with simulated acquisitions, and real dynamic k-space.

The real data are not part of the project; `MEDSEQ_DATA` names their folder. Nothing here was chosen by looking at
results on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor

from medseq import Clip, KSpace
from medseq.metrics import dynamic_region, nrmse, psnr, ssim, temporal_spectrum_error
from medseq.operators import Fourier
from medseq.patterns import equispaced, pseudo_radial, variable_density
from medseq.simulate import acquire
from medseq.trajectories import golden_radial

Scores = dict[str, float]
CENTRE = 8  # fully sampled middle lines


@dataclass(frozen=True)
class Case:
    """What is known of one acquisition: its name, the truth, the k-space, and where things move."""

    name: str
    truth: Clip
    kspace: KSpace
    region: Tensor

    def score(self, result: Tensor) -> Scores:
        return scores(result, self.truth.data, self.region)


def on_new_lines(case: Case, result: Tensor) -> Scores:
    """Also the power of the lines that were left out over that of the error there, in dB: what a method predicts.

    The only fair judge where the reference is as noisy as the data: the noise of these lines nobody has seen, whereas
    that of the measured ones is part of the reference, which punishes whoever takes it out.
    """
    left_out = ~case.kspace.keep
    whole, found = (Fourier()(series) for series in (case.truth.data, result))
    power, error = (torch.where(left_out, part, 0).abs().square().sum() for part in (whole, found - whole))
    return {**case.score(result), "new lines": 10 * float(torch.log10(power / error))}


def scores(result: Tensor, truth: Tensor, region: Tensor) -> Scores:
    """Fixed-scale metrics of magnitudes: the phase of a reconstruction depends on the reference its maps choose."""
    a, b = result.abs(), truth.abs()
    return {
        "PSNR heart": psnr(a, b, region),
        "PSNR whole": psnr(a, b),
        "NRMSE heart": nrmse(a, b, region),
        "SSIM heart": ssim(a, b, region),
        "SSIM whole": ssim(a, b),
        "temporal spectrum error": temporal_spectrum_error(a, b, region) if truth.shape[2] > 1 else 0.0,
    }


def human_cine(data: Path) -> Tensor:
    """(1, 1, 30, 184, 256) magnitude of a human short-axis cine (`cine_acdc`), largest value about 1."""
    frames = loadmat(data / "cine_acdc" / "demo_data.mat")["demo_data"].astype(np.float32) / 255
    return torch.from_numpy(frames).permute(2, 0, 1)[None, None].contiguous()


def rat_cine(data: Path) -> Tensor:
    """(1, 1, 8, 192, 192) magnitude of a rat's heart (`cine_rat`), largest value 1."""
    frames = loadmat(data / "cine_rat" / "dataCine8fr.mat")["image0"].astype(np.float32)
    series = torch.from_numpy(frames).permute(2, 0, 1)[None, None].contiguous()
    return series / series.max()


def with_phase(magnitude: Tensor, interval: float = 0.03) -> Clip:
    """A gated cycle with a smooth random phase; the files have no geometry: 1.4 mm and `interval` s are assumed."""
    coarse = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    phase = torch.nn.functional.interpolate(coarse, size=magnitude.shape[-2:], mode="bicubic")[:, :, None]
    frames = magnitude.shape[2]
    data = torch.polar(magnitude, phase.expand_as(magnitude))
    return Clip(data, np.diag([1.4, 1.4, 8.0, 1.0]), np.arange(frames) * interval, frames * interval)


def real_maps(data: Path, size: tuple[int, int], coils: int = 8) -> Tensor:
    """(1, coils, 1, Y, X): evenly chosen of 32 measured coil maps, resized and scaled to unit root-sum-of-squares."""
    with h5py.File(data / "coils" / "sens.mat") as file:
        stored = next(v for v in file.values() if isinstance(v, h5py.Dataset))[:]
    maps = torch.from_numpy(stored["real"] + 1j * stored["imag"]).to(torch.complex64)
    coil_axis = maps.shape.index(32)
    maps = maps.movedim(coil_axis, 0).reshape(32, 64, 64)[:: 32 // coils, 12:52, 12:52]
    resized = [torch.nn.functional.interpolate(p[:, None], size=size, mode="bilinear") for p in (maps.real, maps.imag)]
    full = torch.complex(*resized).movedim(1, 2)
    full = full / full.abs().square().sum(0, keepdim=True).sqrt()
    return full[None].reshape(1, coils, 1, *size)


def pattern(family: str, frames: int, size: tuple[int, int], acceleration: float, seed: int) -> Tensor:
    """A mask of one of three families, all with fully sampled middle lines but the last.

    The spokes of the last are as many as make its acceleration the wanted one, to the nearest.
    """
    if family == "variable density":
        return variable_density(frames, size[0], acceleration, CENTRE, seed)
    if family == "equispaced":
        return equispaced(frames, size[0], int(acceleration), CENTRE)
    if family == "pseudo-radial":
        wanted = size[0] * size[1] / acceleration
        one = int(pseudo_radial(1, size, 1).sum())
        return max(
            (pseudo_radial(frames, size, n) for n in range(1, 2 * int(wanted / one) + 4)),
            key=lambda keep: -abs(float(keep.sum()) / frames - wanted),
        )
    raise ValueError(f"no mask family {family}")


def heart_case(
    data: Path, subject: str, acceleration: float, seed: int, family: str = "variable density", exact: bool = False
) -> Case:
    """A simulated acquisition of a real heart: 8 real coil maps, noise of 1 % of the scale in each real channel."""
    truth = with_phase(human_cine(data) if subject == "human" else rat_cine(data))
    kspace, maps = measured(data, truth, acceleration, seed, family)
    name = f"{subject}, {family}, R = {acceleration:g}, {'exact' if exact else 'estimated'} maps, seed {seed}"
    return Case(name, truth, replace(kspace, maps=maps) if exact else kspace, dynamic_region(truth.data))


def measured(
    data: Path, truth: Clip, acceleration: float, seed: int, family: str = "variable density"
) -> tuple[KSpace, Tensor]:
    """The k-space of a series by 8 real coils with noise of 1 % of the scale, and the maps of these coils."""
    size = (truth.data.shape[-2], truth.data.shape[-1])
    maps = real_maps(data, size)
    keep = pattern(family, truth.frames, size, acceleration, seed)
    return acquire(truth, coils=maps, noise=0.01, keep=keep, seed=seed), maps


def radial_case(data: Path, subject: str, spokes: int, seed: int) -> Case:
    """As `heart_case`, along golden-angle spokes, of which every frame takes the next `spokes`."""
    truth = with_phase(human_cine(data) if subject == "human" else rat_cine(data))
    size = (truth.data.shape[-2], truth.data.shape[-1])
    trajectory = golden_radial(truth.frames, size, spokes)
    kspace = acquire(truth, coils=real_maps(data, size), noise=0.01, trajectory=trajectory, seed=seed)
    name = f"{subject}, {spokes} golden-angle spokes, estimated maps, seed {seed}"
    return Case(name, truth, kspace, dynamic_region(truth.data))


def still_case(data: Path, acceleration: float, seed: int) -> Case:
    """One frame of the human heart; the region is that of the whole series."""
    series = human_cine(data)
    truth = replace(with_phase(series[:, :, :1]), period=None)
    size = (series.shape[-2], series.shape[-1])
    keep = variable_density(1, size[0], acceleration, CENTRE, seed)
    kspace = acquire(truth, coils=real_maps(data, size), noise=0.01, keep=keep, seed=seed)
    return Case(f"one frame, R = {acceleration:g}, seed {seed}", truth, kspace, dynamic_region(series))


def hyperpolarized_case(data: Path, nucleus: str, acceleration: float, seed: int) -> Case:
    """Real fully sampled single-coil k-space of a decaying signal (`hp_kspace`), lines left out afterwards.

    The reference carries the noise of the measurement, so errors below it cannot be told.
    """
    stored = loadmat(data / "hp_kspace" / f"t2mapping_{nucleus}_retrospective_data.mat")["data"]
    full = torch.from_numpy(stored.astype(np.complex64)).permute(2, 1, 0)[None, None].contiguous()
    full = full / full.abs().max()
    frames, lines, width = full.shape[2:]
    keep = variable_density(frames, lines, acceleration, CENTRE, seed)
    maps = torch.ones(1, 1, 1, lines, width, dtype=torch.complex64)
    affine, times = np.eye(4), np.arange(frames, dtype=float)
    kspace = KSpace(torch.where(keep, full, 0), keep, maps, None, affine, times)
    image = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(full, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))
    return Case(
        f"hyperpolarized {nucleus}, R = {acceleration:g}, seed {seed}",
        Clip(image, affine, times),
        kspace,
        dynamic_region(image),
    )
