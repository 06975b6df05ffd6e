"""Reconstructions of the human heart of `benchmark_cases.py` by several methods, kept so that none is made twice.

Classical methods run at the weights that are best for the heart region of the case without anything inserted (seed 0),
as in `benchmark.py`; medseq runs with its one fixed setting.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from benchmark_cases import heart_case, human_cine, measured, with_phase
from benchmark_methods import reconstructions, tuned
from torch import Tensor

import medseq
from medseq import KSpace
from medseq.io.files import atomic_write

OURS = "medseq"
_LEFT_OUT = ("zero-filled",)  # nobody reads it


class HeartRuns:
    """Results at one acceleration, in `folder`; delete it when the code of a method has changed.

    truth: (T, Y, X) magnitudes. methods: their names, medseq's last.
    """

    def __init__(self, folder: Path, data: Path, acceleration: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.data, self.acceleration = folder, data, acceleration
        self.truth = human_cine(data)[0, 0]
        self.weights: dict[str, list[float]] = self._tuned()
        self.methods = [*self.weights, OURS]

    def result(self, method: str, seed: int, magnitude: Tensor) -> Tensor:
        """(T, Y, X) magnitudes that `method` finds of a series (T, Y, X) measured with mask and noise of `seed`."""
        content = hashlib.sha256(magnitude.numpy().tobytes()).hexdigest()[:12]
        path = self.folder / f"{method}, R {self.acceleration:g}, seed {seed}, {content}.npy"
        if not path.exists():
            kspace, _ = measured(self.data, with_phase(magnitude[None, None]), self.acceleration, seed)
            found = self._run(method, kspace)[0, 0].abs().numpy()
            with atomic_write(path) as temporary:
                np.save(temporary, found)
            print(path.stem, flush=True)
        return torch.from_numpy(np.load(path))

    def _run(self, method: str, kspace: KSpace) -> Tensor:
        if method == OURS:
            return medseq.reconstruct(kspace).clip.data
        (chosen,) = (m for m in reconstructions(kspace) if m.name == method)
        return chosen.run(*self.weights[method])

    def _tuned(self) -> dict[str, list[float]]:
        path = self.folder / f"weights, R {self.acceleration:g}.json"
        if not path.exists():
            case = heart_case(self.data, "human", self.acceleration, 0)
            found = {
                method.name: list(tuned(method, lambda image: case.score(image)["PSNR heart"]).weights)
                for method in reconstructions(case.kspace)
                if method.name not in _LEFT_OUT
            }
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1), "utf-8")
        return json.loads(path.read_text("utf-8"))
