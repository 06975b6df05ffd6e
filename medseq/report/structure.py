"""Whether what a denoiser took away has a structure, as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from medseq.report.blocks import Table
from medseq.smoothness import edge_correlation, neighbour_correlation

_NOTE = (
    "Over the tissue. What lies far from 0 is structure: motion and anatomy know the edges of the image, noise does "
    "not. Noise that the scanner has interpolated is alike in neighbours, too."
)


def structure_table(removed: Tensor, mean: Tensor, mask: Tensor, axes: Sequence[str]) -> Table:
    """removed: (B, 1, T, Y, X). mean: (B, 1, 1, Y, X), the series averaged in time. axes: names of x, y (and z)."""
    rows = [
        [f"Correlation of neighbours {axis}", told(value), "0"]
        for axis, value in zip(axes, neighbour_correlation(removed, mask).tolist(), strict=False)
    ]
    spread = removed.std(2, keepdim=True)[mask]
    edges = edge_correlation(removed, mean, mask) if bool(spread.max() > spread.min()) else math.nan
    rows.append(["Rank correlation of its std with the edges of the image", told(edges), "0"])
    return Table("The structure of what was removed", ["", "removed", "white noise"], rows, _NOTE)


def told(correlation: float) -> str:
    """With its sign; a dash for what cannot be told, as of nothing removed."""
    return f"{correlation:+.3f}" if math.isfinite(correlation) else "–"
