"""How alike images are: each pair's similarity, and Fourier spectra summed over pairs; no torch.

Shapes: n images, C channels, H by W pixels, R radial bins, K frequencies. Pixels have a range of 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

Floats = npt.NDArray[np.floating]
Images: TypeAlias = Any  # numpy array or torch tensor
Transform = npt.NDArray[np.complexfloating]

WINDOW_PX, SIGMA_PX = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # of SSIM, for a data range of 1
NOISE_FREQUENCY = 0.45  # cycles a pixel; what lies beyond is taken for noise
KNEE = 2.0  # power over noise at which signal and noise are equal


def psnr(mse: Floats) -> Floats:
    """Return the peak signal-to-noise ratio in dB for a data range of 1; nothing is clipped."""
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(mse))


def ssim(one: Images, other: Images) -> Images:
    """Return the structural similarity (n,) of images (n, C, H, W), as float64 of their library.

    Wang et al. 2004, eq. 13, a Gaussian window of 11 px, sigma 1.5. Every pixel counts: the mean is
    over channels and the whole image, which is mirrored about its outermost pixels. scikit-image
    has the same value at a pixel, but leaves the 5 px at each edge out of its mean.
    """
    xp = array_namespace(one, other)
    # Autocast and TF32 change matrix products of float32, never those of float64.
    one, other = (xp.astype(images, xp.float64) for images in (one, other))
    rows, columns = (_window(xp, side, one.device) for side in one.shape[2:])

    def moments(images: Images) -> tuple[Images, Images]:
        """Return the squared mean and the variance within the window around each pixel."""
        mean = rows @ images @ columns.T
        # A difference of nearly equal numbers, which only float64 leaves above 0 but for rounding.
        return mean**2, xp.clip(rows @ images**2 @ columns.T - mean**2, min=0)

    # Of s = x + y and d = x - y: 4 x y = s² - d² and 2 (x² + y²) = s² + d², also for deviations.
    # Four windows' sums serve instead of five, and d = 0 gives exactly 1.
    (square_s, var_s), (square_d, var_d) = moments(one + other), moments(one - other)
    luminance = (square_s - square_d + 2 * C1) / (square_s + square_d + 2 * C1)
    structure = (var_s - var_d + 2 * C2) / (var_s + var_d + 2 * C2)
    return xp.mean(luminance * structure, axis=(1, 2, 3))


def _window(xp: Any, side: int, device: Any) -> Images:
    """Return the matrix (side, side) of the window's sums along a mirrored axis."""
    # Reckoned where the images lie: a GPU would wait for a copy of it.
    reach, period = WINDOW_PX // 2, max(1, 2 * (side - 1))
    pixel = xp.arange(side, device=device)
    offset = xp.arange(-reach, reach + 1, device=device)
    weight = xp.exp(-(xp.astype(offset, xp.float64) ** 2) / (2 * SIGMA_PX**2))
    seen = (pixel[:, None] + offset) % period
    mirrored = period // 2 - xp.abs(seen - period // 2)
    hits = xp.astype(mirrored[:, :, None] == pixel, xp.float64)
    return xp.sum(hits * (weight / xp.sum(weight))[:, None], axis=1)


