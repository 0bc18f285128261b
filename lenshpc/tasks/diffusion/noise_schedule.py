"""The noise of diffusion models as closed forms: levels, targets, weights, steps of sampling.

Shapes: T levels of noise, B rows of a batch. alpha_bar is the part of the variance that is image:
x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise (Ho et al. 2020, arXiv 2006.11239, eq. 4).
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor

FIRST_BETA, LAST_BETA = 1e-4, 0.02  # Ho et al. 2020, for 1000 levels
COSINE_OFFSET, MAX_BETA = 0.008, 0.999  # Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """The levels of noise, and how a network's output is read at each of them."""

    num_steps: int
    kind: Literal["linear", "cosine"]
    prediction: Literal["epsilon", "v"]
    zero_terminal_snr: bool = False

    @cached_property
    def alpha_bar(self) -> Tensor:
        """Return alpha_bar (T,) in double precision, falling."""
        betas = _linear(self.num_steps) if self.kind == "linear" else _cosine(self.num_steps)
        alpha_bar = (1 - betas).cumprod(dim=0)
        return without_terminal_signal(alpha_bar) if self.zero_terminal_snr else alpha_bar

    def add_noise(self, image: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Return x_t (B, …) at the levels (B,)."""
        signal, sigma = self._parts(level, image)
        return signal * image + sigma * noise

    def target(self, image: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Return what the network shall give: the noise, or v (Salimans and Ho 2022, app. D)."""
        if self.prediction == "epsilon":
            return noise
        signal, sigma = self._parts(level, image)
        return signal * noise - sigma * image

    def image_of(self, noisy: Tensor, output: Tensor, level: Tensor) -> Tensor:
        """Return the x_0 that a network's output means."""
        signal, sigma = self._parts(level, noisy)
        if self.prediction == "epsilon":
            return (noisy - sigma * output) / signal
        return signal * noisy - sigma * output

    def weights(self, level: Tensor, gamma: float | None) -> Tensor:
        """Return the weights (B,) of the squared errors: Min-SNR (Hang et al. 2023, eq. 6), or 1.

        A level without any image has an SNR of 0, and the weight 1: it must be learnt as well.
        """
        if gamma is None:
            return torch.ones(level.shape, device=level.device)
        alpha_bar = alpha_bar_on(self, level.device)[level]
        snr = alpha_bar / (1 - alpha_bar)
        least = snr.clamp(max=gamma) / (snr if self.prediction == "epsilon" else snr + 1)
        return torch.where(snr > 0, least, 1.0).float()

    def levels(self, num: int) -> list[int]:
        """Return the levels of a sampling in `num` steps, falling from the last: `trailing`."""
        # From the last level, always: begun earlier, sampling starts from noise that the network
        # never saw at that level.
        stride = self.num_steps / num
        return [round(self.num_steps - at * stride) - 1 for at in range(num)]

    def ddim_step(self, noisy: Tensor, image: Tensor, level: int, after: int) -> Tensor:
        """Return x at the level `after` (-1: the image), without new noise.

        Song et al. 2021, arXiv 2010.02502, eq. 12 with eta 0; the noise is what `image`, clipped or
        not, leaves of x_t.
        """
        here, there = self._at(level), self._at(after)
        noise = (noisy - math.sqrt(here) * image) / math.sqrt(1 - here)
        return math.sqrt(there) * image + math.sqrt(1 - there) * noise

    def ancestral_step(
        self, noisy: Tensor, image: Tensor, level: int, after: int, noise: Tensor
    ) -> Tensor:
        """Return a draw of x at the level `after`, given the image: Ho et al. 2020, eqs. 6 and 7.

        The levels between are left out: beta is that of the whole stride.
        """
        here, there = self._at(level), self._at(after)
        alpha = here / there
        of_image = math.sqrt(there) * (1 - alpha) / (1 - here)
        of_noisy = math.sqrt(alpha) * (1 - there) / (1 - here)
        std = math.sqrt((1 - there) / (1 - here) * (1 - alpha))
        return of_image * image + of_noisy * noisy + std * noise

    def _at(self, level: int) -> float:
        return 1.0 if level < 0 else float(self.alpha_bar[level])

    def _parts(self, level: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of image and noise, (B, 1, …)."""
        alpha_bar = alpha_bar_on(self, level.device)[level].view(-1, *[1] * (like.ndim - 1))
        # Roots in float64 and then rounded: 1 - alpha_bar of the first levels has no digits in
        # float32.
        return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)


@lru_cache
def alpha_bar_on(schedule: NoiseSchedule, device: torch.device) -> Tensor:
    """Return alpha_bar (T,) of a schedule where the levels lie; it is copied once."""
    return schedule.alpha_bar.to(device)


def _linear(num: int) -> Tensor:
    return torch.linspace(FIRST_BETA, LAST_BETA, num, dtype=torch.float64)


def _cosine(num: int) -> Tensor:
    time = torch.linspace(0, 1, num + 1, dtype=torch.float64)
    left = torch.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    # The last beta would be 1, after which nothing of the image is left to divide by.
    return (1 - left[1:] / left[:-1]).clamp(max=MAX_BETA)


def without_terminal_signal(alpha_bar: Tensor) -> Tensor:
    """Return alpha_bar moved and scaled so that the last level is noise alone, the first stays.

    Lin et al. 2024, arXiv 2305.08891, algorithm 1.
    """
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
