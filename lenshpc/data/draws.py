"""What chance does to each image: parameters as a function of (seed, epoch, visit), no state.

Both back ends apply what is drawn here, so they see the same augmentation, and it depends neither
on the number of ranks nor on an interruption. The random numbers are those of SplitMix64 (Steele,
Lea and Flood 2014, doi:10.1145/2660193.2660195): its output at any place is a few multiplications,
done for many images at once, in numpy or torch alike, on int64 that wrap around.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lenshpc.data.order import Visits
from lenshpc.run.augmentations import (
    D4,
    Affine,
    Augmentation,
    Contrast,
    Crop,
    Flips,
    GaussianNoise,
    PsfJitter,
)

Keys = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Integers = TypeVar("Integers", Keys, Tensor)

# The constants of SplitMix64 as signed numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


# What is drawn of V visits. Its fields are arrays of numpy as they are drawn, and tensors once they
# have been sent: named tuples, so that one function sends and cuts all of them.


class Turns(NamedTuple):
    """Symmetries (V,): quarter turns counterclockwise; from 4 on then mirrored left-right."""

    elements: Any


class Warps(NamedTuple):
    """Matrices (V, 2, 3): which point (x, y, 1) of the old image comes to a point of the new."""

    matrices: Any


class AddedNoise(NamedTuple):
    """A key (V,) of each image's noise, and its std (V,)."""

    keys: Any
    stds: Any


class Blurs(NamedTuple):
    """Kernels (V, K) along either axis, K odd; each adds up to 1."""

    kernels: Any


class Stretches(NamedTuple):
    """Factors (V,) about the mean of image and channel, and what is added (V,)."""

    factors: Any
    added: Any


Drawn = Turns | Warps | AddedNoise | Blurs | Stretches


def convert(drawn: Sequence[Drawn], how: Callable[[Any], Any]) -> list[Any]:
    """Return what was drawn with `how` of all its values."""
    whats: Sequence[Any] = drawn
    return [what._make(map(how, what)) for what in whats]


@dataclass(frozen=True)
class Chance:
    """The random numbers of one augmentation of V visits."""

    keys: Keys
    sides: tuple[int, int]

    def uniform(self, number: int, low: float = 0.0, high: float = 1.0) -> Floats:
        """Return the `number`th draw (V,) of each image from [low, high)."""
        # Never 1.0, so `integers` never gives `end`.
        part: Floats = uniform(join_key(self.keys, number))
        return low + (high - low) * part

    def integers(self, number: int, end: int) -> npt.NDArray[np.int64]:
        """Return the `number`th draw (V,) of each image from 0 to end - 1."""
        return (self.uniform(number) * end).astype(np.int64)


def draw(
    steps: Sequence[Augmentation],
    seed: int,
    epoch: int,
    visits: Visits,
    sides: tuple[int, int],
    first: int = 0,
) -> list[Drawn]:
    """Return what each step does to each visit's image of (height, width).

    The steps are those of a longer list, from its place `first` on.
    """
    # In this order, and each step by its place: another order gives all runs other images under the
    # same fingerprint. Change it with the version of the package only.
    keys = join_key(join_key(join_key(np.zeros(1, np.int64), seed), epoch), visits)
    places = enumerate(steps, start=first)
    return [_draw(step, Chance(join_key(keys, place), sides)) for place, step in places]


