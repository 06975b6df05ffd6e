"""A prior shown large images in overlapping tiles, where memory does not suffice for the whole.

The network looks at what is near: of a voxel's answer hardly anything comes from further than `MARGIN` away
(docs/measurements.md says how little), so that a tile with that much around it gives nearly what the whole image would.
All frames are in every tile, as what a voxel does over time counts most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseq.errors import ResourceError
from medseq.posterior import Denoiser, Level

MARGIN = 32  # voxels around a tile
SMALLEST = 16  # side of the smallest tile, without its margin
# Of the CPU's allocator, of the convolutions of oneDNN, and of C++.
_TOLD = ("not enough memory", "can't allocate memory", "could not create a primitive", "bad_alloc")
_GRID = 8  # tiles start at multiples of what the network and the patches of its guides do


class Tiled:
    """A prior, called as it is, that sees images in tiles of `side` voxels and the margin around; None: as a whole.

    When memory runs out all the same the side is halved, for good, and the image seen again. Raises ResourceError when
    the smallest tile is too large.
    """

    def __init__(self, prior: Denoiser, side: int | None = None) -> None:
        self.prior, self.side = prior, side

    def __call__(self, x: Tensor, sigma: Level) -> Tensor:
        """As `Prior.forward`."""
        while True:
            try:
                return self._seen(x, sigma)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            # Here rather than above, where the error still holds what was in use.
            self._halve(x)

    def _halve(self, x: Tensor) -> None:
        size = max(x.shape[-2:])
        side = size if self.side is None else min(self.side, size)
        if side <= SMALLEST:
            raise ResourceError(
                f"out of memory even with {x.shape[2]} frames of {SMALLEST + 2 * MARGIN} voxels at a time; "
                "free some, or give a shorter series"
            )
        self.side = max(SMALLEST, -(-side // (2 * _GRID)) * _GRID)
        if x.is_cuda:
            torch.cuda.empty_cache()

    def _seen(self, x: Tensor, sigma: Level) -> Tensor:
        height, width = x.shape[-2:]
        if self.side is None or self.side >= max(height, width):
            return self.prior(x, sigma)
        out = torch.empty_like(x)
        for top in range(0, height, self.side):
            for left in range(0, width, self.side):
                above, before = max(0, top - MARGIN), max(0, left - MARGIN)
                tile = x[..., above : top + self.side + MARGIN, before : left + self.side + MARGIN]
                answer = self.prior(tile, sigma)[..., top - above :, left - before :]
                out[..., top : top + self.side, left : left + self.side] = answer[..., : self.side, : self.side]
        return out


def tile_voxels(size: tuple[int, int], side: int | None) -> int:
    """Voxels of an image of `size` (Y, X) that are seen at once."""
    reach = max(size) if side is None else side + 2 * MARGIN
    return min(size[0], reach) * min(size[1], reach)


def sides(size: tuple[int, int]) -> list[int | None]:
    """Sides of tiles to choose from, each half of the one before."""
    found: list[int | None] = [None]
    side = max(size)
    while side > SMALLEST:
        side = max(SMALLEST, -(-side // (2 * _GRID)) * _GRID)
        found.append(side)
    return found


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; of the CPU's torch says so in the text of a RuntimeError only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TOLD)
