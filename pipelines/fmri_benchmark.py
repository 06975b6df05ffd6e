"""fMRI denoisers side by side: activation kept, smoothness added, false positives made, in one command.

    MEDSEQ_DATA=... python pipelines/fmri_benchmark.py -o runs/fmri [--case real simulated] [--crop 6:18 8:72 16:72]

Known activation of 1 % and 2 % is put into a real resting series and a simulated one; every method sees the series with
it and without. Each row is a JSON file of its own, written when it is known: a killed run goes on where it stood, and a
row is made anew when the code behind it changes. No method is told the noise, the designs or where the activation is.

How to read the columns. t gain: median ratio of t values in active voxels, of the residual degrees of freedom that are
left where a method says how many it took (a dash under "lost": it does not say, and its t values are too large by an
unknown factor). t at equal FPR: the same with every t over the |t| that 5 % of the voxels exceed by chance, on the
series without activation; the one to compare. bias: GLM(f(x + a)) - GLM(f(x)) over a, less 1. error: rms error of the
amplitudes found, over that without denoising. FPR: at p = 0.05, two-sided, over random designs on the series without
activation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from benchmark import markdown
from fmri_benchmark_cases import Case, Crop, Injection, real_case, simulated_case
from torch import Tensor

import medseq
from medseq import Clip, baselines
from medseq.activation import (
    Glm,
    amplitude_kept,
    critical_t,
    design_matrix,
    detrend,
    false_positive_rate,
    glm,
    lag_one,
    split_half,
    t_gain,
)
from medseq.bold_task import restore_bold
from medseq.io.files import atomic_write
from medseq.io.weights import bold_weights_path, weights_path
from medseq.metrics import tsnr
from medseq.noise import estimate_noise_image
from medseq.smoothness import edge_correlation, fwhm, neighbour_correlation, overall

# A denoised series, and how many degrees of freedom it lost: a number, a map (B, 1, 1, Y, X) or None (it can't tell).
Denoised = tuple[Clip, float | Tensor | None]
Method = Callable[[Clip], Denoised]
Figures = dict[str, float | str]

LOW_PASS = 0.15  # Hz
BLUR = 1.5  # voxels FWHM, in all three directions


def untouched(clip: Clip) -> Denoised:
    return clip, 0.0


def local_pca(clip: Clip) -> Denoised:
    """The noise comes from the Marchenko-Pastur law of every patch."""
    return clip.with_data(baselines.local_pca(clip.data)), None


def local_pca_of_known_noise(clip: Clip) -> Denoised:
    """The noise is estimated, one number a slice."""
    return clip.with_data(baselines.local_pca(clip.data, estimate_noise_image(clip.data))), None


def local_pca_wiener(clip: Clip) -> Denoised:
    return clip.with_data(baselines.local_pca_wiener(clip.data)), None


def gaussian(clip: Clip) -> Denoised:
    size = torch.from_numpy(clip.affine[:3, :3].copy()).norm(dim=0)
    width = BLUR * float(size.log().mean().exp())
    x, y, z = size.tolist()
    return clip.with_data(baselines.gaussian_smoothing(clip.data, width, (x, y, z))), 0.0


def low_pass(clip: Clip) -> Denoised:
    interval = float(clip.times[-1] - clip.times[0]) / (clip.frames - 1)
    slow, lost = baselines.temporal_low_pass(clip.data, LOW_PASS, interval)
    return clip.with_data(slow), float(lost)


def non_local_means(clip: Clip) -> Denoised:
    return clip.with_data(baselines.non_local_means(clip.data)), None  # its means reach over time, too


def mppca_in_3d(clip: Clip) -> Denoised:
    """Local PCA in cubes of 7 voxels, the noise from the Marchenko-Pastur law (Veraart 2016); needs DIPY."""
    from dipy.denoise.localpca import mppca

    return _with_volumes(clip, mppca(_volumes(clip), patch_radius=3)), None


def patch2self(clip: Clip) -> Denoised:
    """Every volume predicted from the others (Fadnavis 2020); needs DIPY."""
    from dipy.denoise.patch2self import patch2self as predicted

    weighting = np.full(clip.frames, 1000.0)  # all volumes alike: none is DIPY's unweighted one
    options = {"shift_intensity": False, "clip_negative_vals": False, "version": 1}
    return _with_volumes(clip, predicted(_volumes(clip), weighting, **options)), None


def _volumes(clip: Clip) -> np.ndarray:
    """(Y, X, slices, T), as DIPY wants it."""
    return clip.data[:, 0].permute(2, 3, 0, 1).numpy()


def _with_volumes(clip: Clip, volumes: np.ndarray) -> Clip:
    return clip.with_data(torch.from_numpy(volumes).permute(2, 3, 0, 1)[:, None].to(clip.data).contiguous())


def ours(clip: Clip) -> Denoised:
    return medseq.denoise(clip).clip, None


def ours_for_bold(clip: Clip) -> Denoised:
    done = medseq.denoise_bold(clip)
    return done.clip, done.dof_lost


def ours_for_fluctuations(clip: Clip) -> Denoised:
    done = restore_bold(clip, goal="fluctuations")
    return done.clip, done.maps["dof_lost"].data


METHODS: dict[str, Method] = {
    "none": untouched,
    "local PCA": local_pca,
    "local PCA, one sigma": local_pca_of_known_noise,
    "local PCA, Wiener": local_pca_wiener,
    "MP-PCA in 3-D": mppca_in_3d,
    f"Gaussian, {BLUR:g} voxels": gaussian,
    f"low-pass, {LOW_PASS:g} Hz": low_pass,
    "non-local means": non_local_means,
    "patch2self": patch2self,
    "medseq, cine prior": ours,
    "medseq, bold": ours_for_bold,
    "medseq, fluctuations": ours_for_fluctuations,
}
NEED_DIPY = ("MP-PCA in 3-D", "patch2self")
FIGURES = ("t gain", "t at equal FPR", "bias %", "error")  # of every signal change
COLUMNS = [
    "method",
    *(f"{what} {change}" for change in ("1%", "2%") for what in FIGURES),
    "smoother %",
    "FPR %",
    "FPR % uncorrected",
    "lost",
    "tSNR",
    "lag 1",
    "split half",
    "removed: edges",
    "removed: neighbours",
    "fluctuation error dB",
    "seconds",
]


def row(case: Case, method: Method) -> Figures:
    """All figures of one method on one case."""
    began = time.perf_counter()
    rest, lost = method(case.clip)
    seconds = time.perf_counter() - began
    found = {**rest_figures(case, rest.data, lost), "seconds": seconds}
    chance = [
        critical_t(series, case.null_designs, case.mask, dof_lost=0.0 if taken is None else taken)
        for series, taken in ((rest.data, lost), (case.clip.data, 0.0))
    ]
    each = [task_figures(case, method, injection, rest.data, lost) for injection in case.injections]
    for figures in each:
        figures["t at equal FPR"] = figures["t gain"] * chance[1] / chance[0]
    for injection, figures in zip(case.injections, each, strict=True):
        found |= {f"{name} {injection.name}": value for name, value in figures.items()}
    for change in ("1%", "2%"):
        alike = [f for i, f in zip(case.injections, each, strict=True) if i.name.startswith(change)]
        found |= {f"{name} {change}": mean([f[name] for f in alike]) for name in FIGURES}
    for name in ("split half", "fluctuation error dB"):
        values = [f[name] for f in each if name in f]
        found |= {name: mean(values)} if values else {}
    return found


def rest_figures(case: Case, rest: Tensor, lost: float | Tensor | None) -> Figures:
    """What is told by the series without activation."""
    residual, before = (detrend(series, case.interval) for series in (rest, case.clip.data))
    width, width_before = (overall(fwhm(series, case.mask, case.voxel_mm)) for series in (residual, before))
    uncorrected = 100 * false_positive_rate(rest, case.null_designs, case.mask)
    found: Figures = {
        "FWHM mm": width,
        "smoother %": 100 * (width / width_before - 1),
        "FPR % uncorrected": uncorrected,
        "FPR %": uncorrected,
        "lost": "-",
        "tSNR": float(tsnr(rest)[case.mask].median()),
        "lag 1": lag_one(residual, case.mask),
    }
    if lost is not None:
        found["FPR %"] = 100 * false_positive_rate(rest, case.null_designs, case.mask, dof_lost=lost)
        found["lost"] = float(torch.as_tensor(lost).expand(case.mask.shape)[case.mask].double().mean())
    removed = case.clip.data - rest
    if bool(removed.any()):
        correlation = neighbour_correlation(removed, case.mask)
        found["removed: neighbours"] = float(correlation[correlation.isfinite()].mean())
        found["removed: edges"] = edge_correlation(removed, case.clip.data.mean(2, keepdim=True), case.mask)
    return found


def task_figures(
    case: Case, method: Method, injection: Injection, rest: Tensor, rest_lost: float | Tensor | None
) -> dict[str, float]:
    """What becomes of one injected activation."""
    design = design_matrix(injection.response, case.interval)

    def fitted(series: Tensor, lost: float | Tensor | None = 0.0) -> Glm:
        return glm(series, design, dof_lost=0.0 if lost is None else lost)

    noisy = injection.into(case.clip.data)
    clip, lost = method(case.clip.with_data(noisy))
    before, after = fitted(noisy), fitted(clip.data, lost)
    injected = before.beta - fitted(case.clip.data).beta
    errors = [(found.beta - injected)[injection.active].square().mean().sqrt() for found in (before, after)]
    figures = {
        "t": float(after.t[injection.active].median()),
        "t gain": t_gain(after, before, injection.active),
        "bias %": 100 * (amplitude_kept(after, fitted(rest, rest_lost), injected, injection.active) - 1),
        "error": float(errors[1] / errors[0]),
    }
    if injection.name.endswith("blocks"):
        figures["split half"] = split_half(clip.data, *case.halves, case.interval, injection.active)
    if case.truth is not None:
        figures["fluctuation error dB"] = fluctuation_error(clip.data, injection.into(case.truth), case.mask)
    return figures


def fluctuation_error(series: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Power of the error of what varies in time over that of the truth, in dB, over the mask; lower is better."""
    found, true = (x.double() - x.double().mean(2, keepdim=True) for x in (series, truth))
    error, power = (torch.where(mask, x, 0).square().sum() for x in (found - true, true))
    return 10 * float(torch.log10(error / power))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def code_behind(name: str) -> str:
    """Hash of the files that a row depends on: all of medseq for its own method, else what is classical."""
    root, here = Path(medseq.__file__).parent, Path(__file__)
    classical = [root / f"{part}.py" for part in ("activation", "smoothness", "noise", "metrics")]
    files = [
        *classical,
        *root.glob("baselines/*.py"),
        *root.glob("phantoms/*.py"),
        here,
        here.with_name("fmri_benchmark_cases.py"),
    ]
    if name.startswith("medseq"):
        files += [*root.glob("*.py"), weights_path(), bold_weights_path()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:12]