def standard_normal(keys: Tensor, num: int) -> Tensor:
    """Return float32 (B, num) from N(0, 1) by Box and Muller (1958), the same on any device.

    It lies where the keys (B,) do, which are int64.
    """
    # Integers wrap around alike on all devices; a generator of torch gives other numbers on a GPU
    # than on a CPU.
    places = _mix(torch.arange(1, (num + 1) // 2 + 1, device=keys.device) * _GOLDEN)
    bits = _mix(keys[:, None] ^ places)
    # 24 bits, as many as a float32 holds, and plus one: the logarithm of 0 would be infinite noise.
    radius = torch.sqrt(-2 * torch.log(((bits >> 40 & 0xFFFFFF) + 1).float() / 2**24))
    angle = (bits & 0xFFFFFF).float() * (2 * torch.pi / 2**24)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :num]


def _shift_right(values: Integers, num_bits: int) -> Integers:
    """Shift right without copying the sign."""
    # int64 shifts drag the sign along, and torch has no unsigned shift: the mask takes it off.
    return values >> num_bits & ((1 << 64 - num_bits) - 1)


def _mix(values: Integers) -> Integers:
    values = (values ^ _shift_right(values, 30)) * _MIX_1
    values = (values ^ _shift_right(values, 27)) * _MIX_2
    return values ^ _shift_right(values, 31)


def join_key(keys: Integers, value: int | Integers) -> Integers:
    """Return keys (B,) that differ wherever the keys (B,) or the values do."""
    # Python's integers do not wrap around as those of numpy and torch do.
    step = _wrap_around((value + 1) * _GOLDEN) if isinstance(value, int) else (value + 1) * _GOLDEN
    return _mix(keys + step)


def uniform(keys: Integers) -> Any:
    """Return a number (B,) in [0, 1) of each key, float64."""
    # 53 bits, as many as a float64 holds: so never 1.0.
    return _shift_right(keys, 11) / 2**53


def _wrap_around(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _draw(step: Augmentation, chance: Chance) -> Drawn:
    match step:
        case Flips():
            return _flips(chance)
        case D4():
            return _d4(chance)
        case Affine():
            return _affine(step, chance)
        case Crop():
            return _crop(step, chance)
        case GaussianNoise():
            return AddedNoise(join_key(chance.keys, 1), chance.uniform(0, 0, step.std))
        case PsfJitter():
            return _psf_jitter(step, chance)
        case Contrast():
            factors = chance.uniform(0, 1 - step.factor, 1 + step.factor)
            return Stretches(factors, chance.uniform(1, -step.brightness, step.brightness))


def _flips(chance: Chance) -> Turns:
    """An up-down flip is half a turn and a left-right flip."""
    left_right, up_down = chance.integers(0, 2), chance.integers(1, 2)
    return Turns(2 * up_down + 4 * (left_right != up_down))


def _d4(chance: Chance) -> Turns:
    return Turns(chance.integers(0, 8))


def _affine(step: Affine, chance: Chance) -> Warps:
    limit = np.deg2rad(step.rotate_deg)
    angle = chance.uniform(0, -limit, limit)
    zoom = chance.uniform(1, 1 - step.scale, 1 + step.scale)
    shifts = [chance.uniform(number, -step.shift, step.shift) for number in (2, 3)]
    # The matrix leads from the new image to the old, hence divided by the zoom.
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    return Warps(_about_centre(np.array([[cos, -sin], [sin, cos]]), shifts, chance.sides))


def _crop(step: Crop, chance: Chance) -> Warps:
    side = chance.uniform(0, step.min_side, 1)
    room = (1 - side) / 2
    # Seen from the enlarged image, the cut-out's centre lies the other way and farther.
    shifts = [-room * chance.uniform(number, -1, 1) / side for number in (1, 2)]
    zero = np.zeros_like(side)
    return Warps(_about_centre(np.array([[side, zero], [zero, side]]), shifts, chance.sides))


def _about_centre(linear: Floats, shifts: Sequence[Floats], sides: tuple[int, int]) -> Floats:
    """Return (V, 2, 3) of old = linear (new - centre - shift) + centre, linear being (2, 2, V)."""
    height, width = sides
    centre = np.array([(width - 1) / 2, (height - 1) / 2])[:, None]
    moved = centre + np.array([shifts[0] * width, shifts[1] * height])
    constant = centre - np.einsum("ijb,jb->ib", linear, moved)
    return np.concatenate([linear, constant[:, None]], axis=1).transpose(2, 0, 1)


def _psf_jitter(step: PsfJitter, chance: Chance) -> Blurs:
    # A sigma of 0 would divide by 0; a thousandth of a pixel changes no image.
    sigma = np.maximum(chance.uniform(0, 0, step.sigma_px), 1e-3)[:, None]
    # Of the largest sigma: all kernels have one length.
    reach = int(np.ceil(3 * step.sigma_px))
    kernels = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return Blurs(kernels / kernels.sum(axis=1, keepdims=True))
