"""medseq's MONAI transforms compose with MONAI's own, and places and times stay true through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    Flipd,
    Orientationd,
    RandFlipd,
    RandSpatialCropd,
    Rotate90d,
    ScaleIntensityd,
    Spacingd,
    SpatialPadd,
)

from medseq import Clip, InputError, save_clip
from medseq.transforms import (
    ClipToTensord,
    LoadClipd,
    RandFramesd,
    RestoreClipd,
    SaveClipd,
    clip_to_meta,
    meta_to_clip,
)

AFFINE = np.array([[0, 2.0, 0.3, -20], [1.5, 0, 0.1, 12], [0.2, 0, 6.0, -33], [0, 0, 0, 1]])


def series(frames: int = 5, period: float | None = None, dtype: torch.dtype = torch.float32) -> Clip:
    """One bright voxel at (x, y, z) = (7, 3, 1) on a faint background, frame t at brightness 100 + t."""
    data = torch.rand(2, 1, frames, 9, 11, dtype=dtype, generator=torch.Generator().manual_seed(0))
    data[1, 0, :, 3, 7] = 100 + torch.arange(frames, dtype=torch.float32)
    return Clip(data, AFFINE, 0.3 * np.arange(frames), period)


PLACE = (AFFINE @ [7, 3, 1, 1])[:3]


def brightest(clip: Clip) -> np.ndarray:
    z, y, x = np.unravel_index(int(clip.data[:, 0, 0].abs().argmax()), clip.data[:, 0, 0].shape)
    return (clip.affine @ [x, y, z, 1])[:3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_clip(series(period=1.5), tmp_path / "series.nii.gz")
    return tmp_path / "series.nii.gz"


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("period", [None, 1.5])
def test_a_clip_comes_back_unchanged(dtype: torch.dtype, period: float | None) -> None:
    clip = series(period=period, dtype=dtype)
    again = meta_to_clip(clip_to_meta(clip))
    assert torch.equal(again.data, clip.data) and type(again.data) is torch.Tensor
    np.testing.assert_array_equal(again.affine, clip.affine)
    np.testing.assert_array_equal(again.times, clip.times)
    assert again.period == period


def test_loading_gives_frames_as_channels_and_keeps_the_clip(path: Path) -> None:
    image = LoadClipd("image")({"image": path, "other": 1})["image"]
    assert isinstance(image, MetaTensor) and image.shape == (5, 11, 9, 2)
    theirs = nib.load(path)
    np.testing.assert_array_equal(image.as_tensor().numpy(), np.moveaxis(np.asarray(theirs.dataobj), 3, 0))
    np.testing.assert_array_equal(image.affine.numpy(), theirs.affine)
    np.testing.assert_allclose(image.meta["times"], 0.3 * np.arange(5), rtol=1e-6)
    assert image.meta["period"] == 1.5
    assert image.meta["filename_or_obj"] == str(path)


SPATIAL = {
    "flip x": Flipd("image", spatial_axis=0),
    "flip y and z": Flipd("image", spatial_axis=(1, 2)),
    "rotate": Rotate90d("image", k=1, spatial_axes=(0, 1)),
    "crop": CenterSpatialCropd("image", roi_size=(7, 7, 2)),
    "pad": SpatialPadd("image", spatial_size=(16, 15, 4)),
    "orient": Orientationd("image", axcodes="LPS", labels=None),
    "resample": Spacingd("image", pixdim=(0.75, 1.0, 6.0), mode="nearest", align_corners=True),
    "scale": ScaleIntensityd("image"),
    "random": Compose(
        [RandFlipd("image", prob=0.5, spatial_axis=0), RandSpatialCropd("image", (10, 8, 2), random_size=False)]
    ),
}


@pytest.mark.parametrize("name", SPATIAL)
def test_places_stay_true_through_monais_transforms(path: Path, name: str) -> None:
    pipeline = Compose([LoadClipd("image"), SPATIAL[name]]).set_random_state(3)
    clip = meta_to_clip(pipeline({"image": path})["image"])
    if name != "scale":
        assert clip.data.shape != series().data.shape or not np.allclose(clip.affine, AFFINE)
    voxel = np.linalg.norm(AFFINE[:3, :3], axis=0)
    tolerance = 0.51 * np.linalg.norm(voxel / 2) if name == "resample" else 1e-4
    assert np.linalg.norm(brightest(clip) - PLACE) < tolerance
    np.testing.assert_allclose(clip.times, 0.3 * np.arange(5), rtol=1e-6)
    assert clip.period == 1.5


def test_restoring_and_saving_keeps_place_time_and_the_source_header(path: Path, tmp_path: Path) -> None:
    image = nib.load(path)
    image.header["descrip"] = b"of the scanner"
    image.to_filename(path)
    (tmp_path / "out").mkdir()
    steps = [
        LoadClipd("image"),
        Orientationd("image", axcodes="RAS", labels=None),
        RestoreClipd("image", lambda clip: clip.with_data(clip.data * 0.5 + 0.1)),
        SaveClipd("image", tmp_path / "out", postfix="half"),
    ]
    result = Compose(steps)({"image": path})["image"]
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["series_half.nii.gz"]
    saved = nib.load(tmp_path / "out" / "series_half.nii.gz")
    assert saved.header["descrip"].item() == b"of the scanner"
    assert saved.header.get_zooms()[3] == pytest.approx(0.3)
    assert nib.aff2axcodes(saved.affine) == ("R", "A", "S")
    values = np.asarray(saved.dataobj)[..., 0]
    voxel = np.unravel_index(values.argmax(), values.shape)
    np.testing.assert_allclose(saved.affine[:3] @ [*voxel, 1], PLACE, atol=1e-4)
    assert values.max() == pytest.approx(50.1)
    torch.testing.assert_close(meta_to_clip(result).data.amax(), torch.tensor(0.5 * 104 + 0.1))


def test_a_training_pipeline_feeds_a_loader_with_plain_tensors(path: Path) -> None:
    steps = [
        LoadClipd("image"),
        RandFramesd("image", frames=3),
        RandFlipd("image", prob=0.5, spatial_axis=1),
        RandSpatialCropd("image", roi_size=(8, 8, 1), random_size=False),
        ScaleIntensityd("image"),
        ClipToTensord("image"),
    ]
    data = Dataset([{"image": str(path)}] * 4, Compose(steps).set_random_state(0))
    [batch] = list(DataLoader(data, batch_size=4, num_workers=0))
    assert type(batch["image"]) is torch.Tensor
    assert batch["image"].shape == (4, 1, 1, 3, 8, 8)
    assert len({float(each.sum()) for each in batch["image"]}) > 1


def test_meta_tensors_of_several_series_can_be_collated(path: Path) -> None:
    data = Dataset([{"image": str(path)}] * 2, LoadClipd("image"))
    [batch] = list(DataLoader(data, batch_size=2, num_workers=0))
    assert batch["image"].shape == (2, 5, 11, 9, 2)


def cut(clip: Clip, frames: int, seed: int) -> Clip:
    pipeline = RandFramesd(["image", "twin"], frames=frames).set_random_state(seed)
    result = pipeline({"image": clip_to_meta(clip), "twin": clip_to_meta(clip)})
    assert torch.equal(result["image"].as_tensor(), result["twin"].as_tensor())
    return meta_to_clip(result["image"])


def frames_of(clip: Clip) -> np.ndarray:
    return (clip.data[1, 0, :, 3, 7] - 100).numpy()


@pytest.mark.parametrize("seed", range(8))
def test_frames_are_cut_in_a_row_with_their_times(seed: int) -> None:
    clip = cut(series(), 3, seed)
    start = frames_of(clip)[0]
    np.testing.assert_array_equal(frames_of(clip), start + np.arange(3))
    np.testing.assert_allclose(clip.times, 0.3 * frames_of(clip))
    assert clip.period is None
    around = cut(series(period=1.5), 3, seed)
    np.testing.assert_array_equal(frames_of(around), (frames_of(around)[0] + np.arange(3)) % 5)
    np.testing.assert_allclose(np.diff(around.times), 0.3)
    assert around.period is None
    whole = cut(series(period=1.5), 5, seed)
    assert whole.period == 1.5 and sorted(frames_of(whole)) == list(range(5))


def test_every_place_is_reached_and_only_those() -> None:
    starts = {int(frames_of(cut(series(), 3, seed))[0]) for seed in range(40)}
    assert starts == {0, 1, 2}
    starts = {int(frames_of(cut(series(period=1.5), 3, seed))[0]) for seed in range(60)}
    assert starts == {0, 1, 2, 3, 4}


def test_impossible_requests_are_refused_by_name(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="6 frames in a row are wanted, but the series has 5"):
        cut(series(), 6, 0)
    with pytest.raises(InputError, match="RandFramesd"):
        meta_to_clip(clip_to_meta(series())[:3])
    with pytest.raises(InputError, match="not loaded from a file"):
        SaveClipd("image", tmp_path)({"image": clip_to_meta(series())})
    with pytest.raises(KeyError):
        LoadClipd("missing")({"image": path})
    assert LoadClipd("missing", allow_missing_keys=True)({"image": path}) == {"image": path}


def test_other_keys_pass_untouched(path: Path) -> None:
    data: dict[Any, Any] = {"image": path, "label": 3}
    result = Compose([LoadClipd("image"), ClipToTensord("image")])(data)
    assert result["label"] == 3 and data["image"] == path
    assert result["image"].shape == (2, 1, 5, 9, 11)
