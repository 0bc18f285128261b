"""Draw what an image shows: a lens, or one of the many things that are none."""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.random import Generator

from lenshpc.physics import shear_components
from lenshpc.prep.simulation.ranges import PositiveRange, Range
from lenshpc.prep.simulation.scene import (
    Arms,
    Feature,
    Galaxy,
    LensSystem,
    Magnitudes,
    Scene,
    Strip,
    Weather,
)
from lenshpc.prep.simulation.survey import GalaxyRanges, NonlensKind, ShapeRanges, Survey

# A real deflector sits within a fraction of a pixel of the cutout's centre, never exactly there.
_CENTRE_JITTER_ARCSEC = 0.08
_POINT_ARCSEC = 0.02  # a star before the atmosphere
_SPIKE_WIDTH_ARCSEC = 0.35


def draw_lens(survey: Survey, random: Generator) -> Scene:
    """Return a red galaxy that lenses another one, and its neighbours."""
    deflector = _galaxy(survey.galaxies.red, random, *_centre(random))
    theta_e = survey.theta_e_arcsec.draw(random)
    gamma1, gamma2 = shear_components(random.uniform(*survey.shear), random.uniform(0, math.pi))
    distance = theta_e * random.uniform(*survey.source_offset)
    source = _relative(survey, survey.galaxies.source, random, *_polar(random, distance))
    # Light follows mass closely but not exactly, as in SLACS (Bolton et al. 2008).
    axis_ratio = float(np.clip(deflector.axis_ratio + random.normal(0, 0.05), 0.4, 1))
    lens = LensSystem(
        x=deflector.x,
        y=deflector.y,
        theta_e=theta_e,
        axis_ratio=axis_ratio,
        angle=deflector.angle + random.normal(0, 0.1),
        gamma1=gamma1,
        gamma2=gamma2,
    )
    feature = _feature(survey, random, source)
    galaxies = (deflector, *_companions(survey, random))
    return Scene(kind="lens", galaxies=galaxies, feature=feature, lens=lens)


def draw_nonlens(survey: Survey, random: Generator) -> Scene:
    """Return a galaxy or group that lenses nothing, many of them look-alikes of lenses."""
    kind = _choice(survey.nonlens_kinds, random.random())
    scene = _NONLENSES[kind](survey, random)
    return replace(scene, kind=kind, galaxies=(*scene.galaxies, *_companions(survey, random)))


def draw_weather(survey: Survey, random: Generator) -> Weather:
    """Return seeing and noise of one image; each band was taken in nights of its own."""
    seeing, depth = random.standard_normal((2, 3)).tolist()
    g, r, i = (
        fwhm * 10 ** (survey.psf_scatter_dex * draw)
        for fwhm, draw in zip(survey.psf_fwhm_arcsec, seeing, strict=True)
    )
    sky_g, sky_r, sky_i = (
        rms * 10 ** (0.4 * survey.depth_scatter_mag * draw)
        for rms, draw in zip(survey.sky_rms, depth, strict=True)
    )
    return Weather(psf_fwhm_arcsec=(g, r, i), sky_rms=(sky_g, sky_r, sky_i))


def _choice(shares: dict[NonlensKind, float], quantile: float) -> NonlensKind:
    """Return the kind in whose part of [0, 1) the quantile lies; the shares sum to 1."""
    ends = list(accumulate(shares.values()))
    return list(shares)[min(bisect_right(ends, quantile), len(ends) - 1)]


def _elliptical(survey: Survey, random: Generator) -> Scene:
    return _scene(_galaxy(survey.galaxies.red, random, *_centre(random)))


def _spiral(survey: Survey, random: Generator) -> Scene:
    x, y = _centre(random)
    disk = _galaxy(survey.galaxies.disk, random, x, y)
    bulge = _galaxy(survey.galaxies.bulge, random, x, y)
    return _scene(replace(disk, arms=_arms(survey, random)), bulge)


def _edge_on(survey: Survey, random: Generator) -> Scene:
    x, y = _centre(random)
    disk = _galaxy(survey.galaxies.edge_on, random, x, y)
    return _scene(disk, _galaxy(survey.galaxies.bulge, random, x, y))


def _merger(survey: Survey, random: Generator) -> Scene:
    """Return two galaxies whose light runs into one another."""
    distance = random.uniform(*survey.merger_distance_arcsec)
    other = _galaxy(survey.galaxies.disk, random, *_polar(random, distance))
    return _scene(*_spiral(survey, random).galaxies, other)


