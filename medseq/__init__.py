"""medseq restores dynamic medical image series with one video diffusion prior.

Every public name is importable from here and loads its module at first use, so that `import medseq` costs nothing
and the numerics stay importable on a machine that has only torch and numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers and editors read; a test keeps it equal to the table below
    from medseq.bold import denoise_bold
    from medseq.bold_evaluation import evaluate_bold
    from medseq.bold_kspace import reconstruct_bold
    from medseq.clip import Clip, KSpace, Trajectory
    from medseq.coils import estimate_maps
    from medseq.errors import InputError, MedseqError, MedseqWarning, ResourceError, UsageError
    from medseq.evaluate import evaluate_series
    from medseq.filling import fill_missing
    from medseq.gathering import Restored
    from medseq.generation import generate
    from medseq.io import load_clip, load_kspace, save_clip, save_kspace
    from medseq.io.weights import load_bold_prior, load_prior
    from medseq.measurement import Measurement
    from medseq.metrics import edge_sharpness, hfen, nrmse, profile_error, psnr, ssim, temporal_spectrum_error, tsnr
    from medseq.network import VideoUNet
    from medseq.noise import unit_noise
    from medseq.nonuniform import NonUniform
    from medseq.operators import Coils, Fourier, Identity, LinearOp, Mask
    from medseq.posterior import noise_levels, posterior_samples
    from medseq.prior import Prior, Windowed
    from medseq.reconstruction import reconstruct
    from medseq.restore import denoise, interpolate
    from medseq.solve import cg
    from medseq.summary import summarise
    from medseq.temporal import temporal_statistics
    from medseq.trajectories import binned, golden_radial, golden_spiral
    from medseq.volumes import fill_volumes, insert_dropped, resample

__version__ = "0.1.0"

_NAMES = {
    "medseq.bold": ("denoise_bold",),
    "medseq.bold_evaluation": ("evaluate_bold",),
    "medseq.bold_kspace": ("reconstruct_bold",),
    "medseq.clip": ("Clip", "KSpace", "Trajectory"),
    "medseq.coils": ("estimate_maps",),
    "medseq.errors": ("InputError", "MedseqError", "MedseqWarning", "ResourceError", "UsageError"),
    "medseq.evaluate": ("evaluate_series",),
    "medseq.filling": ("fill_missing",),
    "medseq.gathering": ("Restored",),
    "medseq.generation": ("generate",),
    "medseq.io": ("load_clip", "load_kspace", "save_clip", "save_kspace"),
    "medseq.io.weights": ("load_bold_prior", "load_prior"),
    "medseq.measurement": ("Measurement",),
    "medseq.metrics": (
        "edge_sharpness",
        "hfen",
        "nrmse",
        "profile_error",
        "psnr",
        "ssim",
        "temporal_spectrum_error",
        "tsnr",
    ),
    "medseq.network": ("VideoUNet",),
    "medseq.noise": ("unit_noise",),
    "medseq.nonuniform": ("NonUniform",),
    "medseq.operators": ("Coils", "Fourier", "Identity", "LinearOp", "Mask"),
    "medseq.posterior": ("noise_levels", "posterior_samples"),
    "medseq.prior": ("Prior", "Windowed"),
    "medseq.reconstruction": ("reconstruct",),
    "medseq.restore": ("denoise", "interpolate"),
    "medseq.solve": ("cg",),
    "medseq.summary": ("summarise",),
    "medseq.temporal": ("temporal_statistics",),
    "medseq.trajectories": ("binned", "golden_radial", "golden_spiral"),
    "medseq.volumes": ("fill_volumes", "insert_dropped", "resample"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'medseq' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
