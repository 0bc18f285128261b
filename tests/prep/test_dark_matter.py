"""The dark-matter simulator: mass is conserved, and images look as the real ones do."""

import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import kstest, poisson

from lenshpc.physics import sersic
from lenshpc.prep.dataset import load_dataset
from lenshpc.prep.simulation.darkroom import HaloRenderer, trace
from lenshpc.prep.simulation.draws import Draws, Stream
from lenshpc.prep.simulation.halo import draw_halo, truth
from lenshpc.prep.simulation.pixels import expose
from lenshpc.prep.simulation.simulate import simulator
from lenshpc.prep.simulation.substructure import Subhalos

MULTICLASS = load_dataset("multiclass").simulate
FOUNDATION = load_dataset("foundation").simulate


def halos(settings, name, number):
    draws = [Draws(Stream(0, "train", name), i, settings.legacy) for i in range(number)]
    return [draw_halo(settings, draw) for draw in draws]


@pytest.mark.parametrize(
    ("settings", "name"),
    [(MULTICLASS, name) for name in ("no", "sphere", "vort")]
    + [(FOUNDATION, name) for name in ("no_sub", "cdm", "axion")],
)
def test_masses_of_halo_and_substructure_add_up_to_the_total(settings, name):
    for halo in halos(settings, name, 20):
        total = halo.theta_e**2 + np.sum(halo.points_theta_e**2)
        assert math.sqrt(total) == pytest.approx(settings.theta_e_arcsec[0], rel=1e-12)


def test_equal_subhalos_share_their_mass_equally():
    subhalos = Subhalos(
        kind="subhalos",
        number=25,
        poisson=False,
        distance_arcsec=(0, 1),
        mass_fraction=(0.01, 0.01),
    )
    (halo,) = halos(MULTICLASS.model_copy(update={"classes": {"no": subhalos}}), "no", 1)
    assert halo.theta_e == pytest.approx(1.2815 * math.sqrt(0.99))
    np.testing.assert_allclose(halo.points_theta_e, 1.2815 * math.sqrt(0.01 / 25))


def test_masses_follow_the_mass_function():
    found = np.concatenate([h.points.fractions for h in halos(FOUNDATION, "cdm", 200)])
    low, high, power = 1e-6, 1e-2, -0.9

    def cumulative(mass):
        return (low**power - mass**power) / (low**power - high**power)

    assert len(found) == 200 * 25
    assert kstest(found, cumulative).pvalue > 0.01


def test_number_of_subhalos_is_poisson():
    numbers = [h.points.fractions.size for h in halos(MULTICLASS, "sphere", 400)]
    assert abs(np.mean(numbers) - 25) < 4 * 5 / 20
    assert 15 < np.var(numbers) < 35
    below = [np.mean(np.array(numbers) <= k) for k in range(60)]
    assert np.abs(below - poisson.cdf(range(60), 25)).max() < 1.63 / math.sqrt(400)  # 1 %


def test_vortex_is_a_string_about_its_centre():
    for halo in halos(MULTICLASS, "vort", 20):
        steps = np.diff(halo.points.positions, axis=1)
        np.testing.assert_allclose(steps, steps[:, :1] * np.ones(24), atol=1e-12)
        assert 0.5 <= 24 * np.hypot(*steps[:, 0]) <= 2
    centres = np.array([h.points.positions.mean(axis=1) for h in halos(MULTICLASS, "vort", 400)])
    np.testing.assert_allclose(centres.std(axis=0), 0.5, rtol=0.15)


def test_vortex_of_an_axion_is_the_longer_the_lighter_the_axion():
    for halo in halos(FOUNDATION, "axion", 20):
        (x, *_), (y, *_) = halo.points.positions
        assert 1e-24 <= halo.points.axion_mass_ev <= 1e-22
        assert 2 * math.hypot(x, y) == pytest.approx(0.06 * 1e-22 / halo.points.axion_mass_ev)
        np.testing.assert_allclose(halo.points.positions.mean(axis=1), 0, atol=1e-12)


def test_ring_of_a_source_on_the_axis_has_the_einstein_radius():
    halo = halos(MULTICLASS.model_copy(update={"shear": (0, 0)}), "no", 1)[0]
    angle = np.linspace(0, 6, 50)
    beta = trace(halo, 1.2815 * np.cos(angle), 1.2815 * np.sin(angle))
    np.testing.assert_allclose(beta, 0, atol=1e-8)


def test_surface_in_float32_is_that_in_float64_with_the_declared_brightness():
    renderer = HaloRenderer(settings=MULTICLASS, num_pixels=150)
    (halo,) = halos(MULTICLASS, "sphere", 1)
    axis = (np.arange(150) - 74.5) * 0.05
    source = halo.source
    x, y = trace(halo, axis[None], axis[:, None])
    shape = (source.radius, source.index)
    profile = sersic(x - source.x, y - source.y, *shape, source.axis_ratio, source.angle)
    ratio = renderer.surface(halo) / profile
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=2e-3)
    # I = I_e at R_e on the major axis, R_e / sqrt(q) from the centre
    step = source.radius / math.sqrt(source.axis_ratio)
    edge = sersic(
        step * math.cos(source.angle),
        step * math.sin(source.angle),
        *shape,
        source.axis_ratio,
        source.angle,
    )
    assert np.median(ratio) * edge == pytest.approx(source.intensity, rel=1e-5)


