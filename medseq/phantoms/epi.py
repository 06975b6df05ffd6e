"""What echo-planar imaging (EPI) does to an object: point spread, zero-filling, and noise amplified by acceleration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.phantoms.scenes import chance, uniform

# Reconstructions regularise what would amplify noise more than this.
_MOST_AMPLIFIED = 3.0


@dataclass(frozen=True)
class Encoding:
    """An EPI readout: which part of k-space is measured, and how it is weighted.

    stored: (Y, X) of the images. sampled: (y,) and decay: (y,), over the acquired lines along the phase encoding: the
    reconstruction's filter, zero where partial Fourier leaves lines out, and the signal's T2* decay (Jesmanowicz 1998).
    filtered: (x,), the filter along the readout.
    """

    stored: tuple[int, int]
    sampled: Tensor
    decay: Tensor
    filtered: Tensor

    @staticmethod
    def ideal(stored: tuple[int, int]) -> Encoding:
        """The stored matrix fully acquired in no time."""
        return Encoding(stored, torch.ones(stored[0]), torch.ones(stored[0]), torch.ones(stored[1]))

    @staticmethod
    def random(stored: tuple[int, int], generator: torch.Generator) -> Encoding:
        """Matrix of 0.75 to 1 of the stored one, partial Fourier 6/8 to 8/8, 15 to 45 ms of readout, some filters."""
        g = generator
        share = 1.0 if chance(g, 0.4) else uniform(g, 0.75, 1)
        lines, samples = (max(8, round(share * n / 2) * 2) for n in stored)
        lines, samples = min(lines, stored[0]), min(samples, stored[1])
        strength = uniform(g, 0, 0.9) if chance(g, 0.5) else 0.0
        left_out = (0, 1, 2)[int(uniform(g, 0, 2.999))] * lines // 8
        sampled = _filter(lines, strength) * (torch.arange(lines) >= left_out)
        # ky = 0 is read at the echo time, and its weight is 1
        seconds = (torch.arange(lines) - lines // 2) / lines * uniform(g, 0.015, 0.045)
        return Encoding(stored, sampled, torch.exp(-seconds / uniform(g, 0.035, 0.06)), _filter(samples, strength))

    def image(self, thing: Tensor) -> Tensor:
        """The images (..., Y, X), complex64, of objects on a lattice at least as fine as the acquired matrix."""
        lines, samples = len(self.sampled), len(self.filtered)
        spectrum = torch.fft.fftshift(torch.fft.fft2(thing), dim=(-2, -1))
        weights = (self.sampled * self.decay)[:, None] * self.filtered
        ratio = math.prod(self.stored) / (thing.shape[-2] * thing.shape[-1])
        return self._zero_filled(_middle(spectrum, (lines, samples)) * weights) * ratio

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Complex noise (*shape, Y, X) of unit std in each real channel, with the correlation of the readout."""
        weights = self.sampled[:, None] * self.filtered
        channels = torch.randn(*shape, *weights.shape, 2, generator=generator)
        # an inverse transform divides by the number of voxels, the noise of a sum grows with its root
        gain = math.prod(self.stored) / float(weights.norm())
        return gain * self._zero_filled(torch.view_as_complex(channels) * weights)

    def _zero_filled(self, spectrum: Tensor) -> Tensor:
        full = spectrum.new_zeros(*spectrum.shape[:-2], *self.stored)
        _middle(full, (spectrum.shape[-2], spectrum.shape[-1])).copy_(spectrum)
        return torch.fft.ifft2(torch.fft.ifftshift(full, dim=(-2, -1)))


def _middle(spectrum: Tensor, size: tuple[int, int]) -> Tensor:
    """The central (y, x) of a centred spectrum (..., Y, X), DC at index N // 2 in both."""
    for dim, n in zip((-2, -1), size, strict=True):
        spectrum = spectrum.narrow(dim, spectrum.shape[dim] // 2 - n // 2, n)
    return spectrum


def _filter(count: int, strength: float) -> Tensor:
    """A raised-cosine filter over k-space, 1 at its centre and 1 - strength at its edges."""
    k = (torch.arange(count) - count // 2) / count
    return 1 - strength * (0.5 - 0.5 * torch.cos(2 * math.pi * k))


def head_coil(place: Tensor, coils: int, generator: torch.Generator) -> Tensor:
    """Sensitivities (C, B, Y, X), complex, of loops on a helmet about positions `place` (3, B, Y, X) in mm.

    Each falls with the distance from its loop as the field on a loop's axis does, and its phase turns with it.
    """
    g = generator
    turn, radius = uniform(g, 0, 2 * math.pi), uniform(g, 30, 65)
    maps = []
    for coil in range(coils):
        # even over the upper part of an ellipsoid that fits a head closely: golden-angle spiral
        height = -0.5 + 1.4 * (coil + 0.5) / coils
        angle = coil * math.pi * (3 - math.sqrt(5)) + turn
        ring = math.sqrt(max(0.0, 1 - height**2))
        loop = torch.tensor([115 * height, 120 * ring * math.sin(angle), 100 * ring * math.cos(angle)])
        loop = loop * uniform(g, 0.95, 1.3)  # heads do not lie in the middle
        away = place - loop.view(3, 1, 1, 1)
        distance = away.square().sum(0).sqrt()
        phase = torch.atan2(away[1], away[2]) + distance / 60
        maps.append(torch.polar((1 + (distance / radius).square()) ** -1.5, phase))
    return torch.stack(maps)


def g_factor(maps: Tensor, support: Tensor, reduction: float, bands: int) -> Tensor:
    """Noise amplification (B, Y, X), at least 1, of SENSE along Y with simultaneous slices (Pruessmann 1999, eq. 23).

    maps: (C, B, Y, X). support: bool (B, Y, X), where there is an object: only that folds. reduction: of the lines,
    1 or more and not always whole. bands: slices excited at once, blipped by fractions of the folded field of view
    (Setsompop 2012). No more than 3.
    """
    slices, height = support.shape[:2]
    members, present = [maps], [torch.ones_like(support)]
    b, y = torch.arange(slices)[:, None], torch.arange(height)
    for band in range(bands):
        for fold in range(-math.ceil(reduction), math.ceil(reduction) + 1):
            other = (b + band * slices // bands) % slices
            line = y + round((fold + band / bands) * height / reduction)
            within = (line >= 0) & (line < height) & ((band == 0) | (other != b))
            if (band == 0 and fold == 0) or not bool(within.any()):
                continue
            line = line.clamp(0, height - 1)
            present.append(support[other, line] & within[..., None])
            members.append(maps[:, other, line] * present[-1])
    folded = torch.stack(members, -1).movedim(0, -2)  # (B, Y, X, C, members)
    gram = folded.mH @ folded
    # those that are not there are nobody's neighbours
    gram = gram + torch.diag_embed((~torch.stack(present, -1)).to(gram.dtype))
    gram = gram + 1e-4 * gram[..., :1, :1] * torch.eye(len(members), dtype=gram.dtype)
    amplified = (torch.linalg.inv(gram)[..., 0, 0].real * gram[..., 0, 0].real).clamp(min=1).sqrt()
    return amplified.clamp(max=_MOST_AMPLIFIED)
