"""Lens models and galaxy profiles as pure functions of positions in arcsec.

They take floats, numpy arrays or torch tensors, broadcast, keep the dtype and, for tensors, the
gradient; torch itself is not imported. Positions x, y are relative to the centre of the lens or
galaxy. Angles are in radians, counter-clockwise from +x. A deflection alpha turns an image position
into its source position: beta = theta - alpha.

Masses are those within the Einstein radius, M = pi Sigma_cr theta_E^2. They add as theta_E^2.
"""

import math
from functools import lru_cache
from typing import Any, TypeAlias

from array_api_compat import array_namespace
from scipy.special import gammaincinv

Values: TypeAlias = Any  # float, numpy array or torch tensor
Plane: TypeAlias = tuple[Values, Values]

# Added to |theta|^2: values and float32 gradients stay finite at the centre, where alpha is 0.
# The gradient of a singular lens is still steep there (1e9); fits give a softening.
_TINY_SQUARED = 1e-18
_ROUNDEST_SQUARED = 1e-12  # added to 1 - q^2, by whose root the SIE's formulas divide


def rotate(x: Values, y: Values, angle: Values) -> Plane:
    """Return (x, y) in axes turned by `angle`."""
    functions = _functions(angle)
    cos, sin = functions.cos(angle), functions.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def share(theta_e: Values, fraction: Values) -> Values:
    """Return the Einstein radius of a fraction of the mass that has `theta_e`."""
    return theta_e * fraction**0.5


def deflect_sis(x: Values, y: Values, theta_e: Values, softening: Values = 0.0) -> Plane:
    """Return alpha of a singular isothermal sphere, alpha = theta_E theta/|theta|.

    Narayan & Bartelmann 1996 (astro-ph/9606001), section 3.1; a core radius s (`softening`)
    replaces |theta| by sqrt(|theta|^2 + s^2) + s, as in Keeton 2001 (astro-ph/0102341) at q = 1.
    """
    factor = theta_e / (_radius(x, y, softening) + softening)
    return factor * x, factor * y


def deflect_sie(
    x: Values,
    y: Values,
    theta_e: Values,
    axis_ratio: Values,
    angle: Values,
    softening: Values = 0.0,
) -> Plane:
    """Return alpha of a singular isothermal ellipsoid (q <= 1) with major axis along `angle`.

    kappa = theta_E sqrt(q) / (2 psi) with psi^2 = q^2 (x^2 + s^2) + y^2: theta_E is that of the
    SIS with as much mass inside the critical curve, whatever q. Kormann, Schneider & Bartelmann
    1994 (A&A 284, 285) with x and y exchanged, since their major axis lies along y; the core s
    as in Keeton 2001 (astro-ph/0102341), softened isothermal ellipsoid.
    """
    x, y = rotate(x, y, angle)
    q = axis_ratio
    psi = _radius(q * x, y, q * softening)
    # (1 - q)(1 + q) and not 1 - q²: the latter loses half its digits as q nears 1.
    f = ((1 - q) * (1 + q) + _ROUNDEST_SQUARED) ** 0.5
    strength = theta_e * q**0.5 / f
    functions = _functions(psi)
    alpha_x = strength * functions.atan(f * x / (psi + softening))
    alpha_y = strength * functions.atanh(f * y / (psi + q**2 * softening))
    return rotate(alpha_x, alpha_y, -angle)


def shear_components(strength: Values, angle: Values) -> Plane:
    """Return (gamma1, gamma2) = |gamma| (cos 2 phi, sin 2 phi)."""
    functions = _functions(angle)
    return strength * functions.cos(2 * angle), strength * functions.sin(2 * angle)


def deflect_shear(x: Values, y: Values, gamma1: Values, gamma2: Values) -> Plane:
    """Return alpha of external shear: psi = gamma1 (x^2 - y^2)/2 + gamma2 x y.

    Narayan & Bartelmann 1996, section 3.2.
    """
    return gamma1 * x + gamma2 * y, gamma2 * x - gamma1 * y


def deflect_points(x: Values, y: Values, points: Values, theta_e: Values) -> Plane:
    """Return the summed alpha of K point masses at `points` (2, K) with `theta_e` (K,).

    alpha = theta_E^2 theta/|theta|^2 of each (Narayan & Bartelmann 1996, section 2.2), over the
    grid (m, n) whose axes are x (1, n) and y (m, 1):
    sum_k (x - x_k) w_k = x sum_k w_k - sum_k x_k w_k, whose sums are one matrix product.
    """
    x_k, y_k = points[0][:, None, None], points[1][:, None, None]
    inverse = 1 / ((x - x_k) ** 2 + _TINY_SQUARED + (y - y_k) ** 2)
    masses = theta_e**2
    moments = _functions(masses).stack([masses, masses * points[0], masses * points[1]])
    num_points, *grid = inverse.shape
    total, along_x, along_y = (moments @ inverse.reshape(num_points, -1)).reshape(3, *grid)
    return x * total - along_x, y * total - along_y


@lru_cache
def sersic_b(index: float) -> float:
    """Return b_n, for which half the light lies within R_e: P(2n, b_n) = 1/2.

    Ciotti & Bertin 1999 (A&A 352, 447), eq. 4.
    """
    return float(gammaincinv(2 * index, 0.5))


def sersic_flux(radius: Values, index: float) -> Values:
    """Return the total flux of a profile of brightness 1 at R_e (Ciotti 1991, A&A 249, 99)."""
    b = sersic_b(index)
    return 2 * math.pi * index * math.gamma(2 * index) * math.exp(b) / b ** (2 * index) * radius**2


def sersic(
    x: Values,
    y: Values,
    radius: Values,
    index: float,
    axis_ratio: Values = 1.0,
    angle: Values = 0.0,
    softening: Values = 0.0,
) -> Values:
    """Return a Sersic brightness, flux per square arcsec, for a total flux of 1 (at s = 0).

    I = I_e exp(-b_n ((R/R_e)^(1/n) - 1)), R^2 = q x^2 + y^2/q + s^2, so that R_e is the geometric
    mean of the half-light ellipse's axes.
    """
    b = sersic_b(index)
    x, y = rotate(x / radius, y / radius, angle)
    squared = axis_ratio * x**2 + y**2 / axis_ratio
    # A power of 0 has no gradient at the centre.
    squared = squared + (softening**2 + _TINY_SQUARED) / radius**2
    profile = _functions(squared).exp(b - b * squared ** (0.5 / index))
    return profile / sersic_flux(radius, index)


def _radius(x: Values, y: Values, softening: Values = 0.0) -> Values:
    return (x**2 + y**2 + (softening**2 + _TINY_SQUARED)) ** 0.5


def _functions(values: Values) -> Any:
    """Return the module whose cos, exp … take `values`."""
    return math if isinstance(values, float | int) else array_namespace(values)
