"""The video U-Net: convolutions in space, a cheap mix over time, one noise level a frame.

Space and time are factorised: every block convolves each frame in 2-D, then mixes each location with its
neighbours in time and with its mean over the whole clip. Time is never strided, so one network takes one frame
or hundreds, and the mean lets still tissue be averaged over the whole cycle at the price of one 1x1 convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layers = Callable[..., Tensor]


def shifted(x: Tensor, step: int, periodic: bool) -> Tensor:
    """Frame t + step of `x` (B, T, ...) at place t; past the ends circular, or reflected without repeating the end."""
    frames = x.shape[1]
    if periodic or frames == 1:
        return torch.roll(x, -step, dims=1)
    edge = x[:, frames - 2 : frames - 1] if step > 0 else x[:, 1:2]
    return torch.cat([x[:, 1:], edge], dim=1) if step > 0 else torch.cat([edge, x[:, :-1]], dim=1)


_VALUES = 2**22  # of the frames worked on at once: what they are made into on the way stays near the processor


def by_frames(layers: Layers, *frames: Tensor) -> Tensor:
    """`layers` of tensors (frames, ...), some frames at a time on a CPU. All at once where gradients are asked for, on
    a GPU and where a compiler takes it apart."""
    if (parts := _few_frames(frames)) is None:
        return layers(*frames)
    out, done = None, 0
    for some in parts:
        part = layers(*some)
        if out is None:
            size = (len(frames[0]), *part.shape[1:])
            out = torch.empty(size, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
        out[done : done + len(part)] = part
        done += len(part)
    assert out is not None
    return out


def added_by_frames(layers: Layers, x: Tensor, *frames: Tensor) -> Tensor:
    """x + `layers` of x and others, as `by_frames`; in the place of x unless gradients are asked for."""
    if (parts := _few_frames((x, *frames))) is None:
        return x + layers(x, *frames)
    for some in parts:
        some[0].add_(layers(*some))
    return x


def _few_frames(frames: tuple[Tensor, ...]) -> Iterable[tuple[Tensor, ...]] | None:
    """A tensor of one frame goes with all of the first."""
    first = frames[0]
    if not _in_turns(first):
        return None
    at_once = max(1, _VALUES * len(first) // first.numel())
    count = -(-len(first) // at_once)
    return zip(*(count * (f,) if len(f) == 1 else f.split(at_once) for f in frames), strict=True)


def _in_turns(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _joined(grow: nn.Module, join: nn.Module, skip: Tensor, below: Tensor) -> Tensor:
    """What comes up from a coarser resolution, with what was there on the way down."""
    return join(torch.cat([F.pixel_shuffle(grow(below), 2), skip], dim=1))


def _silent(layer: nn.Module) -> None:
    """Start from an output of zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class TimeMix(nn.Module):
    """Previous, same and next frame and the mean over the clip, in a quarter of the channels, mixed and added.

    Zero at first, so that an untrained network treats frames apart.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(channels, channels // 4, 1)
        self.mix = nn.Conv2d(4 * (channels // 4), channels, 1)
        _silent(self.mix)

    def forward(self, x: Tensor, frames: int, periodic: bool) -> Tensor:
        # Channels last also where there are five axes, which nothing tells the functions below.
        clip = by_frames(self.shrink, x).permute(0, 2, 3, 1).unflatten(0, (-1, frames))
        mean = F.silu(clip.mean(dim=1, keepdim=True)).expand_as(clip)
        clip = F.silu(clip)  # before it is copied, not after
        near = (shifted(clip, -1, periodic), clip, shifted(clip, 1, periodic), mean)
        return added_by_frames(self._mixed, x, *(part.flatten(0, 1) for part in near))

    def _mixed(self, _: Tensor, *near: Tensor) -> Tensor:
        return self.mix(torch.cat(near, dim=-1).permute(0, 3, 1, 2))


class Block(nn.Module):
    """Residual block: norm, FiLM on the noise level, two 3x3 convolutions; then the mix over time.

    The norm is taken over the channels of each pixel: unlike a group norm it does not depend on the field of view, so
    that a crop, a window or a larger matrix is treated alike (as in NAFNet, arXiv 2204.04676).
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.film = nn.Linear(embedding, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = TimeMix(channels)
        _silent(self.film)
        _silent(self.conv2)

    def forward(self, x: Tensor, noise: Tensor, frames: int, periodic: bool) -> Tensor:
        return self.time(added_by_frames(self._in_space, x, self.film(noise)), frames, periodic)

    def _in_space(self, x: Tensor, film: Tensor) -> Tensor:
        gain, shift = film.chunk(2, dim=-1)
        # Autocast would take the norm in float32, and keep it.
        as_it_is = nullcontext() if x.dtype == torch.float32 else torch.autocast(x.device.type, enabled=False)
        with as_it_is:
            h = x.permute(0, 2, 3, 1)
            if len(film) == 1:
                h = F.layer_norm(h, (x.shape[1],), 1 + gain[0], shift[0])
            else:
                h = torch.addcmul(shift[:, None, None], F.layer_norm(h, (x.shape[1],)), 1 + gain[:, None, None])
        h = self.conv1(h.permute(0, 3, 1, 2))
        return self.conv2(F.silu(h, inplace=not torch.is_grad_enabled()))


class VideoUNet(nn.Module):
    """Space-time U-Net on real channels.

    width: channels of each resolution, finest first (the finest is half the image: a pixel-unshuffle stands at
    the door). blocks: residual blocks a resolution, down and up alike. guides: further series that the network is shown
    beside its own, and gates for which it answers with (`medseq.guides`). channels: of a series, 2 for complex ones.

    forward(x, noise, periodic): x (B, channels * (1 + guides), T, Y, X) real, any Y and X (padded inside), any T >= 1;
    noise (B, T) the embedding input, log(sigma) / 4 in EDM; returns (B, channels + guides, T, Y, X).
    """

    frequencies: Tensor

    def __init__(
        self, width: tuple[int, ...] = (32, 80, 160), blocks: int = 2, guides: int = 0, channels: int = 2
    ) -> None:
        super().__init__()
        self.width, self.blocks, self.guides, self.channels = tuple(width), blocks, guides, channels
        embedding = 2 * width[0]
        self.register_buffer("frequencies", torch.exp(torch.linspace(0.0, math.log(32.0), 16)), persistent=False)
        self.embed = nn.Sequential(nn.Linear(32, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.enter = nn.Conv2d(4 * channels * (1 + guides), width[0], 3, padding=1)
        self.down = nn.ModuleList(self._stage(w, embedding) for w in width[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(width, width[1:], strict=False))
        self.bottom = self._stage(width[-1], embedding)
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(width, width[1:], strict=False))
        self.join = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in width[:-1])
        self.up = nn.ModuleList(self._stage(w, embedding) for w in width[:-1])
        self.leave = nn.Conv2d(width[0], 4 * (channels + guides), 3, padding=1)
        _silent(self.leave)

    def _stage(self, channels: int, embedding: int) -> nn.ModuleList:
        return nn.ModuleList(Block(channels, embedding) for _ in range(self.blocks))

    @property
    def multiple(self) -> int:
        """Y and X are padded to a multiple of this."""
        return 2 ** len(self.width)

    def forward(self, x: Tensor, noise: Tensor, periodic: bool = False) -> Tensor:
        frames, height, breadth = x.shape[2:]
        noise = noise.flatten()[:, None].float()
        if _in_turns(x) and bool((noise == noise[0]).all()):
            noise = noise[:1]
        angle = noise * self.frequencies
        embedded = self.embed(torch.cat([angle.cos(), angle.sin()], dim=1))
        entered = by_frames(self._entered, x.transpose(1, 2).flatten(0, 1))
        out = by_frames(self._left, self._unet(entered, embedded, frames, periodic))[..., :height, :breadth]
        return out.unflatten(0, (-1, frames)).transpose(1, 2)

    def _entered(self, images: Tensor) -> Tensor:
        images = self._pad(images).contiguous(memory_format=torch.channels_last)
        return self.enter(F.pixel_unshuffle(images, 2))

    def _left(self, h: Tensor) -> Tensor:
        return F.pixel_shuffle(self.leave(h), 2)

    def _pad(self, images: Tensor) -> Tensor:
        bottom, right = (-images.shape[-2] % self.multiple, -images.shape[-1] % self.multiple)
        if not (bottom or right):
            return images
        # "reflect" needs more pixels than it adds; "replicate" serves the smallest images too
        mode = "reflect" if bottom < images.shape[-2] and right < images.shape[-1] else "replicate"
        return F.pad(images, (0, right, 0, bottom), mode=mode)

    def _unet(self, h: Tensor, noise: Tensor, frames: int, periodic: bool) -> Tensor:
        skips = []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            h = self._run(stage, h, noise, frames, periodic)
            skips.append(h)
            h = by_frames(shrink, h)
        h = self._run(self.bottom, h, noise, frames, periodic)
        for stage, grow, join in zip(reversed(self.up), reversed(self.grow), reversed(self.join), strict=True):
            h = by_frames(partial(_joined, grow, join), skips.pop(), h)
            h = self._run(stage, h, noise, frames, periodic)
        return h

    @staticmethod
    def _run(stage: nn.Module, h: Tensor, noise: Tensor, frames: int, periodic: bool) -> Tensor:
        for block in stage:  # type: ignore[attr-defined]
            h = block(h, noise, frames, periodic)
        return h
