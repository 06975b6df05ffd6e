# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour of medseq
#
# Part 1 takes a beating heart from k-space to images, part 2 takes an fMRI run from noise to activation. Both are
# **simulated**, so that the truth is known, and a simulation flatters every method that learned from simulations:
# [measurements.md](../measurements.md) has the figures of real hearts and real runs. What the text says about results
# is asserted in the code below it, so it holds for the version that you run. It takes about a minute on two cores.
#
# Open it in Jupyter with jupytext, or run it: `python docs/notebooks/tour.py`.

# %%
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import torch

import medseq
from medseq import baselines
from medseq.activation import amplitude_kept, brain_mask, critical_t, design_matrix, glm
from medseq.metrics import dynamic_region, rank_correlation
from medseq.noise_map import noise_map
from medseq.phantoms.bold import block_design
from medseq.simulate import simulate_bold

SAMPLE = Path(medseq.__file__).parent.parent / "sample_data"
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"  # told apart by colour-blind people, too
plt.rcParams.update({"figure.dpi": 100, "font.size": 10, "image.interpolation": "nearest"})


def show(axes, image, title="", **style):
    """An image without ticks."""
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)
    return axes.imshow(image, **style)


# %% [markdown]
# ## 1. A heart
#
# ### What was measured
#
# Everything in medseq has five axes, `(B, C, T, Y, X)`: slices, coils, frames, phase-encoding lines, readout. The
# sample was measured by 8 coils in 20 frames of one heartbeat, and of its 104 lines each frame has 13: 8 in the
# middle, the others drawn anew in each frame.

# %%
kspace = medseq.load_kspace(SAMPLE / "cine.h5")
truth = medseq.load_clip(SAMPLE / "cine_truth.nii.gz")
assert kspace.data.shape == (1, 8, 20, 104, 104)
lines = kspace.keep[0, 0, :, :, 0]  # (T, Y): True where measured
assert (lines.sum(1) == 13).all() and lines[:, 48:56].all()

# %% [markdown]
# `A = Mask . Fourier . Coils` is what the scanner did to the images. Its adjoint is the plainest way back: lines that
# were not measured are taken as zero. What is left out comes back as aliases over the whole image.

# %%
A = medseq.Mask(kspace.keep) @ medseq.Fourier() @ medseq.Coils(medseq.estimate_maps(kspace))
zero_filled = baselines.zero_filled(kspace.data, A).abs()
moving = dynamic_region(truth.data)  # bool: where the truth moves
white = float(np.percentile(truth.data, 99.5))
middle = kspace.frames // 2

figure, axes = plt.subplots(1, 3, figsize=(10, 3.5), layout="constrained")
axes[0].imshow(lines.T, cmap="gray_r", aspect="auto")
axes[0].set(title="Lines measured", xlabel="frame", ylabel="phase-encoding line")
show(axes[1], zero_filled[0, 0, middle], "Zero-filled", cmap="gray", vmax=white)
show(axes[2], truth.data[0, 0, middle], "Truth, and the region that moves", cmap="gray", vmax=white)
outline = axes[2].contour(moving[0, 0, 0], [0.5], colors=ORANGE, linewidths=1.5)

# %% [markdown]
# ### Reconstruction
#
# `reconstruct` starts from a classical result and lets the prior and the measured lines take turns. Beside it stands
# L+S (low rank plus sparse), a classical method that knows about time. Errors are counted at fixed scale (nothing is
# normalised), and in the region that moves: most of the image stands still and would flatter everybody.

# %%
restored = medseq.reconstruct(kspace)
versions = {
    "zero-filled": zero_filled,
    "L+S": baselines.low_rank_sparse(kspace.data, A).abs(),
    "medseq": restored.clip.data.abs(),
}
decibels = {name: medseq.psnr(series, truth.data, moving) for name, series in versions.items()}
for name, series in versions.items():
    profile = medseq.profile_error(series, truth.data, moving)
    print(f"{name:12} {decibels[name]:5.1f} dB, SSIM {medseq.ssim(series, truth.data, moving):.2f}, x-t {profile:.2f}")

# %% [markdown]
# medseq is at least 2 dB better than L+S here, and more than 10 dB better than zero-filling. Below: one frame, its
# error five times brighter, and the dotted column over time, where blurred or invented motion would show.

