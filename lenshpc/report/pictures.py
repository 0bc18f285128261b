"""Images of a store as small PNGs: one asinh stretch, channels as colours, heat laid over them."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

Floats = npt.NDArray[np.floating]
Bytes = npt.NDArray[np.uint8]

SOFTENING = 20.0  # of the stretch: linear below a twentieth of the range
MAX_SIDE_PX = 128  # a larger image is averaged down, which bounds the page
HEAT_OPACITY = 0.55


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The levels (C, 1, 1) that are drawn as black and white, the same for all pictures."""

    low: Floats
    high: Floats

    def levels(self, image: Floats) -> Bytes:
        """Return an image (C, H, W) as bytes: asinh between `low` and `high`."""
        # Of images all alike, 1: nothing to divide by, and all is black.
        span = np.where(self.high > self.low, self.high - self.low, 1)
        shown = np.clip((image - self.low) / span, 0, 1)
        stretched = 255 * np.arcsinh(SOFTENING * shown) / np.arcsinh(SOFTENING)
        return np.asarray(stretched, dtype=np.uint8)


def stretch_of(images: Floats) -> Stretch:
    """Return the stretch of some images (N, C, H, W): the faintest 1 %, the median maximum."""
    low = np.quantile(images, 0.01, axis=(0, 2, 3))
    high = np.median(images.max(axis=(2, 3)), axis=0)
    return Stretch(low=low[:, None, None], high=high[:, None, None])


def colours(levels: Bytes) -> Bytes:
    """Return (H, W, 3): three channels lie in the order of wavelength, the last is red."""
    if len(levels) == 3:
        return np.ascontiguousarray(np.moveaxis(levels[::-1], 0, -1))
    grey = levels.mean(axis=0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def overlay(pixels: Bytes, heat: Floats) -> Bytes:
    """Return pixels (H, W, 3) under a map in [0, 1] of any size; heat covers them."""
    height, width, _ = pixels.shape
    layer = Image.fromarray(heat.astype(np.float32))
    heat = np.asarray(layer.resize((width, height), Image.Resampling.BILINEAR))
    warm = 255 * colormaps["inferno"](heat)[..., :3]
    cover = HEAT_OPACITY * np.clip(heat, 0, 1)[..., None]
    return np.asarray((1 - cover) * pixels + cover * warm, dtype=np.uint8)


def encode_png(pixels: Bytes) -> bytes:
    """Return (H, W, 3) as a PNG file; grey where all channels agree."""
    grey = bool((pixels == pixels[..., :1]).all())
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
    image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
