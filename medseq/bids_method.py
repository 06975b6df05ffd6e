"""How the runs of a BIDS dataset are restored, and what their derivatives are called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medseq.bold_task import Goal
from medseq.io import is_raw
from medseq.io.bids import Run
from medseq.io.bids_names import BidsName
from medseq.io.weights import bold_weights_path, weights_path

Task = Literal["denoise", "interpolate", "reconstruct"]
DESCRIPTIONS: dict[Task, str] = {"denoise": "denoised", "interpolate": "interpolated", "reconstruct": "recon"}


@dataclass(frozen=True)
class Method:
    """How runs are restored. mode: of images; raw data are always reconstructed. kind: how they are denoised, "auto" is
    by the BIDS suffix. goal: of denoising BOLD. The rest: see `medseq.restore` and `medseq.bold_task`."""

    mode: Literal["denoise", "interpolate"] = "denoise"
    kind: Literal["auto", "cine", "bold"] = "auto"
    goal: Goal = "activation"
    factor: int = 2
    sigma: float | None = None
    steps: int | None = None
    samples: int = 1
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    prior: str | None = None
    strict: bool = False

    def is_bold(self, run: Run) -> bool:
        """Whether a run is done by the methods for BOLD, not by the prior of hearts."""
        return not is_raw(run.file) and (run.name.suffix if self.kind == "auto" else self.kind) == "bold"

    def model(self, run: Run) -> Path | None:
        """The weights that a run is restored with, None for what asks no prior. InputError when they are missing."""
        if not self.is_bold(run):
            return weights_path(self.prior)
        by_prior = self.mode == "denoise" and self.goal == "fluctuations"
        return bold_weights_path(self.prior) if by_prior else None

    def task(self, run: Run) -> Task:
        return "reconstruct" if is_raw(run.file) else self.mode


def derivative_name(run: Run, method: Method) -> BidsName:
    """`sub-01_task-rest_bold.nii.gz` -> `sub-01_task-rest_desc-denoised_bold.nii.gz`; what was raw data is a cine."""
    task = method.task(run)
    name = replace(run.name, suffix="cine") if task == "reconstruct" else run.name
    return name.described(DESCRIPTIONS[task]).ending(".nii.gz")


def map_name(output: BidsName, name: str) -> BidsName:
    """Of a map of a derivative: `dof_lost` gives `sub-01_task-rest_desc-denoised_doflost.nii.gz`."""
    return replace(output, suffix=name.replace("_", ""))


def std_name(output: BidsName) -> BidsName:
    """Of the std over the samples: `desc-denoisedstd`."""
    return replace(output, entities={**output.entities, "desc": f"{output.entities['desc']}std"})
