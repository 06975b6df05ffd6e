"""Classical methods that medseq is compared with and starts from."""

from medseq.baselines.kernels import grappa, tgrappa
from medseq.baselines.linear import linear_interpolation, sense, time_average, zero_filled
from medseq.baselines.patches import locally_low_rank
from medseq.baselines.sparse import kt_sparse, low_rank_sparse
from medseq.baselines.variation import temporal_tv, total_variation
from medseq.baselines.wavelets import wavelet

__all__ = [
    "grappa",
    "kt_sparse",
    "linear_interpolation",
    "locally_low_rank",
    "low_rank_sparse",
    "sense",
    "temporal_tv",
    "tgrappa",
    "time_average",
    "total_variation",
    "wavelet",
    "zero_filled",
]