# %% tags=["cine"]
column = int((truth.data.std(2) * moving[:, :, 0])[0, 0].sum(0).argmax())
shown = {**versions, "truth": truth.data}
figure, axes = plt.subplots(3, 4, figsize=(10, 7.7), layout="constrained")
for down, (name, series) in zip(axes.T, shown.items(), strict=True):
    frames = series[0, 0]
    caption = f"\n{decibels[name]:.1f} dB where it moves" if name in decibels else "\n(simulated)"
    show(down[0], frames[middle], name + caption, cmap="gray", vmin=0, vmax=white)
    down[0].axvline(column, color="white", linestyle=":", linewidth=1)
    error = (frames - truth.data[0, 0]).abs()[middle]
    show(down[1], error, cmap="inferno", vmin=0, vmax=white / 5)
    down[1].set_visible(name != "truth")
    show(down[2], frames[:, :, column].T, cmap="gray", vmin=0, vmax=white, aspect="auto")
for row, label in zip(axes[:, 0], ("image", "error x 5", "column over time"), strict=True):
    row.set_ylabel(label)

assert decibels["medseq"] > decibels["L+S"] + 2 and decibels["medseq"] > decibels["zero-filled"] + 10

# %% [markdown]
# ### Several answers to one measurement
#
# Many series agree with 13 lines a frame. `samples` draws several; `clip` is their mean and `std` says where they
# differ. Four short draws say where to look twice: the std ranks voxels by error better than chance does (a rank
# correlation above 0.1). They do not say that a structure is real.

# %%
drawn = medseq.reconstruct(kspace, samples=4, steps=4)
error = (drawn.clip.data.abs() - truth.data).abs()
ranks = rank_correlation(drawn.std.data, error, moving)
print(f"rank correlation of std and error where it moves: {ranks:.2f}")

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
show(axes[0], drawn.clip.data[0, 0, middle].abs(), "Mean of four draws", cmap="gray", vmin=0, vmax=white)
top = float(error[0, 0, middle].quantile(0.995))
spread = float(drawn.std.data[0, 0, middle].quantile(0.995))
for one, image, limit, title in (
    (axes[1], drawn.std.data, spread, "Std (a scale of its own)"),
    (axes[2], error, top, "Error"),
):
    figure.colorbar(show(one, image[0, 0, middle], title, cmap="viridis", vmin=0, vmax=limit), ax=one, shrink=0.8)

assert ranks > 0.1

# %% [markdown]
# ### Denoising
#
# Noise of 5 % on a magnitude series. Its level is estimated, and the bias that it leaves in dark voxels (Rician) is
# taken out. The result is at least 5 dB better where it moves.

# %%
level = 0.05 * white
noise = level * medseq.unit_noise(truth.data.to(torch.complex64), torch.Generator().manual_seed(0))
noisy = truth.with_data((truth.data + noise).abs())
clean = medseq.denoise(noisy)
before, after = (medseq.psnr(clip.data, truth.data, moving) for clip in (noisy, clean.clip))
print(
    f"noise estimated {clean.info['noise'][0]:.4f}, added {level:.4f}; where it moves {before:.1f} dB -> {after:.1f} dB"
)

figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), layout="constrained")
for one, clip, title in zip(axes, (noisy, clean.clip, truth), ("Noisy", "Denoised", "Truth"), strict=False):
    show(one, clip.data[0, 0, middle], title, cmap="gray", vmin=0, vmax=white)
removed = (noisy.data - clean.clip.data)[0, 0, middle]
show(axes[3], removed, "What was removed", cmap="gray", vmin=-3 * level, vmax=3 * level)

assert after > before + 5 and abs(clean.info["noise"][0] / level - 1) < 0.1

# %% [markdown]
# Look at what was removed: it should look like noise, and edges in it are detail that is gone.
#
# ### Frames in between
#
# Every second frame is left out and filled in again, at the very times that are wanted. On this phantom that is at
# least 3 dB better where it moves than straight lines in time. Do not expect as much of a real heart, where medseq
# gained 0.2 dB over the best classical method.

