"""Classical methods that medseq is compared with and starts from."""

from medseq.baselines.linear import linear_interpolation, sense, time_average, zero_filled
from medseq.baselines.sparse import kt_sparse, low_rank_sparse

__all__ = ["kt_sparse", "linear_interpolation", "low_rank_sparse", "sense", "time_average", "zero_filled"]
