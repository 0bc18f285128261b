"""Lens models and galaxy profiles as pure functions of positions in arcsec.

Positions x, y are relative to the centre of the lens or galaxy; arguments broadcast. Angles are in
radians, counter-clockwise from +x. A deflection alpha turns an image position into its source
position: beta = theta - alpha. Every deflection is the gradient of the potential beside it.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Values = float | Floats
Plane = tuple[Floats, Floats]

_TINY = 1e-30  # keeps 0/0 out of the exact centre, where every deflection is 0
_ROUNDEST = 1 - 1e-9  # the SIE formulas divide by sqrt(1 - q^2); here they differ from SIS by 1e-9


def rotate(x: Values, y: Values, angle: Values) -> Plane:
    """Return (x, y) in axes turned by `angle`."""
    x, y, cos, sin = _floats(x), _floats(y), np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def deflect_sis(x: Values, y: Values, theta_e: Values, softening: float = 0) -> Plane:
    """Return alpha of a singular isothermal sphere, alpha = theta_E theta/|theta|.

    Narayan & Bartelmann 1996 (astro-ph/9606001), section 3.1; a core radius s (`softening`)
    replaces |theta| by sqrt(|theta|^2 + s^2) + s, as in Keeton 2001 (astro-ph/0102341) at q = 1.
    """
    x, y = _floats(x), _floats(y)
    factor = theta_e / np.maximum(np.sqrt(x**2 + y**2 + softening**2) + softening, _TINY)
    return factor * x, factor * y


def potential_sis(x: Values, y: Values, theta_e: Values) -> Floats:
    """Return psi = theta_E |theta| of the singular isothermal sphere."""
    return _floats(theta_e * np.hypot(x, y))


def convergence_sis(x: Values, y: Values, theta_e: Values) -> Floats:
    """Return kappa = theta_E / (2 |theta|) of the singular isothermal sphere."""
    return _floats(theta_e / (2 * np.maximum(np.hypot(x, y), _TINY)))


def deflect_sie(
    x: Values,
    y: Values,
    theta_e: Values,
    axis_ratio: Values,
    angle: Values,
    softening: float = 0,
) -> Plane:
    """Return alpha of a singular isothermal ellipsoid with its major axis along `angle`.

    kappa = theta_E sqrt(q) / (2 psi) with psi^2 = q^2 (x^2 + s^2) + y^2: theta_E is that of the
    SIS with as much mass inside the critical curve, whatever q. Kormann, Schneider & Bartelmann
    1994 (A&A 284, 285) with x and y exchanged, since their major axis lies along y; the core s
    as in Keeton 2001 (astro-ph/0102341), softened isothermal ellipsoid.
    """
    x, y = rotate(x, y, angle)
    psi, q, f = _elliptic(x, y, axis_ratio, softening)
    strength = theta_e * np.sqrt(q) / f
    alpha_x = strength * np.arctan(f * x / (psi + softening))
    alpha_y = strength * np.arctanh(f * y / (psi + q**2 * softening))
    return rotate(alpha_x, alpha_y, -_floats(angle))


def potential_sie(
    x: Values, y: Values, theta_e: Values, axis_ratio: Values, angle: Values
) -> Floats:
    """Return psi = theta . alpha of the singular isothermal ellipsoid."""
    alpha_x, alpha_y = deflect_sie(x, y, theta_e, axis_ratio, angle)
    return _floats(x * alpha_x + y * alpha_y)


def convergence_sie(
    x: Values,
    y: Values,
    theta_e: Values,
    axis_ratio: Values,
    angle: Values,
    softening: float = 0,
) -> Floats:
    """Return kappa of the isothermal ellipsoid of `deflect_sie`."""
    psi, q, _ = _elliptic(*rotate(x, y, angle), axis_ratio, softening)
    return _floats(theta_e * np.sqrt(q) / (2 * psi))


def _elliptic(x: Floats, y: Floats, axis_ratio: Values, softening: float) -> tuple[Any, ...]:
    """Return the elliptic radius psi, the axis ratio q and f = sqrt(1 - q^2)."""
    q = np.minimum(axis_ratio, _ROUNDEST)
    psi = np.sqrt(q**2 * (x**2 + softening**2) + y**2)
    return np.maximum(psi, _TINY), q, np.sqrt(1 - q**2)


def deflect_shear(x: Values, y: Values, gamma1: Values, gamma2: Values) -> Plane:
    """Return alpha of external shear: psi = gamma1 (x^2 - y^2)/2 + gamma2 x y.

    (gamma1, gamma2) = |gamma| (cos 2 phi, sin 2 phi); Narayan & Bartelmann 1996, section 3.2.
    """
    x, y = _floats(x), _floats(y)
    return _floats(gamma1 * x + gamma2 * y), _floats(gamma2 * x - gamma1 * y)


def potential_shear(x: Values, y: Values, gamma1: Values, gamma2: Values) -> Floats:
    """Return the potential of external shear."""
    x, y = _floats(x), _floats(y)
    return _floats(gamma1 * (x**2 - y**2) / 2 + gamma2 * x * y)


def deflect_point(x: Values, y: Values, theta_e: Values, softening: float = 0) -> Plane:
    """Return alpha = theta_E^2 theta/(|theta|^2 + s^2) of a point mass.

    Narayan & Bartelmann 1996, section 2.2. Masses add as theta_E^2, so a fraction f of a halo's
    mass in N equal points gives each theta_E sqrt(f/N). The core s makes it a Plummer sphere.
    """
    x, y = _floats(x), _floats(y)
    factor = np.square(theta_e) / np.maximum(x**2 + y**2 + softening**2, _TINY)
    return factor * x, factor * y


def potential_point(x: Values, y: Values, theta_e: Values, softening: float = 0) -> Floats:
    """Return psi = theta_E^2 ln sqrt(|theta|^2 + s^2) of a point mass."""
    squared = np.square(x) + np.square(y) + softening**2
    return _floats(np.square(theta_e) * np.log(np.maximum(squared, _TINY)) / 2)


def sersic_b(index: float) -> float:
    """Return b_n, for which half the light lies within R_e.

    Ciotti & Bertin 1999 (A&A 352, 447), eq. 18: off by 2e-4 at n = 0.6, 4e-5 at 1, 5e-7 at 4.
    """
    n = index
    return (
        2 * n
        - 1 / 3
        + 4 / (405 * n)
        + 46 / (25515 * n**2)
        + 131 / (1148175 * n**3)
        - 2194697 / (30690717750 * n**4)
    )


def sersic(
    x: Values,
    y: Values,
    radius: float,
    index: float,
    axis_ratio: Values = 1,
    angle: Values = 0,
    softening: float = 0,
) -> Floats:
    """Return a Sersic brightness, flux per square arcsec, for a total flux of 1 (at s = 0).

    I = I_e exp(-b_n ((R/R_e)^(1/n) - 1)), R^2 = q x^2 + y^2/q + s^2, so that R_e is the geometric
    mean of the half-light ellipse's axes. Profile and total flux: Ciotti 1991 (A&A 249, 99).
    """
    x, y = rotate(x, y, angle)
    b = sersic_b(index)
    squared = (axis_ratio * x**2 + y**2 / axis_ratio + softening**2) / radius**2
    centre = b ** (2 * index) / (2 * math.pi * index * radius**2 * math.gamma(2 * index))
    return _floats(centre * np.exp(-b * squared ** (0.5 / index)))


def _floats(value: Values) -> Floats:
    return np.asarray(value, dtype=np.float64)
