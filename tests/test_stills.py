"""Still frames: phases of one slice are found, registered, and morphed into each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.io import imsave

from medseq.errors import InputError
from medseq.phantoms.clips import animate
from medseq.phantoms.motion import TimeAxis
from medseq.phantoms.phases import Stills
from medseq.phantoms.scenes import pair_scene
from medseq.stills import load_stills, phase_pairs


def disc(centre: tuple[float, float], radius: float, size: int = 64) -> np.ndarray:
    """A bright disc with soft edges on a slanted background."""
    y, x = np.mgrid[:size, :size]
    away = np.hypot(y - centre[0], x - centre[1])
    return (0.2 + 0.3 * x / size + 0.5 / (1 + np.exp(away - radius))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slices in two phases each, shuffled by name, and one alone."""
    path = tmp_path_factory.mktemp("stills")
    rng = np.random.default_rng(0)
    texture = [rng.random((64, 64)).repeat(1, 0) * 0.5 for _ in range(3)]
    frames = {
        "a": disc((30, 30), 12) + texture[0],
        "b": disc((34, 20), 9) + texture[1],
        "c": disc((30, 30), 9) + texture[0],
        "d": disc((34, 20), 7) + texture[1],
        "e": texture[2] + 0.2,
    }
    for name, frame in frames.items():
        imsave(path / f"{name}.png", (frame * 150).astype(np.uint8), check_contrast=False)
    return path


def test_phases_of_one_slice_find_each_other(folder: Path) -> None:
    stills = load_stills(folder, pairs=False)
    assert phase_pairs(stills.images.numpy()) == [(0, 2), (1, 3)]
    assert stills.partner.tolist() == [0, 1, 2, 3, 4] and not stills.flow.any()
    assert load_stills(folder).partner.tolist() == [2, 3, 0, 1, 4]


def test_flow_leads_from_one_phase_to_the_other(tmp_path: Path) -> None:
    """A disc that shrinks: at its edge the other phase is found further in, by as much as the radii differ."""
    for name, radius in (("a", 14.0), ("b", 11.0)):
        imsave(tmp_path / f"{name}.png", (disc((32, 32), radius) * 150).astype(np.uint8), check_contrast=False)
    stills = load_stills(tmp_path)
    assert stills.partner.tolist() == [1, 0]
    assert float(stills.flow[0, 32, 46, 1]) == pytest.approx(-3.0, abs=0.7)
    assert float(stills.flow[1, 32, 43, 1]) == pytest.approx(3.0, abs=0.7)


def test_a_pair_is_morphed_from_phase_to_phase() -> None:
    """A blob that lies 12 pixels further right in the other phase is seen in between, whole and not twice."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")

    def blob(at: float) -> torch.Tensor:
        return 0.02 + torch.exp(-((y - 24) ** 2 + (x - at) ** 2) / 12)

    flow = torch.zeros(48, 48, 2)
    flow[..., 1] = 12.0
    places, peaks = [], []
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        scene = pair_scene(blob(16.0), blob(28.0), flow, g)
        clip = animate(scene, (48, 48), TimeAxis(torch.arange(16) / 16, True), g, real=True)
        weight = (clip.real - clip.real.amin()).pow(4)
        places.append((weight * x).sum((1, 2)) / weight.sum((1, 2)))
        peaks.append(clip.real.amax((1, 2)) / clip.real.amax())
    spans = torch.stack([p.max() - p.min() for p in places])
    assert spans.max() > 7 and torch.stack(peaks).median() > 0.9 and torch.stack(peaks).min() > 0.6


def test_a_part_forgets_partners_beyond_it() -> None:
    images, flow = torch.rand(4, 8, 8), torch.ones(4, 8, 8, 2)
    stills = Stills(images, torch.tensor([1, 0, 3, 2]), flow)
    part = stills.part(1, 4)
    assert part.partner.tolist() == [0, 2, 1] and len(part) == 3
    assert not part.flow[0].any() and bool(part.flow[1:].all())


def test_masks_are_no_still_frames(tmp_path: Path) -> None:
    """They lie beside the images in many data sets, and a folder is searched to any depth."""
    (tmp_path / "Images").mkdir()
    (tmp_path / "Labels").mkdir()
    frame = disc((30, 30), 12)
    imsave(tmp_path / "Images" / "a.png", (frame * 150).astype(np.uint8), check_contrast=False)
    imsave(tmp_path / "Labels" / "a.png", (frame > 0.7).astype(np.uint8) * 255, check_contrast=False)
    assert len(load_stills(tmp_path / "Images")) == 1
    with pytest.raises(InputError, match=r"Labels/a.png: two values only, a mask"):
        load_stills(tmp_path)
