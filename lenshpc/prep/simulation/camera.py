"""Render a scene to pixels: ray tracing, point-spread function, noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lenshpc.physics import deflect_shear, deflect_sie, rotate, sersic
from lenshpc.prep.simulation.draws import Draws, Stream
from lenshpc.prep.simulation.pixels import Pixels, axis, blur_matrix, normal, rescale
from lenshpc.prep.simulation.sample import Sample
from lenshpc.prep.simulation.scene import (
    Galaxy,
    LensSystem,
    Scene,
    Strip,
    draw_lens,
    draw_nonlens,
    truth,
)
from lenshpc.prep.simulation.survey import Survey

_SOFTENING_PIXELS = 0.3  # a pixel averages over the cusp of n = 4; the PSF is far wider
_DRAW = {"lens": draw_lens, "nonlens": draw_nonlens}


@dataclass(frozen=True, kw_only=True)
class SceneRenderer:
    """Turn scenes into (3, n, n) images of one survey."""

    survey: Survey
    num_pixels: int

    def make(self, stream: Stream, number: int) -> Sample:
        """Return image `number` of the class that the stream names."""
        random = Draws(stream, number).random
        scene = _DRAW[stream.name](self.survey, random)
        return Sample(image=rescale(self.photograph(scene, random)), truth=truth(scene))

    def photograph(self, scene: Scene, random: Generator) -> Pixels:
        """Return the image with noise, in units of flux."""
        image = self.blur(self.surface(scene))
        for strip in scene.strips:
            image = image + self._strip(strip)
        return self.expose(image, random)

    def surface(self, scene: Scene) -> Pixels:
        """Return the flux in each pixel above the atmosphere (3, n, n)."""
        x, y = self._axis[None], self._axis[:, None]
        profiles = [self._profile(galaxy, x, y) for galaxy in scene.galaxies]
        mags = [galaxy.mags for galaxy in scene.galaxies]
        if scene.lens:
            profiles.append(self._profile(scene.lens.source, *trace(scene.lens, x, y)))
            mags.append(scene.lens.source.mags)
        return np.asarray(np.tensordot(self._fluxes(mags).T, np.stack(profiles), axes=1))

    def blur(self, image: Pixels) -> Pixels:
        """Return the image convolved with the Gaussian PSF of each band."""
        return np.asarray(self._blur @ image @ self._blur.transpose(0, 2, 1))

    def expose(self, image: Pixels, random: Generator) -> Pixels:
        """Return the image with sky and photon noise.

        The sky alone gives 30,000 electrons a pixel, so Poisson noise is at its normal limit.
        """
        sky = np.array(self.survey.sky_rms, np.float32)[:, None, None]
        gain = np.array(self.survey.electrons_per_flux, np.float32)[:, None, None]
        noise = normal(image.shape, random)
        return np.asarray(image + noise * np.sqrt(sky * sky + image / gain))

    def _profile(self, galaxy: Galaxy, x: Pixels, y: Pixels) -> Pixels:
        """Return the surface brightness of a flux of 1."""
        x, y = x - galaxy.x, y - galaxy.y
        shape = (galaxy.radius, galaxy.index, galaxy.axis_ratio, galaxy.angle)
        softening = _SOFTENING_PIXELS * self.survey.pixel_scale_arcsec
        profile = sersic(x, y, *shape, softening=softening)
        return np.asarray(profile * _arm_factor(galaxy, x, y) if galaxy.arms else profile)

    def _strip(self, strip: Strip) -> Pixels:
        """Return the flux of a strip (3, n, n), which the atmosphere does not blur."""
        x, y = self._axis[None] - strip.x, self._axis[:, None] - strip.y
        _, across = rotate(x, y, strip.angle)
        profile = np.exp(-4 * math.log(2) * (across / strip.width) ** 2)
        (fluxes,) = self._fluxes([strip.mags_per_square_arcsec])
        return np.asarray(fluxes[:, None, None] * profile)

    def _fluxes(self, mags: Sequence[tuple[float, float, float]]) -> NDArray[np.float32]:
        """Return the fluxes (n, 3) of pixels whose surface brightness is `mags` a square arcsec."""
        fluxes = 10 ** (0.4 * (self.survey.zero_point_mag - np.array(mags)))
        return np.asarray(fluxes * self.survey.pixel_scale_arcsec**2, np.float32)

    @cached_property
    def _axis(self) -> Pixels:
        return axis(self.num_pixels, self.survey.pixel_scale_arcsec)

    @cached_property
    def _blur(self) -> Pixels:
        scale = self.survey.pixel_scale_arcsec
        widths = [fwhm / scale for fwhm in self.survey.psf_fwhm_arcsec]
        return np.stack([blur_matrix(self.num_pixels, width) for width in widths])


def trace(lens: LensSystem, x: Pixels, y: Pixels) -> tuple[Pixels, Pixels]:
    """Return where the light seen at (x, y) comes from, relative to the deflector's centre."""
    x, y = x - lens.x, y - lens.y
    sie_x, sie_y = deflect_sie(x, y, lens.theta_e, lens.axis_ratio, lens.angle)
    shear_x, shear_y = deflect_shear(x, y, lens.gamma1, lens.gamma2)
    return x - sie_x - shear_x, y - sie_y - shear_y


def _arm_factor(galaxy: Galaxy, x: Pixels, y: Pixels) -> Pixels:
    assert galaxy.arms is not None  # noqa: S101 - for mypy: the caller has looked
    arms = galaxy.arms
    x, y = rotate(x, y, galaxy.angle)
    y = y / galaxy.axis_ratio
    winding = arms.winding * np.log(np.hypot(x, y) / galaxy.radius + 0.1)
    waves = np.cos(arms.number * np.arctan2(y, x) - winding - arms.phase)
    return np.asarray(1 + arms.strength * waves)
