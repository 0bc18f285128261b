"""Stretches that bring out faint light; pixels of about 0 to 1 stay so."""

import math

from torch import Tensor

SOFTENING = 0.05  # in the pixels' units: linear below, logarithmic above


def stretch(pixels: Tensor, kind: str) -> Tensor:
    """Return the pixels stretched by `sqrt`, `asinh` or `log`, or as they are; 0 and 1 stay.

    asinh is that of Lupton, Gunn and Szalay (1999, AJ 118, 1406), with softening 0.05; `log` is
    log(1 + x / 0.05). The square root and the logarithm take negative pixels as 0.
    """
    match kind:
        case "none":
            return pixels
        case "sqrt":
            return pixels.clamp(min=0).sqrt()
        case "asinh":
            return (pixels / SOFTENING).asinh() / math.asinh(1 / SOFTENING)
        case "log":
            # log1p, and expm1 on the way back: faint pixels are near 0, where log(1 + x) has few
            # digits.
            return (pixels.clamp(min=0) / SOFTENING).log1p() / math.log1p(1 / SOFTENING)
        case _:
            raise ValueError(f"no stretch is named {kind!r}")


def unstretch(pixels: Tensor, kind: str) -> Tensor:
    """Return stretched pixels as they were before, in the same units."""
    match kind:
        case "none":
            return pixels
        case "sqrt":
            return pixels.clamp(min=0).square()
        case "asinh":
            return (pixels * math.asinh(1 / SOFTENING)).sinh() * SOFTENING
        case "log":
            return (pixels.clamp(min=0) * math.log1p(1 / SOFTENING)).expm1() * SOFTENING
        case _:
            raise ValueError(f"no stretch is named {kind!r}")
