"""Lens models against closed forms, and deflections against derivatives of potentials."""

import math

import numpy as np
import pytest
import torch

from lenshpc import physics

STEP = 1e-5
X, Y = np.random.default_rng(0).uniform(-2, 2, size=(2, 200))


def gradient(function, x=X, y=Y):
    """Return the central differences of a scalar or of a pair of functions at (x, y)."""
    along_x = (np.array(function(x + STEP, y)) - np.array(function(x - STEP, y))) / (2 * STEP)
    along_y = (np.array(function(x, y + STEP)) - np.array(function(x, y - STEP))) / (2 * STEP)
    return along_x, along_y


def convergence_sie(x, y, theta_e, axis_ratio, angle, softening=0.0):
    """Return kappa of the softened isothermal ellipsoid: Keeton 2001 (astro-ph/0102341)."""
    x, y = physics.rotate(x, y, angle)
    psi = np.sqrt(axis_ratio**2 * (x**2 + softening**2) + y**2)
    return theta_e * math.sqrt(axis_ratio) / (2 * psi)


def deflect_point(x, y, theta_e):
    """Return alpha of one point mass at the origin, at positions (N,): a grid's diagonal."""
    grid = physics.deflect_points(x[None], y[:, None], np.zeros((2, 1)), np.array([theta_e]))
    return np.diagonal(grid, axis1=1, axis2=2)