def _group(survey: Survey, random: Generator) -> Scene:
    """Return a red galaxy with neighbours where a lens would have its images."""
    number = int(random.integers(*survey.num_group_members, endpoint=True))
    distances = [survey.theta_e_arcsec.draw(random) for _ in range(number)]
    near = [_galaxy(survey.galaxies.companion, random, *_polar(random, d)) for d in distances]
    return _scene(*_elliptical(survey, random).galaxies, *near)


def _artefact(survey: Survey, random: Generator) -> Scene:
    return replace(_elliptical(survey, random), strips=(_strip(survey, random),))


def _faint(survey: Survey, random: Generator) -> Scene:
    return _scene(_galaxy(survey.galaxies.faint, random, *_centre(random)))


def _ring(survey: Survey, random: Generator) -> Scene:
    """Return a red galaxy with a ring of young stars about it."""
    main = _galaxy(survey.galaxies.red, random, *_centre(random))
    shape = _relative(survey, survey.galaxies.arms, random, main.x, main.y)
    ring = replace(
        shape,
        radius=random.uniform(*survey.ring.radius_arcsec),
        ring_width=random.uniform(*survey.ring.width_arcsec),
        arms=Arms(
            number=int(random.integers(1, 2, endpoint=True)),
            strength=random.uniform(*survey.ring.lopsidedness),
            winding=0.0,
            phase=random.uniform(0, 2 * math.pi),
        ),
    )
    return replace(_scene(main), feature=_feature(survey, random, ring))


def _draw_red_arms(survey: Survey, random: Generator) -> Scene:
    """Return a red galaxy with blue arms at a lens's distances."""
    main = _galaxy(survey.galaxies.red, random, *_centre(random))
    disk = _relative(survey, survey.galaxies.arms, random, main.x, main.y)
    armed = replace(disk, arms=_arms(survey, random))
    return replace(_scene(main), feature=_feature(survey, random, armed))


def _satellites(survey: Survey, random: Generator) -> Scene:
    """Return a red galaxy with small blue ones at a lens's distances."""
    main = _galaxy(survey.galaxies.red, random, *_centre(random))
    number = int(random.integers(*survey.num_satellites, endpoint=True))
    members = [
        _relative(
            survey,
            survey.galaxies.satellite,
            random,
            *_polar(random, survey.theta_e_arcsec.draw(random)),
        )
        for _ in range(number)
    ]
    return replace(_scene(main), feature=_feature(survey, random, *members))


def _star(survey: Survey, random: Generator) -> Scene:
    """Return a bright star with halo and spikes, beside a red galaxy or in its place."""
    ranges = survey.star
    x, y = _polar(random, random.uniform(*ranges.distance_arcsec))
    mags = _magnitudes(*(random.uniform(*one) for one in (ranges.mag_i, ranges.g_r, ranges.r_i)))
    core = Galaxy(x=x, y=y, mags=mags, radius=_POINT_ARCSEC, index=1.0, axis_ratio=1.0, angle=0.0)
    halo = replace(core, mags=_dim(mags, ranges.halo_fraction), radius=ranges.halo_radius_arcsec)
    angle, length = random.uniform(0, math.pi), random.uniform(*ranges.spike_length_arcsec)
    # The flux of a spike: the width of a Gaussian times two exponentials.
    area = _SPIKE_WIDTH_ARCSEC * math.sqrt(math.pi / (4 * math.log(2))) * 2 * length
    spikes = tuple(
        Strip(
            x=x,
            y=y,
            angle=angle + turn,
            width=_SPIKE_WIDTH_ARCSEC,
            length=length,
            mags_per_square_arcsec=_dim(mags, ranges.spike_fraction / 2 / area),
        )
        for turn in (0.0, math.pi / 2)
    )
    main = _elliptical(survey, random).galaxies
    return replace(_scene(*main, core, halo), strips=spikes)


_NONLENSES: dict[NonlensKind, Callable[[Survey, Generator], Scene]] = {
    "elliptical": _elliptical,
    "spiral": _spiral,
    "edge_on": _edge_on,
    "merger": _merger,
    "group": _group,
    "artefact": _artefact,
    "faint": _faint,
    "ring": _ring,
    "arms": _draw_red_arms,
    "satellites": _satellites,
    "star": _star,
}


