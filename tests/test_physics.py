"""Lens models against closed forms, and deflections against derivatives of their potentials."""

import math

import numpy as np
import pytest

from lenshpc import physics

STEP = 1e-5
X, Y = np.random.default_rng(0).uniform(-2, 2, size=(2, 200))


def gradient(function):
    """Return the central differences of a scalar or of a pair of functions at (X, Y)."""
    along_x = (np.array(function(X + STEP, Y)) - np.array(function(X - STEP, Y))) / (2 * STEP)
    along_y = (np.array(function(X, Y + STEP)) - np.array(function(X, Y - STEP))) / (2 * STEP)
    return along_x, along_y


MODELS = {
    "sis": (
        lambda x, y: physics.deflect_sis(x, y, 1.3),
        lambda x, y: physics.potential_sis(x, y, 1.3),
        lambda x, y: physics.convergence_sis(x, y, 1.3),
    ),
    "sie": (
        lambda x, y: physics.deflect_sie(x, y, 1.3, 0.6, 0.7),
        lambda x, y: physics.potential_sie(x, y, 1.3, 0.6, 0.7),
        lambda x, y: physics.convergence_sie(x, y, 1.3, 0.6, 0.7),
    ),
    "shear": (
        lambda x, y: physics.deflect_shear(x, y, 0.05, -0.03),
        lambda x, y: physics.potential_shear(x, y, 0.05, -0.03),
        lambda x, y: np.zeros_like(x),
    ),
    "point": (
        lambda x, y: physics.deflect_point(x, y, 0.4),
        lambda x, y: physics.potential_point(x, y, 0.4),
        lambda x, y: np.zeros_like(x),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_deflection_is_the_gradient_of_the_potential(name):
    deflect, potential, _ = MODELS[name]
    np.testing.assert_allclose(deflect(X, Y), gradient(potential), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_half_the_divergence_is_the_convergence_and_the_curl_is_zero(name):
    deflect, _, convergence = MODELS[name]
    (xx, yx), (xy, yy) = gradient(deflect)
    np.testing.assert_allclose((xx + yy) / 2, convergence(X, Y), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(yx, xy, rtol=1e-5, atol=1e-5)


def test_softened_sie_has_the_softened_convergence():
    (xx, _), (_, yy) = gradient(lambda x, y: physics.deflect_sie(x, y, 1.3, 0.6, 0.7, 0.2))
    expected = physics.convergence_sie(X, Y, 1.3, 0.6, 0.7, 0.2)
    np.testing.assert_allclose((xx + yy) / 2, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softening", [0, 0.1])
def test_round_sie_is_the_sis(softening):
    sie = physics.deflect_sie(X, Y, 1.3, 1.0, 0.7, softening)
    np.testing.assert_allclose(sie, physics.deflect_sis(X, Y, 1.3, softening), atol=1e-8)


def test_sie_on_its_axes_has_the_closed_form():
    q, f = 0.6, 0.8
    x, _ = physics.deflect_sie(2.0, 0.0, 1.0, q, 0.0)
    _, y = physics.deflect_sie(0.0, 2.0, 1.0, q, 0.0)
    assert x == pytest.approx(math.sqrt(q) / f * math.atan(f / q))
    assert y == pytest.approx(math.sqrt(q) / f * math.atanh(f))


def test_sie_mass_lies_along_its_angle():
    along = physics.convergence_sie(math.cos(0.7), math.sin(0.7), 1.0, 0.6, 0.7)
    across = physics.convergence_sie(-math.sin(0.7), math.cos(0.7), 1.0, 0.6, 0.7)
    assert along / across == pytest.approx(1 / 0.6)


@pytest.mark.parametrize(
    "deflect",
    [
        lambda: physics.deflect_sis(0.0, 0.0, 1.0),
        lambda: physics.deflect_sie(0.0, 0.0, 1.0, 0.6, 0.3),
        lambda: physics.deflect_point(0.0, 0.0, 1.0),
    ],
)
def test_deflection_at_the_centre_is_zero(deflect):
    assert [float(value) for value in deflect()] == [0.0, 0.0]


def test_points_with_split_mass_deflect_as_one_far_away():
    one, _ = physics.deflect_point(100.0, 0.0, 0.5)
    parts = [physics.deflect_point(100.0, y, 0.5 * math.sqrt(1 / 4))[0] for y in (0, 0, 0, 0)]
    assert sum(parts) == pytest.approx(float(one))


@pytest.mark.parametrize("index", [1.0, 2.5, 4.0, 10.0])
def test_sersic_b_encloses_half_the_light(index):
    from scipy.special import gammainc  # the exact definition: P(2n, b) = 1/2

    assert gammainc(2 * index, physics.sersic_b(index)) == pytest.approx(0.5, abs=2e-5)


@pytest.mark.parametrize("index", [1.0, 4.0])
def test_sersic_total_flux_is_one(index):
    radius = np.geomspace(1e-9, 1e5, 200_001)
    brightness = physics.sersic(radius, 0.0, radius=0.7, index=index)
    total = np.trapezoid(2 * math.pi * radius**2 * brightness, np.log(radius))
    assert total == pytest.approx(1, abs=1e-6)


def test_sersic_ellipse_keeps_the_brightness_on_its_axes():
    round_ = physics.sersic(1.0, 0.0, radius=1, index=1)
    major = physics.sersic(math.cos(0.4) / 0.5, math.sin(0.4) / 0.5, 1, 1, 0.25, 0.4)
    minor = physics.sersic(-math.sin(0.4) * 0.5, math.cos(0.4) * 0.5, 1, 1, 0.25, 0.4)
    assert (float(major), float(minor)) == pytest.approx((float(round_), float(round_)))