def ring_radius(profiles: Floats) -> Floats:
    """Return the radius in pixels (n,) of the ring in azimuthal means (n, R) of 1 px bins.

    It is the peak of the flux a unit of radius, r p(r), p above the sky (the median of the
    outermost tenth of radii), to a part of a pixel by the parabola through the peak.
    """
    num_bins = profiles.shape[1]
    sky = np.median(profiles[:, -max(1, num_bins // 10) :], axis=1, keepdims=True)
    flux = (np.arange(num_bins) + 0.5) * (profiles - sky)
    peak = np.clip(flux.argmax(axis=1), 1, num_bins - 2)
    before, top, after = (flux[np.arange(len(flux)), peak + step] for step in (-1, 0, 1))
    bend = before - 2 * top + after
    shift = np.divide(before - after, 2 * bend, out=np.zeros(len(flux)), where=bend < 0)
    return np.asarray(peak + 0.5 + np.clip(shift, -1, 1))


def enlarge(images: Floats, sides: tuple[int, int], interpolation: int) -> Floats:
    """Return images (n, C, H', W') by one of OpenCV's interpolations."""
    import cv2

    planes = images.reshape(-1, *images.shape[2:]).astype(np.float32, copy=False)
    large = [cv2.resize(plane, sides[::-1], interpolation=interpolation) for plane in planes]
    return np.stack(large).reshape(*images.shape[:2], *sides)


def blur(images: Floats) -> Floats:
    """Return images (n, C, H, W) halved by area and enlarged by bicubic interpolation."""
    import cv2

    height, width = images.shape[2:]
    halves = (max(1, height // 2), max(1, width // 2))
    return enlarge(enlarge(images, halves, cv2.INTER_AREA), (height, width), cv2.INTER_CUBIC)


def interpolations() -> dict[str, Callable[[Floats, tuple[int, int]], Floats]]:
    """Return the ways to enlarge an image without a network, the simplest first."""
    import cv2

    kinds = {
        "nearest": cv2.INTER_NEAREST,
        "bilinear": cv2.INTER_LINEAR,
        "bicubic": cv2.INTER_CUBIC,
        "Lanczos": cv2.INTER_LANCZOS4,
    }
    return {name: partial(enlarge, interpolation=kind) for name, kind in kinds.items()}


def fourier_transform(images: Floats) -> Transform:
    """Return Fourier transforms (n, C, H, W/2+1) under a Hann window.

    They are scaled so that white noise of variance v has power v at every frequency.
    """
    from scipy import fft

    rows, columns = (
        0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n) for n in images.shape[2:]
    )
    window = np.outer(rows, columns)
    window /= np.sqrt((window**2).sum())
    return np.asarray(fft.rfft2(images * window.astype(images.dtype)))


@dataclass(frozen=True)
class Power:
    """Sums (H, W/2+1) over images and channels: |F|², the true images' |F*|², and Re F F*."""

    num: int
    own: Floats
    true: Floats
    cross: Floats

    def plus(self, other: "Power") -> "Power":
        """Return the sums over both sets of images."""
        sums = (getattr(self, key) + getattr(other, key) for key in ("own", "true", "cross"))
        return Power(self.num + other.num, *sums)


def power(own: Transform, true: Transform) -> Power:
    """Return the sums over pairs of transforms (n, C, H, W/2+1)."""
    # Summed in float64: power falls by many orders from the lowest frequency to the noise.
    products = (own * own.conj(), true * true.conj(), own * true.conj())
    sums = (one.real.sum(axis=(0, 1), dtype=np.float64) for one in products)
    return Power(own.shape[0] * own.shape[1], *sums)


@dataclass(frozen=True)
class Frequencies:
    """The rings of equal spatial frequency of images of (H, W), in cycles a pixel."""

    sides: tuple[int, int]

    @property
    def frequency(self) -> Floats:
        """Return the frequency (K,) of each ring, up to Nyquist's."""
        num = min(self.sides) // 2
        return (np.arange(num) + 0.5) / (2 * num)

    @property
    def radius(self) -> Floats:
        """Return the frequency (H, W/2+1) of each place of a transform."""
        height, width = self.sides
        return np.asarray(np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]))

    def mean(self, values: Floats) -> Floats:
        """Return azimuthal means (K,) of values (H, W/2+1), up to Nyquist's frequency."""
        # The corners beyond Nyquist's frequency go to a last ring, which is dropped: they are no
        # whole circles.
        num = len(self.frequency)
        place = np.minimum((self.radius * 2 * num).astype(int), num).ravel()
        sums, counts = (np.bincount(place, one, num + 1) for one in (values.ravel(), None))
        return np.asarray(sums / np.maximum(counts, 1))[:num]

    def noise(self, values: Floats) -> float:
        """Return the mean power beyond 0.45 cycles a pixel, the corners included."""
        return float(values[self.radius > NOISE_FREQUENCY].mean())

    def knee(self, spectrum: Floats, noise: float) -> float:
        """Return the frequency from which noise exceeds the signal: power below twice the noise."""
        below = np.flatnonzero(spectrum < KNEE * noise)
        return float(self.frequency[below[0]]) if len(below) else 0.5
