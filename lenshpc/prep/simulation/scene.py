"""What one image shows: galaxies, mass and source of a lens, strips of light, and the weather."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lenshpc.prep.simulation.survey import KINDS

Magnitudes = tuple[float, float, float]
_BANDS = ("g", "r", "i")
_SIGMA_PER_FWHM = 1 / math.sqrt(8 * math.log(2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Arms:
    """Logarithmic spiral arms: brightness varies by 1 ± strength along the azimuth."""

    number: int
    strength: float
    winding: float
    phase: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Galaxy:
    """One Sersic profile, with positions and lengths in arcsec; with `ring_width` a ring."""

    x: float
    y: float
    mags: Magnitudes
    radius: float
    index: float
    axis_ratio: float
    angle: float
    arms: Arms | None = None
    ring_width: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LensSystem:
    """SIE and external shear at (x, y)."""

    x: float
    y: float
    theta_e: float
    axis_ratio: float
    angle: float
    gamma1: float
    gamma2: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """A straight band of light through (x, y), `width` at half maximum.

    A spike fades from (x, y) on, to 1/e at `length`.
    """

    x: float
    y: float
    angle: float
    width: float
    mags_per_square_arcsec: Magnitudes
    length: float = math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """Lensed arcs, or what looks like them: its brightness is set by its signal-to-noise."""

    galaxies: tuple[Galaxy, ...]
    snr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """All that one image shows; behind a lens, the feature's galaxies are the sources."""

    kind: str
    galaxies: tuple[Galaxy, ...]
    feature: Feature | None = None
    lens: LensSystem | None = None
    strips: tuple[Strip, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Weather:
    """Seeing and noise of the sky in each band; they vary between images."""

    psf_fwhm_arcsec: tuple[float, float, float]
    sky_rms: tuple[float, float, float]

    def depths_mag(self, zero_point_mag: float, pixel_scale_arcsec: float) -> list[float]:
        """Return the magnitude of a point source of 5 sigma in each band."""
        widths = [fwhm * _SIGMA_PER_FWHM / pixel_scale_arcsec for fwhm in self.psf_fwhm_arcsec]
        # The noise of a matched filter: that of the 4 pi sigma^2 pixels which a Gaussian fills.
        noise = np.multiply(self.sky_rms, widths) * math.sqrt(4 * math.pi)
        return [zero_point_mag - 2.5 * math.log10(5 * one) for one in noise]


def truth(scene: Scene, feature_mag_i: float | None) -> dict[str, Any]:
    """Return the numbers that a network may be asked for; None where there is no such thing."""
    lens, feature = scene.lens, scene.feature
    return {
        "kind": scene.kind,
        "kind_number": KINDS.index(scene.kind),
        "theta_e_arcsec": lens and lens.theta_e,
        "lens_axis_ratio": lens and lens.axis_ratio,
        "lens_angle_rad": lens and lens.angle,
        "gamma1": lens and lens.gamma1,
        "gamma2": lens and lens.gamma2,
        "source_x_arcsec": lens and feature and feature.galaxies[0].x,
        "source_y_arcsec": lens and feature and feature.galaxies[0].y,
        "source_mag_i": lens and feature_mag_i,
        "main_mag_i": scene.galaxies[0].mags[2],
        "feature_snr": feature and feature.snr,
    }


def describe_weather(
    weather: Weather, zero_point_mag: float, pixel_scale_arcsec: float
) -> dict[str, float]:
    """Return seeing and depth of each band, as they stand in truth.csv."""
    depths = weather.depths_mag(zero_point_mag, pixel_scale_arcsec)
    seeing = zip(_BANDS, weather.psf_fwhm_arcsec, strict=True)
    return {f"psf_fwhm_{band}_arcsec": fwhm for band, fwhm in seeing} | {
        f"depth_{band}_mag": depth for band, depth in zip(_BANDS, depths, strict=True)
    }