MODELS = {  # deflection, potential, convergence
    "sis": (
        lambda x, y: physics.deflect_sis(x, y, 1.3),
        lambda x, y: 1.3 * np.hypot(x, y),
        lambda x, y: 1.3 / (2 * np.hypot(x, y)),
    ),
    "sie": (
        lambda x, y: physics.deflect_sie(x, y, 1.3, 0.6, 0.7),
        lambda x, y: np.sum((x, y) * np.array(physics.deflect_sie(x, y, 1.3, 0.6, 0.7)), axis=0),
        lambda x, y: convergence_sie(x, y, 1.3, 0.6, 0.7),
    ),
    "shear": (
        lambda x, y: physics.deflect_shear(x, y, 0.05, -0.03),
        lambda x, y: 0.05 * (x**2 - y**2) / 2 - 0.03 * x * y,
        lambda x, y: np.zeros_like(x),
    ),
    "point": (
        lambda x, y: deflect_point(x, y, 0.4),
        lambda x, y: 0.4**2 * np.log(np.hypot(x, y)),
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
    expected = convergence_sie(X, Y, 1.3, 0.6, 0.7, 0.2)
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
    cos, sin = math.cos(0.7), math.sin(0.7)
    places = np.array([cos, -sin]), np.array([sin, cos])
    (xx, _), (_, yy) = gradient(lambda x, y: physics.deflect_sie(x, y, 1.0, 0.6, 0.7), *places)
    along, across = xx + yy
    assert along / across == pytest.approx(1 / 0.6, rel=1e-5)


@pytest.mark.parametrize(
    "deflect",
    [
        lambda: physics.deflect_sis(0.0, 0.0, 1.0),
        lambda: physics.deflect_sie(0.0, 0.0, 1.0, 0.6, 0.3),
        lambda: deflect_point(np.zeros(1), np.zeros(1), 1.0)[:, 0],
    ],
)
def test_deflection_at_the_centre_is_zero(deflect):
    assert [float(value) for value in deflect()] == [0.0, 0.0]


def test_shares_of_a_mass_deflect_as_the_whole():
    def along_x(masses):
        x, y = np.array([[100.0]]), np.array([[0.0]])
        return physics.deflect_points(x, y, np.zeros((2, len(masses))), np.array(masses))[0].item()

    shares = [physics.share(0.5, 0.9), *[physics.share(0.5, 0.1 / 25)] * 25]
    assert along_x(shares) == pytest.approx(along_x([0.5]), rel=1e-12)


def test_many_points_on_the_axes_of_a_grid_are_the_sum_of_single_ones():
    axis, (x_k, y_k) = np.linspace(-2, 2, 41), np.random.default_rng(1).normal(size=(2, 7))
    theta_e = np.linspace(0.01, 0.1, 7)
    left = np.stack(np.meshgrid(axis, axis))[..., None] - np.stack([x_k, y_k])[:, None, None]
    singles = theta_e**2 * left / np.sum(left**2, axis=0)
    many = physics.deflect_points(axis[None], axis[:, None], np.stack([x_k, y_k]), theta_e)
    np.testing.assert_allclose(many, np.sum(singles, axis=-1), atol=1e-12)


CENTRE = 0.3, -0.2
CAUSTICS = {
    "sis": ((1.3,), lambda x, y: physics.deflect_sis(x, y, 1.3)),
    "sie": ((0.6, 0.7, 1.3), lambda x, y: physics.deflect_sie(x, y, 1.3, 0.6, 0.7)),
    "sie, soft": (
        (0.6, 0.7, 1.3),
        lambda x, y: physics.deflect_sie(x, y, 1.3, 0.6, 0.7, 0.2),
    ),
    "sie, round": ((1.0, 0.7, 1.3), lambda x, y: physics.deflect_sie(x, y, 1.3, 1.0, 0.7)),
    "point": ((0.4,), lambda x, y: deflect_point(x, y, 0.4)),
    "external_shear": ((0.05, -0.03), lambda x, y: physics.deflect_shear(x, y, 0.05, -0.03)),
}


@pytest.mark.parametrize("name", CAUSTICS)
def test_deflection_agrees_with_caustics(name):
    functions = pytest.importorskip(
        "caustics.lenses.func", reason="caustics is not installed; see the extra dev"
    )
    theirs = getattr(functions, f"reduced_deflection_angle_{name.split(',')[0]}")
    parameters, ours = CAUSTICS[name]
    numbers = [torch.tensor(value, dtype=torch.float64) for value in (*CENTRE, *parameters)]
    options = {"s": 0.2} if name.endswith("soft") else {}
    expected = theirs(*numbers, torch.tensor(X), torch.tensor(Y), **options)
    found = ours(X - CENTRE[0], Y - CENTRE[1])
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)


EVERY = {
    "sis": lambda x, y, t: physics.deflect_sis(x, y, t, 0.1)[0],
    "sis, singular": lambda x, y, t: physics.deflect_sis(x, y, t)[1],
    "sie": lambda x, y, t: physics.deflect_sie(x, y, 1.3, t, 2 * t)[0],
    "shear": lambda x, y, t: physics.deflect_shear(x, y, *physics.shear_components(0.1, t))[1],
    "point": lambda x, y, t: physics.deflect_points(
        x[None], y[:, None], 0 * x[:2].reshape(2, 1), t.reshape(1)
    )[0],
    "points": lambda x, y, t: physics.deflect_points(
        x[None], y[:, None], x[:6].reshape(2, 3), y[:3] * t
    )[0],
    "sersic": lambda x, y, t: physics.sersic(x, y, t, 2.5, t, t),
    "share": lambda x, y, t: physics.share(t, 0.5) * x,
}


@pytest.mark.parametrize("name", EVERY)
def test_tensors_give_the_values_of_arrays_and_finite_gradients_also_at_the_centre(name):
    x, y = np.append(X, 0.0), np.append(Y, 0.0)
    expected = EVERY[name](x, y, np.array(0.6))
    found = EVERY[name](torch.tensor(x), torch.tensor(y), torch.tensor(0.6, dtype=torch.float64))
    # Beside a point mass a rounding of the last digit grows by the inverse of the distance.
    room = 1e-7 if name == "points" else 1e-12
    np.testing.assert_allclose(found.numpy(), expected, rtol=room, atol=room)

    inputs = [torch.tensor(v, dtype=torch.float32, requires_grad=True) for v in (x, y, 0.6)]
    value = EVERY[name](*inputs)
    assert value.dtype == torch.float32
    gradients = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
    assert any(gradient is not None for gradient in gradients)


def test_gradient_of_the_einstein_radius_is_the_finite_difference():
    x, y = torch.tensor(X), torch.tensor(Y)
    theta_e = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    beta = x - physics.deflect_sis(x, y, theta_e)[0]
    (slope,) = torch.autograd.grad(physics.sersic(beta, y, 0.5, 1.5).sum(), theta_e)

    def total(value):
        return physics.sersic(X - physics.deflect_sis(X, Y, value)[0], Y, 0.5, 1.5).sum()

    expected = (total(1.3 + STEP) - total(1.3 - STEP)) / (2 * STEP)
    assert slope.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("index", [0.6, 1.0, 2.5, 4.0, 10.0])
def test_sersic_b_encloses_half_the_light(index):
    from scipy.special import gammainc  # the definition: P(2n, b) = 1/2

    assert gammainc(2 * index, physics.sersic_b(index)) == pytest.approx(0.5, abs=1e-12)


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
