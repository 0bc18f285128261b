"""Draw a dark-matter halo with its substructure, a source behind it, and its own light."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenshpc.physics import share, shear_components
from lenshpc.prep.simulation.draws import Draws
from lenshpc.prep.simulation.substructure import (
    Axion,
    DarkMatter,
    Light,
    MassFunction,
    Subhalos,
    Substructure,
    Vortex,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PointMasses:
    """Point masses: positions (2, K) in arcsec, their fractions (K,) of the total mass."""

    positions: Floats
    fractions: Floats
    axion_mass_ev: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """One Sersic profile; `intensity` is the surface brightness at the half-light radius."""

    x: float
    y: float
    intensity: float
    radius: float
    index: float
    axis_ratio: float
    angle: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Halo:
    """An isothermal halo at the origin with external shear, substructure and light."""

    theta_e: float
    axis_ratio: float
    angle: float
    gamma1: float
    gamma2: float
    points: PointMasses
    points_theta_e: Floats
    source: Profile
    light: Profile | None


def draw_halo(settings: DarkMatter, draws: Draws) -> Halo:
    """Return one lens; its halo has what the substructure leaves of the total mass."""
    # The order of all draws below fixes the images: one more or less in the middle changes all that
    # come after.
    total = draws.uniform(settings.theta_e_arcsec)
    axis_ratio, angle = draws.uniform(settings.halo_axis_ratio), draws.orientation()
    gamma1, gamma2 = shear_components(draws.uniform(settings.shear), draws.orientation())
    x, y = draws.position(draws.uniform(settings.source.distance_arcsec))
    source = _profile(settings.source, draws, x, y)
    light = _profile(settings.lens_light, draws) if settings.lens_light else None
    points = _points(settings.classes[draws.stream.name], draws)
    return Halo(
        theta_e=share(total, 1 - float(points.fractions.sum())),
        axis_ratio=axis_ratio,
        angle=angle,
        gamma1=gamma1,
        gamma2=gamma2,
        points=points,
        points_theta_e=_theta_e(total, points.fractions, legacy=draws.legacy),
        source=source,
        light=light,
    )


def truth(halo: Halo) -> dict[str, Any]:
    """Return the numbers that a network may be asked for."""
    return {
        "theta_e_arcsec": halo.theta_e,
        "halo_axis_ratio": halo.axis_ratio,
        "halo_angle_rad": halo.angle,
        "gamma1": halo.gamma1,
        "gamma2": halo.gamma2,
        "source_x_arcsec": halo.source.x,
        "source_y_arcsec": halo.source.y,
        "source_radius_arcsec": halo.source.radius,
        "source_axis_ratio": halo.source.axis_ratio,
        "source_angle_rad": halo.source.angle,
        "source_intensity": halo.source.intensity,
        "num_subhalos": halo.points.fractions.size,
        "subhalo_mass_fraction": float(halo.points.fractions.sum()),
        "axion_mass_ev": halo.points.axion_mass_ev,
    }


def _theta_e(total: float, fractions: Floats, *, legacy: bool) -> Floats:
    """Return the points' Einstein radii; the original code has sqrt(f)/N for sqrt(f/N)."""
    radii: Floats = share(total, fractions)
    return radii / math.sqrt(max(fractions.size, 1)) if legacy else radii


def _profile(light: Light, draws: Draws, x: float = 0.0, y: float = 0.0) -> Profile:
    return Profile(
        x=x,
        y=y,
        intensity=draws.uniform(light.intensity),
        radius=draws.uniform(light.radius_arcsec),
        index=light.sersic_index,
        axis_ratio=draws.uniform(light.axis_ratio),
        angle=draws.orientation(),
    )


def _points(substructure: Substructure, draws: Draws) -> PointMasses:
    match substructure:
        case Subhalos():
            return _subhalos(substructure, draws)
        case Vortex():
            x, y = draws.random.normal(0, substructure.centre_sigma_arcsec, size=2)
            return _string(substructure, draws, draws.uniform(substructure.length_arcsec), x, y)
        case Axion():
            mass_ev = 10 ** draws.uniform(substructure.log10_mass_ev)
            length = substructure.length_arcsec_at_1e_22_ev * 1e-22 / mass_ev
            return _string(substructure, draws, length, axion_mass_ev=mass_ev)
        case _:
            return PointMasses(positions=np.empty((2, 0)), fractions=np.empty(0))


def _subhalos(subhalos: Subhalos, draws: Draws) -> PointMasses:
    random = draws.random
    number = int(random.poisson(subhalos.number)) if subhalos.poisson else subhalos.number
    distance = random.uniform(*subhalos.distance_arcsec, size=number)
    angle = random.uniform(0, 2 * math.pi, size=number)
    masses = np.ones(number)
    if subhalos.mass_function:
        masses = _masses(subhalos.mass_function, random.uniform(size=number))
    if subhalos.mass_fraction and number:
        masses *= draws.uniform(subhalos.mass_fraction) / masses.sum()
    positions = distance * np.stack([np.cos(angle), np.sin(angle)])
    return PointMasses(positions=positions, fractions=masses)


def _masses(function: MassFunction, quantiles: Floats) -> Floats:
    """Return the masses below which the given parts of all subhalos lie."""
    power = function.slope + 1
    low, high = function.low**power, function.high**power
    return np.asarray((low + quantiles * (high - low)) ** (1 / power))


def _string(
    vortex: Vortex | Axion,
    draws: Draws,
    length: float,
    x: float = 0.0,
    y: float = 0.0,
    axion_mass_ev: float | None = None,
) -> PointMasses:
    """Return points along a line; the original code's begins at (-L/2, 0) from its centre."""
    angle = draws.uniform((0, 2 * math.pi))
    steps = np.linspace(-length / 2, length / 2, vortex.num_points)
    along_x, along_y = math.cos(angle) * steps, math.sin(angle) * steps
    if draws.legacy:
        along_x, along_y = along_x - along_x[0] - length / 2, along_y - along_y[0]
    fraction = draws.uniform(vortex.mass_fraction)
    return PointMasses(
        positions=np.stack([x + along_x, y + along_y]),
        fractions=np.full(vortex.num_points, fraction / vortex.num_points),
        axion_mass_ev=axion_mass_ev,
    )