@pytest.mark.parametrize("mean", [5, 10, 100, 1000])
def test_counts_have_the_moments_of_a_poisson_distribution(mean):
    intensity = np.full((1, 1000, 400), (mean - 5) / 2, dtype=np.float32)
    counts = expose(intensity, 2.0, 5.0, np.random.default_rng(mean))
    assert np.array_equal(counts, np.rint(counts))
    _, variance, skewness = poisson.stats(mean, moments="mvs")
    standard = (counts - mean) / math.sqrt(mean)
    assert standard.mean() == pytest.approx(0, abs=0.01)
    assert counts.var() == pytest.approx(variance, rel=0.03)
    assert (standard**3).mean() == pytest.approx(skewness, abs=0.05)


def test_orientations_are_uniform_unless_legacy():
    for legacy in (False, True):
        draws = [Draws(Stream(1, "train", "no"), i, legacy) for i in range(500)]
        angles = np.array([draw.orientation() for draw in draws])
        low, high = (0, math.radians(2 * math.pi)) if legacy else (0, math.pi)
        assert low <= angles.min() < angles.max() <= high
        assert len(set(angles)) == (5 if legacy else 500)


def test_legacy_draws_five_values_that_differ_between_streams():
    def values(seed, split):
        draws = [Draws(Stream(seed, split, "no"), i, legacy=True) for i in range(100)]
        return {(draw.uniform((0, 1)), draw.uniform((0, 1))) for draw in draws}

    train = values(0, "train")
    assert 5 < len(train) <= 25
    assert [len({pair[k] for pair in train}) for k in (0, 1)] == [5, 5]
    assert not train & values(0, "test")
    assert not train & values(1, "train")


def test_legacy_subhalos_are_too_light_by_their_number_and_the_string_begins_on_the_axis():
    legacy = MULTICLASS.model_copy(update={"legacy": True})
    (sphere,) = halos(legacy, "sphere", 1)
    (vortex,) = halos(legacy.model_copy(update={"classes": MULTICLASS.classes}), "vort", 1)
    fractions = vortex.points.fractions
    expected = math.sqrt(fractions.sum()) / fractions.size * 1.2815  # sqrt(f)/N theta_E
    np.testing.assert_allclose(vortex.points_theta_e, expected)
    assert sphere.theta_e**2 + np.sum(sphere.points_theta_e**2) < 1.2815**2 * 0.99
    centred = MULTICLASS.classes["vort"].model_copy(update={"centre_sigma_arcsec": 0.0})
    (vortex,) = halos(legacy.model_copy(update={"classes": {"vort": centred}}), "vort", 1)
    (x, *_), (y, *_) = vortex.points.positions
    length = 24 * np.hypot(*np.diff(vortex.points.positions[:, :2], axis=1))[0]
    assert (x, y) == (pytest.approx(-length / 2), 0)


def test_truth_says_what_was_drawn():
    (halo,) = halos(FOUNDATION, "axion", 1)
    row = truth(halo)
    assert row["num_subhalos"] == 100
    assert row["theta_e_arcsec"] == halo.theta_e
    assert row["subhalo_mass_fraction"] == pytest.approx(0.03)
    assert math.hypot(row["gamma1"], row["gamma2"]) == pytest.approx(0.05)


def test_subhalos_without_masses_are_refused():
    with pytest.raises(ValidationError, match="need a mass_function, a mass_fraction, or both"):
        Subhalos(kind="subhalos", number=25, poisson=True, distance_arcsec=(0, 1))


Y, X = np.mgrid[:150, :150] - 74.5
RADIUS = (np.hypot(X, Y) // 5).astype(int).ravel()


def radial_means(images):
    means = [np.bincount(RADIUS, image.ravel())[:15] for image in images]
    return np.array(means) / np.bincount(RADIUS)[:15]


def corners(images):
    return np.mean(
        [images[:, a, b] for a in (SMALL, LARGE) for b in (SMALL, LARGE)], axis=(0, 2, 3)
    )


SMALL, LARGE = slice(0, 10), slice(-10, None)
# Statistics of real files, no substructure: means, and deviations between images, of 5-pixel rings
REAL = {
    "multiclass": (
        [
            0.032,
            0.049,
            0.094,
            0.193,
            0.296,
            0.269,
            0.201,
            0.135,
            0.085,
            0.054,
            0.036,
            0.026,
            0.020,
            0.017,
            0.015,
        ],
        [
            0.007,
            0.012,
            0.029,
            0.064,
            0.174,
            0.119,
            0.031,
            0.040,
            0.028,
            0.019,
            0.014,
            0.008,
            0.005,
            0.003,
            0.002,
        ],
    ),
    "slc": (
        [128, 43, 29, 29, 25, 17, 11, 7, 4, 2.6, 1.8, 1.4, 1.2, 1.2, 1.1],
        [1.7, 4.1, 11.2, 24.1, 21.0, 9.6, 4.1, 2.4, 1.6, 1.1, 0.70, 0.46, 0.37, 0.35, 0.35],
    ),
}


@pytest.mark.parametrize(("name", "levels"), [("multiclass", 1), ("slc", 255)])
def test_images_have_the_radial_profile_of_real_ones_within_their_spread(name, levels):
    renderer = simulator(load_dataset(name))
    stream = Stream(0, "train", "no" if name == "multiclass" else "no_sub")
    images = np.stack([renderer.make(stream, i).image[0] for i in range(200)]) * levels
    means, stds = np.array(REAL[name])
    assert np.all(np.abs(radial_means(images).mean(axis=0) - means) < stds)
    corner, spread = {"multiclass": (0.0118, 0.0040), "slc": (1.12, 0.35)}[name]
    assert abs(corners(images).mean() - corner) < spread
