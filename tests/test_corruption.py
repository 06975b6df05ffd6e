"""What the network is trained to undo: the level it is told is the error that is there, and known frames stay known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseq.corruption import LEAST, aliased, denoised, noisy, skipped


def clips(frames: int, slices: int = 3, size: int = 32) -> Tensor:
    """Smooth blobs that move: (slices, 1, frames, size, size) complex64."""
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    phase = 2 * torch.pi * torch.arange(frames) / max(frames, 1)
    centre = 5 * torch.sin(phase)[:, None, None]
    one = torch.exp(-((y - centre) ** 2 + (x + 3) ** 2) / 30) + 0.3 * torch.exp(-(y**2 + x**2) / 200)
    return one.to(torch.complex64).expand(slices, 1, -1, -1, -1).contiguous()


def rms(error: Tensor, dim: tuple[int, ...]) -> Tensor:
    return (error.abs().square() / 2).mean(dim).sqrt()


def test_white_noise_has_its_level_in_each_frame() -> None:
    level = torch.tensor([0.1, 0.5]).view(1, 1, 2, 1, 1)
    clean = torch.zeros(1, 1, 2, 128, 128, dtype=torch.complex64)
    image = noisy(clean, level, torch.Generator().manual_seed(0))
    torch.testing.assert_close(rms(image, (0, 1, 3, 4)), torch.tensor([0.1, 0.5]), rtol=0.03, atol=0)


@pytest.mark.parametrize("frames", [1, 8])
def test_aliased_clips_are_wrong_by_what_is_told(frames: int) -> None:
    """To the 30 % (as a log-normal) by which an estimate may be off; the errors are larger along the lines' axis."""
    clean, ratios = clips(frames), []
    for seed in range(16):
        image, level = aliased(clean, torch.Generator().manual_seed(seed))
        assert image.shape == clean.shape and level.shape == (3, 1, frames, 1, 1)
        error = rms(image - clean, (1, 2, 3, 4))
        assert bool((error > 0).all()) and bool((error < 0.3).all())
        assert float(level.min()) >= LEAST
        ratios += (level[:, 0, 0, 0, 0] / error.clamp(min=LEAST)).log().tolist()
    spread = torch.tensor(ratios)
    assert abs(float(spread.mean())) < 0.2 and 0.15 < float(spread.std()) < 0.45


def test_filtered_clips_hold_the_noise_that_is_told() -> None:
    """Where nothing is, the filter takes all noise out, and what is left is the share that is told."""
    nothing = torch.zeros(2, 1, 6, 64, 64, dtype=torch.complex64)
    for seed in range(8):
        image, level = denoised(nothing, torch.Generator().manual_seed(seed))
        assert level.shape == (2, 1, 6, 1, 1)
        told, left = float(level[0, 0, 0, 0, 0]), float(rms(image, (0, 1, 2, 3, 4)))
        assert told == pytest.approx(max(LEAST, left), rel=0.1)
        clean = clips(6)
        image, level = denoised(clean, torch.Generator().manual_seed(seed))
        assert float(rms(image - clean, (0, 1, 2, 3, 4)).max()) < 3 * float(level.max())


@pytest.mark.parametrize("periodic", [True, False])
def test_skipped_frames_are_interpolated_and_known_ones_noisy(periodic: bool) -> None:
    clean = clips(9)
    for seed in range(10):
        image, level = skipped(clean, periodic, torch.Generator().manual_seed(seed))
        levels = level[0, 0, :, 0, 0]
        sigma = float(levels[0])
        known = levels == sigma
        assert 2 <= int(known.sum()) < 9 and bool(known[0]) and (periodic or bool(known[-1]))
        error = rms((image - clean)[:, :, known], (0, 1, 3, 4))
        torch.testing.assert_close(error, torch.full_like(error, sigma), rtol=0.1, atol=0)
        gaps = (~known).nonzero().flatten()
        between = gaps[(gaps > 0) & (gaps < 8)]
        both = [int(t) for t in between if known[t - 1] and known[(t + 1) % 9] and t + 1 < 9]
        for t in both:
            torch.testing.assert_close(image[:, :, t], (image[:, :, t - 1] + image[:, :, t + 1]) / 2)
