"""What both simulators do with pixels: their positions, the PSF, photon noise, scaling."""

import math
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Pixels = NDArray[np.float32]

_FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))


def axis(num_pixels: int, pixel_scale_arcsec: float) -> Pixels:
    """Return the pixels' distances in arcsec from the middle of the image."""
    places = (np.arange(num_pixels) - (num_pixels - 1) / 2) * pixel_scale_arcsec
    return places.astype(np.float32)


def blur_matrix(num_pixels: int, fwhm_pixels: float) -> Pixels:
    """Return B (n, n): B image B^T has a Gaussian PSF, three times as fast as filtering."""
    eye = np.eye(num_pixels)
    return np.asarray(gaussian_filter1d(eye, fwhm_pixels / _FWHM_PER_SIGMA, axis=0), np.float32)


def normal(shape: tuple[int, ...], random: Generator) -> Pixels:
    """Return standard normal deviates, at a third of the time of numpy's (Box & Muller 1958)."""
    num_pairs = (math.prod(shape) + 1) // 2
    first, second = random.random((2, num_pairs), dtype=np.float32)
    # 1 - first, which is never 0, since draws are below 1.
    radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * math.pi * second
    deviates = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return deviates[: math.prod(shape)].reshape(shape)


def expose(intensity: Pixels, scale: float, sky: float, random: Generator) -> Pixels:
    """Return counts of a Poisson process with mean `scale` times intensity, plus `sky`.

    A normal deviate with Poisson's skewness, rounded (Cornish & Fisher 1938): for a sky of five or
    more the moments agree up to the third, at a fifth of the time of numpy's `poisson`.
    """
    mean = scale * intensity + sky
    deviate = normal(mean.shape, random)
    # The last term gives Poisson's skewness, without which faint pixels would be symmetric about
    # their mean.
    counts = mean + np.sqrt(mean) * deviate + (deviate * deviate - 1) / 6
    return np.asarray(np.maximum(np.rint(counts), 0), np.float32)


def bin_pixels(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """Return the means of blocks of `factor` by `factor` pixels of an image (C, H, W)."""
    channels, height, width = image.shape
    blocks = image.reshape(channels, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(2, 4)))


def rescale(image: NDArray[Any], *, like: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return the image (C, H, W), each channel stretched as stretches `like`, or it, to [0, 1]."""
    limits = image if like is None else like
    low = limits.min(axis=(1, 2), keepdims=True)
    return np.asarray((image - low) / (limits.max(axis=(1, 2), keepdims=True) - low))
