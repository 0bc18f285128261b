"""Images of the sky as small PNGs for the eye: asinh above each one's own noise, colours."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]

MAX_SIDE_PX = 200  # a larger image is averaged down, which bounds the page
NUM_COLOURS = 128
BLACK_SIGMA = 1.0  # black is as far below the sky, so that its noise is seen
LINEAR_SIGMA = 3.0  # what is fainter is shown in proportion, what is brighter by its logarithm
MAX_RANGE = 30.0  # of white to the end of that, where there is no noise
HIGH = 0.998  # the share of pixels below white
SIGMA_OF_MAD = 1.4826  # of Gaussian noise


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The median of an image's pixels, the noise about it, and a level that few exceed."""

    sky: float = 0.0
    noise: float = 0.0
    high: float = 0.0

    @property
    def black(self) -> float:
        """The level that is shown as black."""
        return self.sky - BLACK_SIGMA * self.noise


def measure_limits(plane: Floats) -> Limits:
    """Return the limits of the finite pixels of an image (H, W); all 0 where there are none."""
    finite = plane[np.isfinite(plane)]
    if not finite.size:
        return Limits()
    sky = float(np.median(finite))
    noise = SIGMA_OF_MAD * float(np.median(np.abs(finite - sky)))
    return Limits(sky=sky, noise=noise, high=float(np.quantile(finite, HIGH)))


def render_cutouts(images: NDArray[Any]) -> list[bytes]:
    """Return each image of (N, C, H, W), whatever its units, as a PNG file.

    One or two channels are shown in grey, three or more by the first three, which lie in the order
    of wavelength: blue, green, red. Each image has a stretch of its own, but all have one balance
    of colours, so they can be compared. Pixels that are not finite are black.
    """
    planes = [np.asarray(image[:3], dtype=np.float64) for image in images]
    limits = [[measure_limits(plane) for plane in image] for image in planes]
    gains = _balance(limits)
    return [
        encode_cutout(_stretch(_lift(image, ours, gains)))
        for image, ours in zip(planes, limits, strict=True)
    ]


def _balance(limits: Sequence[Sequence[Limits]]) -> Floats:
    """Return what each channel is multiplied by, (C, 1, 1): the typical image is white."""
    spans = np.array([[one.high - one.sky for one in image] for image in limits])
    typical = [np.median(one[one > 0]) if (one > 0).any() else 1.0 for one in spans.T]
    return 1 / np.array(typical).reshape(-1, 1, 1)


def _lift(image: Floats, limits: Sequence[Limits], gains: Floats) -> Floats:
    """Return an image (C, H, W) above black, its channels balanced; 0 where it is not finite."""
    above = (image - np.array([one.black for one in limits]).reshape(-1, 1, 1)) * gains
    return np.where(np.isfinite(above), np.maximum(above, 0), 0)


def _stretch(layers: Floats) -> Floats:
    """Return an image (C, H, W) from 0 up as grey (H, W) or colours (H, W, 3) in [0, 1].

    Colours are those of Lupton et al. (2004, PASP 116, 133): the mean of the channels is
    stretched, their ratios stay, and what is too bright keeps its hue.
    """
    light = layers.mean(axis=0)
    limits = measure_limits(light)
    white = limits.high or light.max()  # the latter where few pixels differ at all
    if white == 0:  # constant, or nothing finite
        return np.zeros_like(light)
    softening = np.clip(LINEAR_SIGMA * limits.noise, white / MAX_RANGE, white)
    shown: Floats = np.arcsinh(light / softening) / np.arcsinh(white / softening)
    if len(layers) < 3:
        return np.asarray(np.minimum(shown, 1))
    ratio = np.divide(shown, light, out=np.zeros_like(light), where=light > 0)
    colours: Floats = layers * ratio
    kept = colours / np.maximum(colours.max(axis=0), 1)
    return np.moveaxis(kept[::-1], 0, -1)


def encode_cutout(pixels: Floats) -> bytes:
    """Return grey (H, W) or colours (H, W, 3) in [0, 1] as a PNG file of one byte a pixel."""
    image = Image.fromarray(np.ascontiguousarray(np.rint(255 * pixels).astype(np.uint8)))
    image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BOX)
    if image.mode == "RGB":
        # Colours of the image's own: a quarter of the bytes, most of which would be of noise.
        image = image.quantize(NUM_COLOURS, Image.Quantize.FASTOCTREE, kmeans=1)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