# %%
half = replace(truth, data=truth.data[:, :, ::2], times=truth.times[::2])
whole = medseq.interpolate(half, times=truth.times)
known, wanted = (torch.tensor(times) for times in (half.times, truth.times))
linear = baselines.linear_interpolation(half.data, known, wanted, truth.period)
left_out = slice(1, None, 2)
gains = {
    name: medseq.psnr(series[:, :, left_out], truth.data[:, :, left_out], moving)
    for name, series in {"straight lines": linear, "medseq": whole.clip.data}.items()
}
print(", ".join(f"{name} {value:.1f} dB" for name, value in gains.items()))

assert gains["medseq"] > gains["straight lines"] + 3

# %% [markdown]
# ### Files
#
# NIfTI keeps the place of every voxel and the time of every frame; what comes back is the same to the last bit of
# single precision, and so are its affine, times and the length of the heartbeat.

# %%
with TemporaryDirectory() as folder:
    path = Path(folder) / "restored.nii.gz"
    medseq.save_clip(restored.clip, path)
    again = medseq.load_clip(path)

assert torch.equal(again.data, restored.clip.data)
assert np.allclose(again.affine, restored.clip.affine, rtol=0, atol=1e-5)  # mm
assert np.allclose(again.times, restored.clip.times, rtol=0, atol=1e-6)  # s
assert np.isclose(again.period, restored.clip.period)

# %% [markdown]
# ## 2. A run of fMRI
#
# Activation is a change of one or two per cent, of which a prior of hearts would take a part for noise. So
# `denoise_bold` follows another rule: what could be a haemodynamic response (slow and wide) stays as it is, and of
# the rest a share goes, as large as measured limits allow. Its default goal is activation without bias, not the
# prettiest series.
#
# The run has blocks of 16 s, thermal noise of 10 units, breathing, pulse and drift. A twin of it without the task,
# but with the very same noise, tells what chance put into the maps.

# %%
INTERVAL, NOISE = 2.0, 10.0  # seconds a volume; units
run, activation = simulate_bold(frames=100, slices=5, change=0.05, noise=NOISE / 1000, repetition_time=INTERVAL)
rest, _ = simulate_bold(frames=100, slices=5, change=0.0, noise=NOISE / 1000, repetition_time=INTERVAL)
brain = brain_mask(run.data)
active = brain & (activation.data > 0.5 * activation.data.max())
sigma = noise_map(run.data)
found = float(sigma.expand_as(brain)[brain].median())
print(f"noise: {found:.2f} found, {NOISE:.2f} simulated; {int(active.sum())} active voxels")

# %% [markdown]
# The level of noise is read from the run itself, voxel by voxel, to within 5 % of the truth.

# %%
z = int(active.sum((1, 2, 3, 4)).argmax())  # the slice with the most of it
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
show(axes[0], run.data[z, 0].mean(0), "Mean over time", cmap="gray")
noise_shown = np.where(brain[z, 0, 0], sigma.expand_as(brain)[z, 0, 0], np.nan)
figure.colorbar(
    show(axes[1], noise_shown, "Noise, std (true: 10)", cmap="viridis", vmin=0.8 * NOISE, vmax=1.2 * NOISE),
    ax=axes[1],
    shrink=0.8,
)
figure.colorbar(
    show(axes[2], 100 * activation.data[z, 0, 0], "True activation (%)", cmap="magma", vmin=0), ax=axes[2], shrink=0.8
)

assert abs(found / NOISE - 1) < 0.05

# %% [markdown]
# ### Before and after
#
# A linear model of the task is fitted to every voxel (`glm`). Denoising costs degrees of freedom, because it removes
# more of the fast fluctuations than of the slow ones; told how many (`dof_lost`), the model does not call its t
# values larger than they are. Beside it: local PCA, a popular denoiser, and a Gaussian blur of 5 mm.


# %%
def pca(clip):
    return clip.with_data(baselines.local_pca(clip.data)), 0.0


def blur(clip):
    x, y, z = np.linalg.norm(clip.affine[:3, :3], axis=0).tolist()  # mm
    return clip.with_data(baselines.gaussian_smoothing(clip.data, 5.0, (x, y, z))), 0.0


def denoise(clip):
    denoised = medseq.denoise_bold(clip)
    return denoised.clip, denoised.dof_lost


