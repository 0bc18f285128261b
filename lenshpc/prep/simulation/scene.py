"""Draw what an image shows: galaxies with their colours, and for a lens its mass and source."""

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.random import Generator

from lenshpc.physics import shear_components
from lenshpc.prep.simulation.survey import GalaxyRanges, NonlensKind, Survey

# A real deflector sits within a fraction of a pixel of the cutout's centre, never exactly there.
_CENTRE_JITTER_ARCSEC = 0.08


@dataclass(frozen=True, kw_only=True, slots=True)
class Arms:
    """Logarithmic spiral arms: brightness varies by 1 ± strength along the azimuth."""

    number: int
    strength: float
    winding: float
    phase: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Galaxy:
    """One Sersic profile, with positions and lengths in arcsec."""

    x: float
    y: float
    mags: tuple[float, float, float]
    radius: float
    index: float
    axis_ratio: float
    angle: float
    arms: Arms | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LensSystem:
    """SIE and external shear at (x, y), and the galaxy behind."""

    x: float
    y: float
    theta_e: float
    axis_ratio: float
    angle: float
    gamma1: float
    gamma2: float
    source: Galaxy


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """A straight band of light through (x, y), `width` at half maximum."""

    x: float
    y: float
    angle: float
    width: float
    mags_per_square_arcsec: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """All that one image shows."""

    kind: str
    galaxies: tuple[Galaxy, ...]
    lens: LensSystem | None = None
    strips: tuple[Strip, ...] = ()


def draw_lens(survey: Survey, random: Generator) -> Scene:
    """Return a red galaxy that lenses a blue one, and its neighbours."""
    deflector = _galaxy(survey.galaxies.red, random, *_centre(random))
    theta_e = random.uniform(*survey.theta_e_arcsec)
    gamma1, gamma2 = shear_components(random.uniform(*survey.shear), random.uniform(0, math.pi))
    distance = theta_e * random.uniform(*survey.source_offset)
    source = _galaxy(survey.galaxies.source, random, *_polar(random, distance))
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
        source=source,
    )
    return Scene(kind="lens", galaxies=(deflector, *_companions(survey, random)), lens=lens)


def draw_nonlens(survey: Survey, random: Generator) -> Scene:
    """Return a galaxy or group that lenses nothing, many of them look-alikes of lenses."""
    kind = _choice(survey.nonlens_kinds, random.random())
    main = {
        "elliptical": _elliptical,
        "spiral": _spiral,
        "edge_on": _edge_on,
        "merger": _merger,
        "group": _group,
        "artefact": _elliptical,
        "faint": _faint,
    }[kind](survey, random)
    strips = (_strip(survey, random),) if kind == "artefact" else ()
    return Scene(kind=kind, galaxies=(*main, *_companions(survey, random)), strips=strips)


def truth(scene: Scene) -> dict[str, Any]:
    """Return the numbers that a network may be asked for; None where there is no lens."""
    lens = scene.lens
    return {
        "kind": scene.kind,
        "theta_e_arcsec": lens and lens.theta_e,
        "lens_axis_ratio": lens and lens.axis_ratio,
        "lens_angle_rad": lens and lens.angle,
        "gamma1": lens and lens.gamma1,
        "gamma2": lens and lens.gamma2,
        "source_x_arcsec": lens and lens.source.x,
        "source_y_arcsec": lens and lens.source.y,
        "source_mag_i": lens and lens.source.mags[2],
        "main_mag_i": scene.galaxies[0].mags[2],
    }


def _choice(shares: dict[NonlensKind, float], quantile: float) -> NonlensKind:
    """Return the kind in whose part of [0, 1) the quantile lies; the shares sum to 1."""
    ends = list(accumulate(shares.values()))
    return list(shares)[min(bisect_right(ends, quantile), len(ends) - 1)]


def _elliptical(survey: Survey, random: Generator) -> tuple[Galaxy, ...]:
    return (_galaxy(survey.galaxies.red, random, *_centre(random)),)


def _spiral(survey: Survey, random: Generator) -> tuple[Galaxy, ...]:
    x, y = _centre(random)
    disk = _galaxy(survey.galaxies.disk, random, x, y)
    arms = Arms(
        number=int(random.integers(*survey.arms.number, endpoint=True)),
        strength=random.uniform(*survey.arms.strength),
        winding=random.uniform(*survey.arms.winding) * float(random.choice([-1.0, 1.0])),
        phase=random.uniform(0, 2 * math.pi),
    )
    return replace(disk, arms=arms), _galaxy(survey.galaxies.bulge, random, x, y)


def _edge_on(survey: Survey, random: Generator) -> tuple[Galaxy, ...]:
    x, y = _centre(random)
    disk = _galaxy(survey.galaxies.edge_on, random, x, y)
    return disk, _galaxy(survey.galaxies.bulge, random, x, y)


def _merger(survey: Survey, random: Generator) -> tuple[Galaxy, ...]:
    """Return two galaxies whose light runs into one another."""
    distance = random.uniform(*survey.merger_distance_arcsec)
    other = _galaxy(survey.galaxies.disk, random, *_polar(random, distance))
    return *_spiral(survey, random), other


def _group(survey: Survey, random: Generator) -> tuple[Galaxy, ...]:
    """Return a red galaxy with neighbours where a lens would have its images."""
    number = int(random.integers(*survey.num_group_members, endpoint=True))
    distances = random.uniform(*survey.theta_e_arcsec, size=number).tolist()
    near = [_galaxy(survey.galaxies.companion, random, *_polar(random, d)) for d in distances]
    return _elliptical(survey, random) + tuple(near)


def _faint(survey: Survey, random: Generator) -> tuple[Galaxy, ...]:
    return (_galaxy(survey.galaxies.faint, random, *_centre(random)),)


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
    # One call for all six: each call of numpy's takes as long as drawing a hundred numbers.
    draws = random.random(6).tolist()
    limits = (ranges.mag_i, ranges.g_r, ranges.r_i, ranges.radius_arcsec, ranges.axis_ratio)
    mag_i, g_r, r_i, radius, axis_ratio, angle = (
        low + draw * (high - low)
        for draw, (low, high) in zip(draws, (*limits, (0.0, math.pi)), strict=True)
    )
    return Galaxy(
        x=x,
        y=y,
        mags=(mag_i + r_i + g_r, mag_i + r_i, mag_i),
        radius=radius,
        index=ranges.sersic_index,
        axis_ratio=axis_ratio,
        angle=angle,
    )


def _centre(random: Generator) -> tuple[float, float]:
    x, y = random.normal(0, _CENTRE_JITTER_ARCSEC, size=2).tolist()
    return x, y


def _polar(random: Generator, distance: float) -> tuple[float, float]:
    angle = random.uniform(0, 2 * math.pi)
    return distance * math.cos(angle), distance * math.sin(angle)
