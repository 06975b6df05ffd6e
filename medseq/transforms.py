"""MONAI dictionary transforms for image series: those that MONAI lacks, to compose with those it has.

Inside a MONAI pipeline a series is a `MetaTensor` of shape (T, X, Y, Z): frames are the channels, so that a spatial
transform does the same to every frame, and the spatial axes are those of the affine (voxel -> RAS mm), so that MONAI
keeps it up to date. Its `meta` holds `times` ((T,) seconds), `period` (seconds, only if there is one) and
`filename_or_obj`. `MetaTensor` stops here: everything else in medseq sees a `Clip` or a plain tensor.

To train:    LoadClipd -> RandFramesd -> monai's RandSpatialCropd, RandFlipd, ... -> ClipToTensord
To restore:  LoadClipd -> monai's Orientationd, ... -> RestoreClipd -> SaveClipd
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys

from medseq.clip import Clip
from medseq.errors import InputError
from medseq.gathering import Restored
from medseq.io import load_clip, save_clip

_SOURCE = ImageMetaKey.FILENAME_OR_OBJ


def clip_to_meta(clip: Clip, source: str | Path | None = None) -> MetaTensor:
    """A clip (B, 1, T, Y, X) as a MetaTensor (T, X, Y, Z = B); source: the file it came from, if any."""
    meta: dict[str, Any] = {"times": np.array(clip.times), MetaKeys.SPACE.value: SpaceKeys.RAS.value}
    # Absent rather than None, which MONAI's collation cannot stack.
    if clip.period is not None:
        meta["period"] = clip.period
    if source is not None:
        meta[_SOURCE] = str(source)
    data = clip.data[:, 0].permute(1, 3, 2, 0).contiguous()
    return MetaTensor(data, affine=torch.from_numpy(np.array(clip.affine)), meta=meta)


def meta_to_clip(image: MetaTensor) -> Clip:
    """The clip (B = Z, 1, T, Y, X) of a MetaTensor (T, X, Y, Z), with the affine as MONAI's transforms left it.

    Raises InputError when axes were added or removed, or when frames were without their times.
    """
    times = np.asarray(image.meta["times"], dtype=np.float64)
    if image.ndim != 4 or len(times) != image.shape[0]:
        raise InputError(
            f"a series of {len(times)} frames needs shape (T, X, Y, Z), got {tuple(image.shape)}; "
            "choose frames with RandFramesd, which keeps their times"
        )
    affine = torch.as_tensor(image.affine).detach().cpu().numpy().astype(np.float64)
    return Clip(_to_tensor(image), affine, times, image.meta.get("period"))


def _to_tensor(image: MetaTensor) -> torch.Tensor:
    return image.as_tensor().permute(3, 0, 2, 1)[:, None].contiguous()


class LoadClipd(MapTransform):
    """Load each key's path as a series, a MetaTensor (T, X, Y, Z), float32 or complex64; see `medseq.load_clip`.

    Unlike MONAI's LoadImaged it keeps complex data complex, time apart from space, and frame times in seconds.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = clip_to_meta(load_clip(result[key]), result[key])
        return result


class RandFramesd(Randomizable, MapTransform):
    """Keep `frames` frames in a row from a random place, the same for every key, with their times.

    A periodic series is cut anywhere, across its end too; it stays periodic when all of its frames are kept.
    Raises InputError when a series has fewer frames.
    """

    def __init__(self, keys: KeysCollection, frames: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.frames = frames
        self._place = 0.0

    def randomize(self, data: Any = None) -> None:
        self._place = float(self.R.random())

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize()
        for key in self.key_iterator(result):
            result[key] = self._cut(result[key])
        return result

    def _cut(self, image: MetaTensor) -> MetaTensor:
        times, period = np.asarray(image.meta["times"]), image.meta.get("period")
        count = len(times)
        if count < self.frames:
            raise InputError(f"{self.frames} frames in a row are wanted, but the series has {count}")
        places = count if period is not None else count - self.frames + 1
        steps = int(self._place * places) + np.arange(self.frames)
        chosen = cast(MetaTensor, torch.index_select(image, 0, torch.from_numpy(steps % count)))
        chosen.meta["times"] = times[steps % count] + steps // count * (period or 0.0)
        if self.frames < count:
            chosen.meta.pop("period", None)
        return chosen


class ClipToTensord(MapTransform):
    """Each key's MetaTensor (T, X, Y, Z) as a plain tensor (B = Z, 1, T, Y, X): what networks and operators take."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = _to_tensor(result[key])
        return result


class RestoreClipd(MapTransform):
    """Replace each key's series by `restore(clip)`, a Clip or the clip of a Restored; for example `medseq.denoise`."""

    def __init__(
        self, keys: KeysCollection, restore: Callable[[Clip], Clip | Restored], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.restore = restore

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            restored = self.restore(meta_to_clip(image))
            clip = restored.clip if isinstance(restored, Restored) else restored
            result[key] = clip_to_meta(clip, image.meta.get(_SOURCE))
        return result


class SaveClipd(MapTransform):
    """Save each key's series as folder/<name of its source>_<postfix>.nii.gz, inheriting the header of its source.

    folder: an existing folder. The series may lie otherwise than its source, the affine says how.
    Raises InputError when the series has no source to be named after; otherwise as `medseq.save_clip` does.
    """

    def __init__(
        self, keys: KeysCollection, folder: str | Path, postfix: str = "restored", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.folder = Path(folder)
        self.postfix = postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            source = result[key].meta.get(_SOURCE)
            if source is None:
                raise InputError(f"the series under {key!r} was not loaded from a file: no name to save it by")
            name = Path(source).name.removesuffix(".gz").removesuffix(".nii")
            save_clip(meta_to_clip(result[key]), self.folder / f"{name}_{self.postfix}.nii.gz", like=source)
        return result