methods = {"as measured": lambda clip: (clip, 0.0), "medseq": denoise, "blur of 5 mm": blur, "local PCA": pca}
task = block_design(run.frames, INTERVAL)
design = design_matrix(task, INTERVAL)
null_designs = [design_matrix(task.roll(shift), INTERVAL) for shift in range(1, 16)]  # of the twin that has no task
with_task, kept, t = {}, {}, {}
injected = glm(run.data, design).beta - glm(rest.data, design).beta
for name, method in methods.items():
    (series, lost), (null, null_lost) = method(run), method(rest)
    with_task[name] = glm(series.data, design, dof_lost=lost)
    kept[name] = amplitude_kept(with_task[name], glm(null.data, design, dof_lost=null_lost), injected, active)
    by_chance = critical_t(null.data, null_designs, brain, p=0.05, dof_lost=null_lost)
    t[name] = float(with_task[name].t[active].median()) / by_chance
    print(f"{name:12} amplitude kept {kept[name]:4.0%}, t over the t of 5 % false positives {t[name]:.2f}")

report = medseq.denoise_bold(run).report
print(f"medseq took {report.share:.1%} of the rest, limited by {report.limit}; {report.dof_lost:.1f} degrees lost")

# %% [markdown]
# medseq keeps at least 98 % of the amplitude, and here hardly changes t values (by less than 3 %): more could not go,
# as the series would have become smoother than is allowed. In a real run they grew by 2 to 7 %. The blur more than
# doubles t, as activation is wide, and loses more than a tenth of the amplitude and all finer detail; whoever wants
# to blur can do so after denoising. Local PCA has the largest t of all, in this run of few and simple parts (in the
# real one it gained nothing), and has lost more than a third of the amplitude: a large t does not tell that an effect
# is told right.

# %% tags=["fmri"]
rows, columns = (slice(int(ends.min()), int(ends.max()) + 1) for ends in brain[z, 0, 0].nonzero().T)
figure = plt.figure(figsize=(10, 5), layout="constrained")
maps, chart = figure.subfigures(2, 1, height_ratios=(1.2, 1))
axes = maps.subplots(1, 5)
limit = 100 * float(activation.data.max())
amplitudes = {"truth (simulated)": 100 * activation.data} | {name: fit.percent for name, fit in with_task.items()}
for one, (name, amplitude) in zip(axes, amplitudes.items(), strict=True):
    image = np.where(brain[z, 0, 0], amplitude[z, 0, 0], np.nan)
    picture = show(one, image[rows, columns], name, cmap="RdBu_r", vmin=-limit, vmax=limit)
maps.colorbar(picture, ax=axes, shrink=0.75, label="signal change (%)")

left, right = chart.subplots(1, 2, sharey=True)
names, colours = list(methods)[::-1], [PINK, ORANGE, BLUE, "#8a8f94"]
left.barh(names, [100 * kept[name] for name in names], color=colours)
left.axvline(100, color="black", linewidth=1)
left.set(xlabel="amplitude of activation that is kept (%)")
right.barh(names, [t[name] / t["as measured"] for name in names], color=colours)
right.axvline(1, color="black", linewidth=1)
right.set(xlabel="t values at equal false positives, over those as measured")
for one in (left, right):
    one.spines[["top", "right"]].set_visible(False)

gains = {name: value / t["as measured"] for name, value in t.items()}
assert kept["medseq"] > 0.98 and kept["blur of 5 mm"] < 0.9 and kept["local PCA"] < 0.65
assert abs(gains["medseq"] - 1) < 0.03 and report.limit == "smoothness"
assert gains["local PCA"] > gains["blur of 5 mm"] > 2

# %% [markdown]
# ## What to trust
#
# - **Trust** geometry, timing and units: they are kept exactly. Trust figures at fixed scale against a known truth,
#   for the kind of data that they were made on.
# - **Do not trust** a structure because it looks sharp. Where little was measured the prior fills in what hearts tend
#   to look like; compare with `zero_filled` and a classical method, and look at the error of lines that were left
#   out.
# - **Do not trust** a temporal SNR or a t value alone: anything that smooths raises them. Ask what became of a known
#   amplitude, and count false positives.
# - Nothing here is cleared for diagnosis.
#
# From here: [evaluation.md](../evaluation.md) judges your own series, [fmri.md](../fmri.md) says what BOLD denoising
# is for, [files.md](../files.md) what can be read and written.

# %%
plt.show()  # for those who ran this as a script
