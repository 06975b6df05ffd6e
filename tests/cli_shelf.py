"""What the tests of the command line work on, and how they run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import torch
from dicom_scanner import Truth, scan

from medseq.cli import main
from medseq.clip import Clip, KSpace
from medseq.io import save_clip, save_kspace
from medseq.io.weights import save_prior
from medseq.network import VideoUNet
from medseq.patterns import variable_density
from medseq.prior import Prior, SpreadTable

FRAMES, SIZE = 6, 32


def beating_disc() -> Clip:
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    radius = 8 + 3 * np.cos(2 * np.pi * np.arange(FRAMES) / FRAMES)
    frames = 100 / (1 + np.exp(np.hypot(x, y) - radius[:, None, None])) + 10
    affine = np.diag([-1.5, 1.5, 8.0, 1.0])
    return Clip(torch.tensor(frames, dtype=torch.float32)[None, None], affine, 0.04 * np.arange(FRAMES), 0.04 * FRAMES)


def undersampled(clip: Clip) -> KSpace:
    """Two coils that split the image between them, every frame its own lines."""
    half = torch.linspace(0, np.pi / 2, SIZE)
    maps = torch.stack([half.cos(), half.sin()])[None, :, None, None].expand(1, 2, 1, SIZE, SIZE).to(torch.complex64)
    keep = variable_density(clip.frames, SIZE, 2.0)
    images = torch.fft.ifftshift(maps * clip.data, dim=(-2, -1))
    data = torch.fft.fftshift(torch.fft.fft2(images, norm="ortho"), dim=(-2, -1)) * keep
    return KSpace(data, keep, noise=0.1, affine=clip.affine, times=clip.times, period=clip.period)


def noisy_scan(folder: Path, *args, **options) -> Truth:
    """As `scan`, with noise that can be estimated on top; the truth is without."""
    truth = scan(folder, *args, **options)
    rng = np.random.default_rng(1)
    for file in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(file)
        pixels = np.frombuffer(dataset.PixelData, "<u2")
        dataset.PixelData = (pixels + rng.integers(0, 40, pixels.shape)).astype("<u2").tobytes()
        dataset.save_as(file)
    return truth


def fill_shelf(folder: Path) -> None:
    """A series, its k-space and an untrained, tiny prior: enough to drive every command."""
    clip = beating_disc()
    save_clip(clip, folder / "cine.nii.gz")
    save_kspace(undersampled(clip), folder / "raw.h5")
    still = Clip(clip.data[:, :, :1], clip.affine)
    save_kspace(undersampled(still), folder / "multicoil.fastmri.h5")
    noisy_scan(folder / "study", "ge", slices=1, frames=FRAMES, number=5)
    (folder / "times.txt").write_text("0.0, 0.02\n0.04 0.06\n")
    fill_prior(folder / "tiny.safetensors")


def fill_prior(path: Path, seed: int = 0, card: bool = True) -> None:
    """An untrained, tiny prior and its card, or only its weights, in the place of others."""
    before = None if card else path.with_suffix(".json").read_bytes()
    torch.manual_seed(seed)
    tiny = Prior(VideoUNet((8, 16), 1), 0.3, SpreadTable([0.01, 1.0], [0.005, 0.1]))
    save_prior(tiny, path, {"licence": "test"})
    if before is not None:
        path.with_suffix(".json").write_bytes(before)


def left_behind(folder: Path, shelf: Path) -> list[str]:
    known = {file.name for file in shelf.iterdir()}
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name not in known)


def command(line: str) -> int:
    return main(line.split())


def fails(capsys, arguments: str, code: int, *words: str) -> str:
    """Run a command that must fail with `code` and one line on stderr that holds every one of `words`."""
    assert command(arguments) == code
    output, error = capsys.readouterr()
    assert output == ""
    assert error.count("\n") == 1 and error.startswith("medseq: "), error
    assert "Traceback" not in error
    for word in words:
        assert word in error, error
    return error