def _scene(*galaxies: Galaxy) -> Scene:
    return Scene(kind="", galaxies=galaxies)


def _feature(survey: Survey, random: Generator, *galaxies: Galaxy) -> Feature:
    """Return galaxies whose signal-to-noise S is drawn: N(>S) falls as 1/S.

    Collett 2015 (ApJ 811, 20) finds half as many lenses where twice the S is asked for.
    """
    low, high = survey.arc_snr
    return Feature(galaxies=galaxies, snr=1 / random.uniform(1 / high, 1 / low))


def _arms(survey: Survey, random: Generator) -> Arms:
    return Arms(
        number=int(random.integers(*survey.arms.number, endpoint=True)),
        strength=random.uniform(*survey.arms.strength),
        winding=random.uniform(*survey.arms.winding) * float(random.choice([-1.0, 1.0])),
        phase=random.uniform(0, 2 * math.pi),
    )


def _companions(survey: Survey, random: Generator) -> tuple[Galaxy, ...]:
    number = int(random.integers(*survey.num_companions, endpoint=True))
    distances = random.uniform(*survey.companion_distance_arcsec, size=number).tolist()
    ranges = survey.galaxies.companion
    return tuple(_galaxy(ranges, random, *_polar(random, distance)) for distance in distances)


def _strip(survey: Survey, random: Generator) -> Strip:
    """Return a trail of any direction and grey, or a bleeding column in one band."""
    ranges = survey.strips
    mag = random.uniform(*ranges.surface_mag_i)
    x, y = _polar(random, random.uniform(*survey.companion_distance_arcsec))
    mags, angle = [mag] * 3, random.uniform(0, math.pi)
    if random.random() < ranges.bleed_probability:
        band = int(random.integers(3))
        mags, angle = [mag if b == band else math.inf for b in range(3)], math.pi / 2
    g, r, i = mags
    width = random.uniform(*ranges.width_arcsec)
    return Strip(x=x, y=y, angle=angle, width=width, mags_per_square_arcsec=(g, r, i))


def _galaxy(ranges: GalaxyRanges, random: Generator, x: float, y: float) -> Galaxy:
    """Return a galaxy drawn from `ranges`; its angle is uniform over half a turn."""
    return _shape_galaxy(ranges, ranges.mag_i, random, x, y)


def _relative(survey: Survey, ranges: ShapeRanges, random: Generator, x: float, y: float) -> Galaxy:
    """Return a galaxy of flux 1 to 1/2 in band i, whose brightness is yet to be set."""
    zero = survey.zero_point_mag
    return _shape_galaxy(ranges, (zero, zero + 0.75), random, x, y)


def _shape_galaxy(
    ranges: ShapeRanges, mag_limits: Range, random: Generator, x: float, y: float
) -> Galaxy:
    # One call for all six: each call of numpy's takes as long as drawing a hundred numbers.
    draws = random.random(6).tolist()
    limits: tuple[Range | PositiveRange, ...] = (
        mag_limits,
        ranges.g_r,
        ranges.r_i,
        ranges.radius_arcsec,
        ranges.axis_ratio,
        (0.0, math.pi),
    )
    mag_i, g_r, r_i, radius, axis_ratio, angle = (
        low + draw * (high - low) for draw, (low, high) in zip(draws, limits, strict=True)
    )
    return Galaxy(
        x=x,
        y=y,
        mags=_magnitudes(mag_i, g_r, r_i),
        radius=radius,
        index=ranges.sersic_index,
        axis_ratio=axis_ratio,
        angle=angle,
    )


def _magnitudes(mag_i: float, g_r: float, r_i: float) -> Magnitudes:
    return mag_i + r_i + g_r, mag_i + r_i, mag_i


def _dim(mags: Magnitudes, fraction: float) -> Magnitudes:
    """Return the magnitudes of a part of the flux."""
    g, r, i = (mag - 2.5 * math.log10(fraction) for mag in mags)
    return g, r, i


def _centre(random: Generator) -> tuple[float, float]:
    x, y = random.normal(0, _CENTRE_JITTER_ARCSEC, size=2).tolist()
    return x, y


def _polar(random: Generator, distance: float) -> tuple[float, float]:
    angle = random.uniform(0, 2 * math.pi)
    return distance * math.cos(angle), distance * math.sin(angle)
