"""A U-Net that is told the level of noise, and perhaps a class (Ho et al. 2020; Dhariwal and Nichol
2021, arXiv 2105.05233). Attention where sides are small; any C, H, W.

Shapes: B rows, C channels, H by W pixels, E numbers of the embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lenshpc.registry import TaskSpec
from lenshpc.tasks.diffusion.settings import Diffusion

MAX_ATTENTION_SIDE_PX = 20  # of maps that attend to themselves: 400 places
HEAD_CHANNELS = 32
MAX_PERIOD = 10_000.0


@dataclass(frozen=True, kw_only=True)
class Level:
    """The channels of one size of maps, and whether these attend to themselves."""

    channels: int
    attends: bool


class UNet(nn.Module):
    """Residual blocks on the way down and up, joined at equal sizes.

    Sides are reflected until they halve evenly, and the result is cut back. The class `num_classes`
    stands for a hidden one.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        self._halving = 2 ** (len(multipliers) - 1)
        side = -(-max(sides) // self._halving) * self._halving
        levels = [
            Level(channels=multiplier * width, attends=side >> at <= MAX_ATTENTION_SIDE_PX)
            for at, multiplier in enumerate(multipliers)
        ]
        deepest, embedded = levels[-1].channels, 4 * width
        self.width, self.null_class = width, num_classes
        self.time = nn.Sequential(
            nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded)
        )
        self.classes = nn.Embedding(num_classes + 1, embedded) if num_classes else None
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down, kept = _way_down(width, levels, blocks, embedded)
        self.middle = nn.ModuleList(
            Block(deepest, deepest, embedded, attends=attends) for attends in (True, False)
        )
        self.up = _way_up(levels, kept, blocks, embedded)
        self.last = nn.Sequential(
            _norm(levels[0].channels),
            nn.SiLU(),
            _zero(nn.Conv2d(levels[0].channels, channels, 3, padding=1)),
        )

    def forward(self, noisy: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the prediction (B, C, H, W) at the levels (B,); no label is a hidden one."""
        height, width = noisy.shape[2:]
        hidden = self.first(pad(noisy, self._halving))
        embedding = self.time(sinusoids(level, self.width).to(hidden.dtype))
        if self.classes is not None:
            label = torch.full_like(level, self.null_class) if label is None else label
            embedding = embedding + self.classes(label)
        embedding, kept = functional.silu(embedding), [hidden]
        for layer in self.down:
            hidden = layer(hidden, embedding)
            kept.append(hidden)
        for layer in self.middle:
            hidden = layer(hidden, embedding)
        for layer in self.up:
            joins = isinstance(layer, Block)
            hidden = layer(torch.cat([hidden, kept.pop()], 1) if joins else hidden, embedding)
        top, left = (hidden.shape[2] - height) // 2, (hidden.shape[3] - width) // 2
        return cast(Tensor, self.last(hidden))[:, :, top : top + height, left : left + width]


class Block(nn.Module):
    """Two convolutions, the second under the embedding's scale and shift; perhaps attention."""

    def __init__(self, inputs: int, outputs: int, embedded: int, *, attends: bool) -> None:
        super().__init__()
        self.norm = _norm(inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(embedded, 2 * outputs)
        self.norm_embedded = _norm(outputs)
        self.second = _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.attention = Attention(outputs) if attends else nn.Identity()

    def forward(self, maps: Tensor, embedding: Tensor) -> Tensor:
        """Return maps of the same sides."""
        hidden = self.first(functional.silu(self.norm(maps)))
        scale, shift = self.embed(embedding)[:, :, None, None].chunk(2, dim=1)
        # In place where no gradient needs what was there: large maps are dear to allocate.
        hidden = (self.norm_embedded(hidden) * (1 + scale)).add_(shift)
        result: Tensor = self.attention(self.second(functional.silu(hidden)).add_(self.skip(maps)))
        return result


class Attention(nn.Module):
    """Each place of the maps attends to all others; adds nothing at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._heads = 1 if channels % HEAD_CHANNELS else channels // HEAD_CHANNELS
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps and what they attended to."""
        batch, _channels, height, width = maps.shape
        places = self.qkv(self.norm(maps)).reshape(batch, 3, self._heads, -1, height * width)
        # contiguous, since the fused kernels of attention take nothing else
        query, key, value = places.transpose(3, 4).contiguous().unbind(1)
        seen = functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(seen.transpose(2, 3).reshape(maps.shape)).add_(maps)
        return result


class Halve(nn.Module):
    """A convolution that halves sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, maps: Tensor, _: Tensor) -> Tensor:
        """Return maps of half the sides."""
        return cast(Tensor, self.convolution(maps))


class Double(nn.Module):
    """Pixels are repeated, then convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor, _: Tensor) -> Tensor:
        """Return maps of twice the sides."""
        # Of four pixels alike three taps see two, so four kernels of 2 × 2 give the same by 16
        # products a pixel instead of 36: one for each place in the four.
        kernels = _fold(_fold(self.convolution.weight, 2), 4)
        bias = cast(Tensor, self.convolution.bias).repeat(4)
        found = functional.conv2d(maps, kernels.flatten(0, 2), bias, padding=1)
        height, width = maps.shape[2:]
        places = found.unflatten(1, (2, 2, -1))  # type: ignore[no-untyped-call]
        rows = torch.stack([places[:, :, at, :, at : at + height] for at in (0, 1)], dim=4)
        both = torch.stack([rows[:, at, ..., at : at + width] for at in (0, 1)], dim=5)
        return both.flatten(4, 5).flatten(2, 3)


def _fold(weight: Tensor, axis: int) -> Tensor:
    """Return three taps along an axis as two of pixels twice as large: (2, …), a place each."""
    first, middle, last = weight.unbind(axis)
    places = ((first, middle + last), (first + middle, last))
    return torch.stack([torch.stack(taps, dim=axis) for taps in places])


def _way_down(
    width: int, levels: Sequence[Level], blocks: int, embedded: int
) -> tuple[nn.ModuleList, list[int]]:
    """Return the layers, and the channels of what each of them leaves for the way up."""
    layers, kept = nn.ModuleList(), [width]
    for level in levels:
        for _ in range(blocks):
            layers.append(Block(kept[-1], level.channels, embedded, attends=level.attends))
            kept.append(level.channels)
        if level is not levels[-1]:
            layers.append(Halve(level.channels))
            kept.append(level.channels)
    return layers, kept


def _way_up(
    levels: Sequence[Level], kept: Sequence[int], blocks: int, embedded: int
) -> nn.ModuleList:
    """Return the layers; each block is joined by what the way down has left last."""
    layers, left, now = nn.ModuleList(), list(kept), kept[-1]
    for level in reversed(levels):
        for _ in range(blocks + 1):
            joined = now + left.pop()
            layers.append(Block(joined, level.channels, embedded, attends=level.attends))
            now = level.channels
        if level is not levels[0]:
            layers.append(Double(now))
    return layers


def sinusoids(level: Tensor, num: int) -> Tensor:
    """Return the sines and cosines (B, num) of a level (Vaswani et al. 2017, 3.5)."""
    half = num // 2
    rates = torch.arange(half, device=level.device) / half
    # float32: in bfloat16 neighbouring levels of a thousand would be one number.
    angles = level.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * rates)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def pad(images: Tensor, multiple: int) -> Tensor:
    """Return images reflected at their edges until their sides are multiples of a number."""
    more = [-side % multiple for side in images.shape[2:]]
    if not any(more):
        return images
    (top, bottom), (left, right) = ((each // 2, each - each // 2) for each in more)
    return functional.pad(images, (left, right, top, bottom), mode="reflect")


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 32), channels)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a layer that gives 0 at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def build_unet(spec: TaskSpec) -> UNet:
    """Return the U-Net for the images, classes and settings of a spec."""
    settings = Diffusion.of(spec.settings)
    return UNet(
        spec.image_shape,
        width=settings.width,
        multipliers=settings.multipliers,
        blocks=settings.blocks,
        num_classes=len(spec.classes) if settings.guidance else 0,
    )
