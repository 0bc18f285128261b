"""Render a scene to pixels: ray tracing, point-spread function, noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lenshpc.physics import deflect_shear, deflect_sie, rotate, sersic
from lenshpc.prep.simulation.draws import Draws, Stream
from lenshpc.prep.simulation.pixels import Pixels, axis, blur_matrix, normal, rescale
from lenshpc.prep.simulation.population import draw_lens, draw_nonlens, draw_weather
from lenshpc.prep.simulation.sample import Sample
from lenshpc.prep.simulation.scene import (
    Feature,
    Galaxy,
    LensSystem,
    Scene,
    Strip,
    Weather,
    describe_weather,
    truth,
)
from lenshpc.prep.simulation.survey import Survey

_SOFTENING_PIXELS = 0.3  # a pixel averages over the cusp of n = 4; the PSF is far wider
_PSF_STEP_PIXELS = 0.02  # widths of PSFs are multiples of it, so that their matrices recur
_FOUR_LOG_2 = 4 * math.log(2)
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
        weather = draw_weather(self.survey, random)
        light, feature_mag = self.collect(scene, weather)
        scale, zero = self.survey.pixel_scale_arcsec, self.survey.zero_point_mag
        known = truth(scene, feature_mag) | describe_weather(weather, zero, scale)
        return Sample(image=rescale(self.expose(light, weather, random)), truth=known)

    def collect(self, scene: Scene, weather: Weather) -> tuple[Pixels, float | None]:
        """Return the flux without noise (3, n, n), and the feature's i magnitude.

        Of a lens that is the first source's, before it is magnified.
        """
        x, y = self._axis[None], self._axis[:, None]
        light = self.blur(self._sum(scene.galaxies, x, y), weather)
        magnitude = None
        if scene.feature:
            shape = trace(scene.lens, x, y) if scene.lens else (x, y)
            feature = self.blur(self._sum(scene.feature.galaxies, *shape), weather)
            factor = self._brighten(scene.feature, feature, light, weather)
            light = light + np.float32(factor) * feature
            magnitude = scene.feature.galaxies[0].mags[2] - 2.5 * math.log10(factor)
        for strip in scene.strips:
            light = light + self._strip(strip)
        return light, magnitude

    def blur(self, image: Pixels, weather: Weather) -> Pixels:
        """Return the image convolved with the Gaussian PSF of each band."""
        step = _PSF_STEP_PIXELS * self.survey.pixel_scale_arcsec
        steps = tuple(round(fwhm / step) for fwhm in weather.psf_fwhm_arcsec)
        blur = np.stack([_blur_matrix(self.num_pixels, one) for one in steps])
        return np.asarray(blur @ image @ blur.transpose(0, 2, 1))

    def expose(self, light: Pixels, weather: Weather, random: Generator) -> Pixels:
        """Return the image with sky and photon noise.

        The sky alone gives 30,000 electrons a pixel, so Poisson noise is at its normal limit.
        """
        noise = normal(light.shape, random)
        return np.asarray(light + noise * np.sqrt(self._variance(light, weather)))

    def _variance(self, light: Pixels, weather: Weather) -> Pixels:
        sky = np.array(weather.sky_rms, np.float32)[:, None, None]
        gain = np.array(self.survey.electrons_per_flux, np.float32)[:, None, None]
        return np.asarray(sky * sky + light / gain)

    def _brighten(self, feature: Feature, image: Pixels, light: Pixels, weather: Weather) -> float:
        """Return the factor that gives the feature its signal-to-noise in its best band.

        It is that of a matched filter, against the noise of sky and other light.
        """
        squared = (image * image / self._variance(light, weather)).sum(axis=(1, 2))
        return feature.snr / math.sqrt(float(squared.max()))

    def _sum(self, galaxies: Sequence[Galaxy], x: Pixels, y: Pixels) -> Pixels:
        """Return the flux in each pixel (3, n, n) above the atmosphere."""
        profiles = np.stack([self._profile(galaxy, x, y) for galaxy in galaxies])
        fluxes = self._fluxes([galaxy.mags for galaxy in galaxies])
        return np.asarray(np.tensordot(fluxes.T, profiles, axes=1))

    def _profile(self, galaxy: Galaxy, x: Pixels, y: Pixels) -> Pixels:
        """Return the surface brightness of a flux of 1; of a ring, of any flux."""
        x, y = x - galaxy.x, y - galaxy.y
        if galaxy.ring_width:
            profile = _ring(galaxy, galaxy.ring_width, x, y)
        else:
            shape = (galaxy.radius, galaxy.index, galaxy.axis_ratio, galaxy.angle)
            softening = _SOFTENING_PIXELS * self.survey.pixel_scale_arcsec
            profile = np.asarray(sersic(x, y, *shape, softening=softening))
        return profile * _arm_factor(galaxy, x, y) if galaxy.arms else profile

    def _strip(self, strip: Strip) -> Pixels:
        """Return the flux of a strip (3, n, n), which the atmosphere does not blur."""
        x, y = self._axis[None] - strip.x, self._axis[:, None] - strip.y
        along, across = rotate(x, y, strip.angle)
        profile = np.exp(-_FOUR_LOG_2 * (across / strip.width) ** 2 - np.abs(along) / strip.length)
        (fluxes,) = self._fluxes([strip.mags_per_square_arcsec])
        return np.asarray(fluxes[:, None, None] * profile)

    def _fluxes(self, mags: Sequence[tuple[float, float, float]]) -> NDArray[np.float32]:
        """Return the fluxes (n, 3) of pixels whose surface brightness is `mags` a square arcsec."""
        fluxes = 10 ** (0.4 * (self.survey.zero_point_mag - np.array(mags)))
        return np.asarray(fluxes * self.survey.pixel_scale_arcsec**2, np.float32)

    @cached_property
    def _axis(self) -> Pixels:
        return axis(self.num_pixels, self.survey.pixel_scale_arcsec)


def trace(lens: LensSystem, x: Pixels, y: Pixels) -> tuple[Pixels, Pixels]:
    """Return where the light seen at (x, y) comes from, relative to the deflector's centre."""
    x, y = x - lens.x, y - lens.y
    sie_x, sie_y = deflect_sie(x, y, lens.theta_e, lens.axis_ratio, lens.angle)
    shear_x, shear_y = deflect_shear(x, y, lens.gamma1, lens.gamma2)
    return x - sie_x - shear_x, y - sie_y - shear_y


@lru_cache(maxsize=1024)
def _blur_matrix(num_pixels: int, num_steps: int) -> Pixels:
    return blur_matrix(num_pixels, num_steps * _PSF_STEP_PIXELS)


def _ring(galaxy: Galaxy, width: float, x: Pixels, y: Pixels) -> Pixels:
    """Return an ellipse's line of `width` at half maximum, whose axes' mean is the radius."""
    x, y = rotate(x, y, galaxy.angle)
    radius = np.sqrt(galaxy.axis_ratio * x**2 + y**2 / galaxy.axis_ratio)
    return np.asarray(np.exp(-_FOUR_LOG_2 * ((radius - galaxy.radius) / width) ** 2))


def _arm_factor(galaxy: Galaxy, x: Pixels, y: Pixels) -> Pixels:
    assert galaxy.arms is not None  # noqa: S101 - for mypy: the caller has looked
    arms = galaxy.arms
    x, y = rotate(x, y, galaxy.angle)
    y = y / galaxy.axis_ratio
    winding = arms.winding * np.log(np.hypot(x, y) / galaxy.radius + 0.1)
    waves = np.cos(arms.number * np.arctan2(y, x) - winding - arms.phase)
    return np.asarray(1 + arms.strength * waves)