def kept_row(path: Path, case: Case, name: str) -> Figures:
    """The row in the file at `path`, made first where it is missing or of other code."""
    key = {"case": case.name, "method": name, "null designs": len(case.null_designs), "code": code_behind(name)}
    if path.exists():
        known = json.loads(path.read_text("utf-8"))
        if known.items() >= key.items():
            return known
    made = {**key, **row(case, METHODS[name]), "threads": torch.get_num_threads()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(made, indent=1), "utf-8")
    return made


def span(words: str) -> slice:
    """`6:18` -> slice(6, 18)."""
    first, last = (int(word) if word else None for word in words.split(":"))
    return slice(first, last)


def cases(chosen: argparse.Namespace) -> list[Case]:
    z, y, x = (span(words) for words in chosen.crop)
    crop: Crop = (z, y, x)
    found = []
    if "real" in chosen.case:
        if "MEDSEQ_DATA" not in os.environ:
            raise SystemExit("set MEDSEQ_DATA to the folder that holds fmri_rest, or choose --case simulated")
        found.append(real_case(Path(os.environ["MEDSEQ_DATA"]), crop, chosen.designs))
    if "simulated" in chosen.case:
        size, slices = ((32, 32), 8) if chosen.quick else ((64, 64), 12)
        found.append(simulated_case(size, slices, chosen.designs))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--case", nargs="+", choices=("real", "simulated"), default=["real", "simulated"])
    parser.add_argument("--crop", nargs=3, metavar=("Z", "Y", "X"), default=[":", ":", ":"], help="6:18 8:72 16:72")
    here = [name for name in METHODS if name not in NEED_DIPY or find_spec("dipy")]
    parser.add_argument("--methods", nargs="+", choices=here, default=here, help="without DIPY, two are left out")
    parser.add_argument("--designs", type=int, default=200, help="random null designs (200)")
    parser.add_argument("--quick", action="store_true", help="a small crop, to see that everything runs")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.crop = ["10:18", "24:56", "28:60"]
    text = []
    for case in cases(chosen):
        rows = []
        for name in chosen.methods:
            rows.append(kept_row(chosen.output / case.name / f"{name}.json", case, name))
            print(json.dumps({column: rows[-1].get(column) for column in COLUMNS}), flush=True)
        used = [column for column in COLUMNS if any(column in found for found in rows)]
        text.append(f"### {case.name}\n\n{markdown(rows, used)}")
    (chosen.output / "fmri_benchmark.md").write_text("\n\n".join(text) + "\n", "utf-8")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
