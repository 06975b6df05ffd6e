"""Classical methods that medseq is compared with and starts from."""

from medseq.baselines.combined import composite_descent, cyclic_descent, kt_composite
from medseq.baselines.filters import non_local_means, total_variation_denoise
from medseq.baselines.interframe import cubic_interpolation, fourier_interpolation, optical_flow_interpolation
from medseq.baselines.kernels import grappa, tgrappa
from medseq.baselines.linear import linear_interpolation, sense, time_average, zero_filled
from medseq.baselines.local_pca import local_pca, local_pca_wiener
from medseq.baselines.patches import locally_low_rank
from medseq.baselines.smoothing import gaussian_smoothing, temporal_low_pass
from medseq.baselines.sparse import kt_sparse, low_rank_sparse
from medseq.baselines.variation import temporal_tv, total_variation
from medseq.baselines.wavelets import wavelet

__all__ = [
    "composite_descent",
    "cubic_interpolation",
    "cyclic_descent",
    "fourier_interpolation",
    "gaussian_smoothing",
    "grappa",
    "kt_composite",
    "kt_sparse",
    "linear_interpolation",
    "local_pca",
    "local_pca_wiener",
    "locally_low_rank",
    "low_rank_sparse",
    "non_local_means",
    "optical_flow_interpolation",
    "sense",
    "temporal_low_pass",
    "temporal_tv",
    "tgrappa",
    "time_average",
    "total_variation",
    "total_variation_denoise",
    "wavelet",
    "zero_filled",
]
