"""Still frames, and pairs of them that show one slice in two phases of the heart beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stills:
    """Real magnitude frames to animate.

    images: (N, Y, X) float. partner: (N,) index of the same slice in another phase, or of the frame itself. flow:
    (N, Y, X, 2) pixels (y, x): images[partner] at r + flow(r) is what images[n] shows at r; zero without a partner.
    """

    images: Tensor
    partner: Tensor
    flow: Tensor

    @staticmethod
    def single(images: Tensor) -> Stills:
        """Frames that have no partners."""
        return Stills(images, torch.arange(len(images)), torch.zeros(*images.shape, 2, dtype=torch.float16))

    def __len__(self) -> int:
        return len(self.images)

    def part(self, first: int, end: int) -> Stills:
        """Frames first to end - 1; a partner beyond them is forgotten."""
        inside = (self.partner >= first) & (self.partner < end)
        partner = torch.where(inside, self.partner, torch.arange(len(self)))
        flow = torch.where(inside[:, None, None, None], self.flow, torch.zeros((), dtype=self.flow.dtype))
        return Stills(self.images[first:end], partner[first:end] - first, flow[first:end])
