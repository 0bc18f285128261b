"""From noise to images: DDIM or ancestral steps, classes by classifier-free guidance.

Shapes: B rows, C channels, H by W pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from lenshpc.data.draws import join_key, standard_normal, uniform
from lenshpc.registry import Shape
from lenshpc.tasks.diffusion.noise_schedule import NoiseSchedule

MIN_SINE = 1e-6


class SeededNoise:
    """Normal numbers that are functions of a seed (some integers) and each row, nothing else.

    They are made where the rows (B,) lie.
    """

    def __init__(self, seed: tuple[int, ...], rows: Tensor) -> None:
        # A key a row and draw, and no generator: an image must not depend on its batch, its rank or
        # the kind of device.
        keys = torch.zeros_like(rows)
        for part in seed:
            keys = join_key(keys, part)
        self._keys = join_key(keys, rows)
        self._draws = count()

    def draw(self, shape: Shape) -> Tensor:
        """Return the next numbers (B, C, H, W)."""
        keys = self._next_keys()
        return standard_normal(keys, math.prod(shape)).view(-1, *shape)

    def levels(self, num: int) -> Tensor:
        """Return the next level of noise of each row (B,), all equally likely."""
        part: Tensor = uniform(self._next_keys())
        return (part * num).long()

    def _next_keys(self) -> Tensor:
        return join_key(self._keys, next(self._draws))


def slerp(one: Tensor, other: Tensor, part: float) -> Tensor:
    """Return what lies `part` of the way on the great circle between two draws of noise.

    Shoemake 1985. Where they point the same or the opposite way, the straight line. Between normal
    draws the norm stays that of noise, which a straight line would lose.
    """
    if part in {0.0, 1.0}:
        return other if part else one
    cosine = (one * other).sum() / (one.norm() * other.norm())
    angle = cosine.clamp(-1, 1).acos()
    mixed = (((1 - part) * angle).sin() * one + (part * angle).sin() * other) / angle.sin()
    return torch.where(angle.sin() < MIN_SINE, torch.lerp(one, other, part), mixed)


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How images are drawn by a network; `bounds` are of their pixels, (C, 1, 1) each."""

    schedule: NoiseSchedule
    kind: Literal["ddim", "ancestral"]
    num_steps: int
    scale: float | None = None
    bounds: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def __call__(
        self,
        model: nn.Module,
        start: Tensor,
        label: Tensor | None = None,
        draw: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """Return the images (B, C, H, W) of `start`, which is x at the last level.

        `draw` gives the noise of ancestral steps; without it the steps are those of DDIM.
        """
        noisy = start
        for level, after in pairwise([*self.schedule.levels(self.num_steps), -1]):
            levels = torch.full((len(noisy),), level, device=noisy.device)
            output = self._output(model, noisy, levels, label)
            # Clipped before the step, as the noise that is left is reckoned from the clipped image.
            image = self._clip(self.schedule.image_of(noisy, output, levels))
            if self.kind == "ddim" or draw is None:
                noisy = self.schedule.ddim_step(noisy, image, level, after)
            elif after >= 0:
                noisy = self.schedule.ancestral_step(noisy, image, level, after, draw())
            else:
                noisy = image
        return noisy

    def _output(
        self, model: nn.Module, noisy: Tensor, levels: Tensor, label: Tensor | None
    ) -> Tensor:
        """Return the network's output; with classes, that of the hidden one moved by the scale."""
        if label is None or self.scale is None:
            # float32 for the steps: fifty of them in bfloat16 add up their rounding.
            return model(noisy, levels).float()  # type: ignore[no-any-return]
        told: Tensor = model(noisy, levels, label).float()
        if self.scale == 1:
            return told
        hidden: Tensor = model(noisy, levels).float()
        return hidden + self.scale * (told - hidden)

    def _clip(self, image: Tensor) -> Tensor:
        return image if self.bounds is None else image.clamp(*self.bounds)
