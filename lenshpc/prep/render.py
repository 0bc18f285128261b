"""Render a scene to pixels: ray tracing, point-spread function, noise, min-max scaling."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from lenshpc.physics import deflect_shear, deflect_sie, rotate, sersic
from lenshpc.prep.scene import Galaxy, Lens, Scene
from lenshpc.prep.survey import Survey

Floats = NDArray[np.float64]

_SOFTENING_PIXELS = 0.3  # a pixel averages over the cusp of n = 4; the PSF is far wider
_FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Turn scenes into (3, n, n) images of one survey."""

    survey: Survey
    num_pixels: int

    def photograph(self, scene: Scene, random: Generator) -> NDArray[np.float32]:
        """Return the noisy image, each channel scaled to [0, 1] by its minimum and maximum."""
        image = self.exposed(self.blurred(self.surface(scene)), random)
        low = image.min(axis=(1, 2), keepdims=True)
        span = image.max(axis=(1, 2), keepdims=True) - low
        return np.asarray((image - low) / span, dtype=np.float32)

    def surface(self, scene: Scene) -> Floats:
        """Return the flux in each pixel above the atmosphere (3, n, n)."""
        x, y = self._grid
        profiles = [self._profile(galaxy, x, y) for galaxy in scene.galaxies]
        fluxes = [self._fluxes(galaxy) for galaxy in scene.galaxies]
        if scene.lens:
            beta_x, beta_y = trace(scene.lens, x, y)
            profiles.append(self._profile(scene.lens.source, beta_x, beta_y))
            fluxes.append(self._fluxes(scene.lens.source))
        return np.asarray(np.tensordot(np.stack(fluxes, axis=1), np.stack(profiles), axes=1))

    def blurred(self, image: Floats) -> Floats:
        """Return the image convolved with the Gaussian PSF of each band."""
        return np.asarray(self._blur @ image @ self._blur.transpose(0, 2, 1))

    def exposed(self, image: Floats, random: Generator) -> Floats:
        """Return the image with sky and photon noise.

        The sky alone gives 30,000 electrons a pixel, so Poisson noise is at its normal limit.
        """
        sky = np.array(self.survey.sky_rms)[:, None, None]
        gain = np.array(self.survey.electrons_per_flux)[:, None, None]
        noise = random.standard_normal(image.shape, dtype=np.float32)
        return np.asarray(image + noise * np.sqrt(sky**2 + image / gain))

    def _profile(self, galaxy: Galaxy, x: Floats, y: Floats) -> Floats:
        """Return the fraction of the galaxy's flux that falls on each pixel."""
        x, y = x - galaxy.x, y - galaxy.y
        scale = self.survey.pixel_scale_arcsec
        shape = (galaxy.radius, galaxy.index, galaxy.axis_ratio, galaxy.angle)
        profile = sersic(x, y, *shape, softening=_SOFTENING_PIXELS * scale) * scale**2
        return profile * _arm_factor(galaxy, x, y) if galaxy.arms else profile

    def _fluxes(self, galaxy: Galaxy) -> Floats:
        mags = np.array(galaxy.mags)
        return np.asarray(10 ** (0.4 * (self.survey.zero_point_mag - mags)))

    @cached_property
    def _grid(self) -> tuple[Floats, Floats]:
        """Return the pixel centres in arcsec; the middle of the image is (0, 0)."""
        middle = (self.num_pixels - 1) / 2
        axis = (np.arange(self.num_pixels) - middle) * self.survey.pixel_scale_arcsec
        x, y = np.meshgrid(axis, axis)
        return x, y

    @cached_property
    def _blur(self) -> Floats:
        """Return one (n, n) matrix a band: as a product, three times as fast as filtering."""
        eye = np.eye(self.num_pixels)
        widths = np.array(self.survey.psf_fwhm_arcsec) / self.survey.pixel_scale_arcsec
        sigmas = widths / _FWHM_PER_SIGMA
        return np.stack([gaussian_filter1d(eye, sigma, axis=0) for sigma in sigmas])


def trace(lens: Lens, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return where the light seen at (x, y) comes from, relative to the deflector's centre."""
    x, y = x - lens.x, y - lens.y
    sie_x, sie_y = deflect_sie(x, y, lens.theta_e, lens.axis_ratio, lens.angle)
    shear_x, shear_y = deflect_shear(x, y, lens.gamma1, lens.gamma2)
    return x - sie_x - shear_x, y - sie_y - shear_y


def _arm_factor(galaxy: Galaxy, x: Floats, y: Floats) -> Floats:
    assert galaxy.arms is not None  # noqa: S101 - for mypy: the caller has looked
    arms = galaxy.arms
    x, y = rotate(x, y, galaxy.angle)
    y = y / galaxy.axis_ratio
    winding = arms.winding * np.log(np.hypot(x, y) / galaxy.radius + 0.1)
    return 1 + arms.strength * np.cos(arms.number * np.arctan2(y, x) - winding - arms.phase)
