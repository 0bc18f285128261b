"""Errors, rings and spectra of images against closed forms."""

import numpy as np
import pytest

from lenshpc.statistics import image_metrics
from lenshpc.statistics.image_metrics import Frequencies
from lenshpc.statistics.radial import radial_profile


def test_psnr_of_known_errors():
    found = image_metrics.psnr(np.array([1.0, 1e-2, 1e-4]))
    np.testing.assert_allclose(found, [0, 20, 40], atol=1e-12)


@pytest.mark.parametrize("radius", [9.3, 14.0, 20.7])
def test_ring_radius_is_known_to_a_part_of_a_pixel(radius):
    y, x = np.mgrid[:75, :75] - 37.0
    ring = np.exp(-((np.hypot(x, y) - radius) ** 2) / (2 * 3**2)) + 0.1
    (found,) = image_metrics.ring_radius(radial_profile(ring[None]))
    # r p(r) of a ring of width s peaks at (r + sqrt(r² + 4 s²)) / 2.
    assert found == pytest.approx((radius + np.hypot(radius, 6)) / 2, abs=0.25)


def test_white_noise_has_its_variance_at_all_frequencies():
    noise = np.random.default_rng(0).normal(0, 0.3, (200, 1, 32, 48))
    rings = Frequencies((32, 48))
    spectra = image_metrics.fourier_transform(noise)
    power = image_metrics.power(spectra, spectra)
    np.testing.assert_allclose(rings.mean(power.own) / power.num, 0.09, rtol=0.12)
    assert rings.noise(power.own) / power.num == pytest.approx(0.09, rel=0.03)
    np.testing.assert_allclose(power.cross, power.own)


def test_wave_has_its_power_at_its_frequency():
    x = np.arange(64)
    wave = np.broadcast_to(np.cos(2 * np.pi * x * 8 / 64), (1, 1, 64, 64))
    rings = Frequencies((64, 64))
    spectra = image_metrics.fourier_transform(wave)
    spectrum = rings.mean(image_metrics.power(spectra, spectra).own)
    assert rings.frequency[spectrum.argmax()] == pytest.approx(8 / 64, abs=1 / 64)


def test_knee_lies_where_noise_equals_signal():
    rings = Frequencies((64, 64))
    spectrum = 1 + 100 * np.exp(-rings.frequency * 20)
    assert rings.knee(spectrum, 1.0) == pytest.approx(np.log(100) / 20, abs=1 / 64)


def test_interpolations_keep_a_constant_image():
    flat = np.full((2, 1, 8, 8), 0.25, np.float32)
    for enlarge in image_metrics.interpolations().values():
        np.testing.assert_allclose(enlarge(flat, (16, 16)), 0.25, rtol=1e-6)
