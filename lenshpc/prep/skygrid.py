"""How the pixels of a FITS image lie on the sky: its WCS, with positions in ICRS degrees."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError, one_line

Points = NDArray[np.float64]  # (n,2): ra and dec in degrees, or column and row, from 0

# Of the inverse of a distortion, which is found by steps; far below what decides on a pixel.
_TOLERANCE_PX = 1e-8
_MAX_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class SkyGrid:
    """The grid of an image (H,W); `frame` is that of its WCS, None where it is ICRS itself."""

    wcs: Any
    frame: Any
    shape: tuple[int, int]

    def to_sky(self, pixels: Points) -> Points:
        """Return the positions of pixels; NaN where there is none."""
        world = self.wcs.all_pix2world(pixels, 0)
        found = world[:, [self.wcs.wcs.lng, self.wcs.wcs.lat]]
        return found if self.frame is None else _change_frame(found, self.frame, "icrs")

    def to_pixels(self, positions: Points) -> Points:
        """Return column and row of positions; NaN where there is none."""
        from astropy.wcs import NoConvergence

        found = positions
        if self.frame is not None:
            found = _change_frame(positions, "icrs", self.frame)
        world = np.empty_like(found)
        world[:, self.wcs.wcs.lng], world[:, self.wcs.wcs.lat] = found.T
        try:
            pixels = self.wcs.all_world2pix(world, 0, tolerance=_TOLERANCE_PX, maxiter=_MAX_STEPS)
        except NoConvergence as error:
            # Far outside of an image its polynomials have no inverse.
            pixels = error.best_solution
            for lost in (error.divergent, error.slow_conv):
                pixels[[] if lost is None else lost] = np.nan
        return np.asarray(pixels, np.float64)

    @cached_property
    def outline(self) -> Points:
        """Return the positions of nine points: the centre is the fifth, the others at the edges."""
        height, width = self.shape
        columns, rows = (np.array([0, side / 2, side]) - 0.5 for side in (width, height))
        return self.to_sky(np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2))

    @property
    def centre(self) -> tuple[float, float]:
        """Return right ascension and declination of the centre."""
        ra, dec = self.outline[4].tolist()
        return ra, dec

    @property
    def reach_deg(self) -> float:
        """Return the angle from the centre that no pixel lies beyond; 180 where that is not known.

        The hundredth more is for edges that distortions bend outwards.
        """
        chords = np.linalg.norm(
            unit_vectors(self.outline) - unit_vectors(self.outline[4:5]), axis=1
        )
        farthest = float(chords.max())
        if not farthest < 1:  # NaN, as at the corners of a map of the whole sky
            return 180.0
        return 1.01 * float(np.degrees(2 * np.arcsin(farthest / 2)))

    @property
    def size_deg(self) -> tuple[float, float]:
        """Return width and height through the centre."""
        left, right, top, bottom = unit_vectors(self.outline)[[3, 5, 1, 7]]
        chords = np.linalg.norm([right - left, bottom - top], axis=1)
        width, height = np.degrees(2 * np.arcsin(np.minimum(chords / 2, 1))).tolist()
        return width, height

    @property
    def text(self) -> str:
        """Return what tells this grid from others."""
        return f"{self.shape} {self.wcs.to_header_string(relax=True)}"

    def offset_px(self, other: "SkyGrid") -> float:
        """Return by how much another grid lies beside this one, at most."""
        return float(np.abs(self.to_pixels(other.outline) - self.to_pixels(self.outline)).max())


def read_grid(path: str, header: Any, units: Any, shape: tuple[int, int]) -> SkyGrid:
    """Return the grid of an image by its header; DataError where it has none on the sky."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old keywords that it reads as newer ones
        try:
            return _make_grid(header, units, shape)
        except Exception as error:
            raise DataError(
                f"{path} has no usable celestial WCS: {_explain(error)}; give images with axes "
                "such as RA---TAN and DEC--TAN, or set `image.hdu` to the HDU that has them",
                cause="no celestial WCS",
            ) from error


def _explain(error: Exception) -> str:
    # wcslib begins with the line of its own code.
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1])[:200] if lines else type(error).__name__


def _make_grid(header: Any, units: Any, shape: tuple[int, int]) -> SkyGrid:
    from astropy.wcs import WCS
    from astropy.wcs.utils import wcs_to_celestial_frame

    wcs = WCS(header, fobj=units, naxis=2)
    if not wcs.has_celestial:
        raise ValueError(f"its axes are {' and '.join(map(ascii, wcs.wcs.ctype))}")
    frame = wcs_to_celestial_frame(wcs)
    grid = SkyGrid(wcs=wcs, frame=None if frame.name == "icrs" else frame, shape=shape)
    if not np.isfinite(grid.centre).all():
        raise ValueError("its centre has no position")
    return grid


def unit_vectors(positions: Points) -> NDArray[np.float64]:
    """Return positions (n,2) in degrees as unit vectors (n,3)."""
    ra, dec = np.radians(positions).T
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def _change_frame(positions: Points, before: Any, after: Any) -> Points:
    from astropy.coordinates import SkyCoord

    moved = SkyCoord(positions, unit="deg", frame=before).transform_to(after).spherical
    return np.stack([moved.lon.deg, moved.lat.deg], axis=1)
