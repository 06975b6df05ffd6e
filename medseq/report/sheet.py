"""A contact sheet of several clips: a row each, some of its frames and its x-t profile."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP, _LINE = 4, 16


def contact_sheet(
    clips: Sequence[tuple[str, np.ndarray]], path: str | os.PathLike[str], *, frames: int = 6, white: float = 1.0
) -> None:
    """Write a picture of `clips`: (title, magnitude (T, Y, X)), all of one Y and X, one grey scale up to `white`.

    Shown are `frames` evenly spaced frames and the middle column of the image over time (time runs to the right).
    Raises ValueError for clips of different sizes.
    """
    if len({clip.shape[1:] for _, clip in clips}) != 1:
        raise ValueError("the clips of a contact sheet must have one size")
    height, width = clips[0][1].shape[1:]
    zoom = max(1, round(128 / max(height, width)))
    cell = (width * zoom + _GAP, height * zoom + _LINE + _GAP)
    sheet = Image.new("L", ((frames + 1) * cell[0], len(clips) * cell[1]))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, (title, clip) in enumerate(clips):
        pen.text((2, row * cell[1]), title, fill=255, font=font)
        chosen = np.linspace(0, len(clip), frames, endpoint=False).astype(int)
        for column, image in enumerate([*clip[chosen], clip[:, :, width // 2].T]):
            levels = np.clip(image / white, 0, 1) * 255
            picture = Image.fromarray(np.round(levels).astype(np.uint8))
            picture = picture.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(picture, (column * cell[0], row * cell[1] + _LINE))
    sheet.save(path)
