"""Render a halo to pixels: ray tracing past every point mass, PSF, photon noise."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator

from lenshpc.physics import deflect_points, deflect_shear, deflect_sie, sersic, sersic_flux
from lenshpc.prep.simulation.draws import Draws, Stream
from lenshpc.prep.simulation.halo import Halo, Profile, draw_halo, truth
from lenshpc.prep.simulation.pixels import Pixels, axis, bin_pixels, blur_matrix, expose, rescale
from lenshpc.prep.simulation.sample import Sample
from lenshpc.prep.simulation.substructure import DarkMatter


@dataclass(frozen=True, kw_only=True)
class HaloRenderer:
    """Turn halos into (1, n, n) images, in electrons, or into pairs of two resolutions.

    A pair's other image has pixels `binning` times as wide.
    """

    settings: DarkMatter
    num_pixels: int
    binning: int = 1

    def make(self, stream: Stream, number: int) -> Sample:
        """Return image `number` of the class that the stream names."""
        draws = Draws(stream, number, self.settings.legacy)
        halo = draw_halo(self.settings, draws)
        points = np.stack([*halo.points.positions, halo.points_theta_e, halo.points.fractions])
        blurred = self.blur(halo)
        image = self.expose(blurred, draws.random)
        if self.binning == 1:
            return Sample(image=rescale(image), truth=truth(halo), points=points)
        exposure = self.settings.binned_exposure * self.binning**2
        coarse = self.expose(bin_pixels(blurred, self.binning), draws.random, exposure)
        return Sample(
            image=rescale(coarse, like=image),
            target=rescale(image),
            truth=truth(halo),
            points=points,
        )

    def blur(self, halo: Halo) -> Pixels:
        """Return the surface brightness behind the PSF (1, n, n)."""
        return np.asarray(self._blur @ self.surface(halo) @ self._blur.T, np.float32)[None]

    def expose(self, image: Pixels, random: Generator, exposure: float = 1.0) -> Pixels:
        """Return the image with the noise of `exposure` times the settings' electrons, a mean."""
        noise = self.settings.noise
        if noise is None:
            return image
        scale, sky = exposure * noise.electrons_per_intensity, exposure * noise.sky_electrons
        return np.asarray(expose(image, scale, sky, random) / np.float32(exposure))

    def surface(self, halo: Halo) -> Pixels:
        """Return the surface brightness before the PSF (n, n), one ray a pixel."""
        x, y = self._axis[None], self._axis[:, None]
        image = _brightness(halo.source, *trace(halo, x, y))
        return image if halo.light is None else image + _brightness(halo.light, x, y)

    @cached_property
    def _axis(self) -> Pixels:
        return axis(self.num_pixels, self.settings.pixel_scale_arcsec)

    @cached_property
    def _blur(self) -> Pixels:
        fwhm = self.settings.psf_fwhm_arcsec / self.settings.pixel_scale_arcsec
        return blur_matrix(self.num_pixels, fwhm)


def trace(halo: Halo, x: Pixels, y: Pixels) -> tuple[Pixels, Pixels]:
    """Return where the light seen at (x, y) comes from; x is a row, y a column."""
    sie_x, sie_y = deflect_sie(x, y, halo.theta_e, halo.axis_ratio, halo.angle)
    shear_x, shear_y = deflect_shear(x, y, halo.gamma1, halo.gamma2)
    beta_x, beta_y = x - sie_x - shear_x, y - sie_y - shear_y
    if halo.points.fractions.size == 0:
        return beta_x, beta_y
    positions = halo.points.positions.astype(x.dtype)
    points_x, points_y = deflect_points(x, y, positions, halo.points_theta_e.astype(x.dtype))
    return beta_x - points_x, beta_y - points_y


def _brightness(profile: Profile, x: Pixels, y: Pixels) -> Pixels:
    shape = (profile.radius, profile.index)
    flux = profile.intensity * sersic_flux(*shape)
    x, y = x - profile.x, y - profile.y
    return np.asarray(flux * sersic(x, y, *shape, profile.axis_ratio, profile.angle))
