"""The lens-finding simulator: lenses obey the lens equation, and neither class is easy to tell."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lenshpc.prep.dataset import load_dataset
from lenshpc.prep.simulation.camera import trace
from lenshpc.prep.simulation.draws import Stream
from lenshpc.prep.simulation.pixels import normal
from lenshpc.prep.simulation.scene import LensSystem, Scene, Strip, draw_lens, draw_nonlens
from lenshpc.prep.simulation.simulate import simulator

RENDERER = simulator(load_dataset("lens_finding"))
SURVEY = RENDERER.survey


def test_ring_of_a_centred_source_has_the_einstein_radius():
    source = draw_lens(SURVEY, np.random.default_rng(0)).lens.source
    lens = LensSystem(
        x=0, y=0, theta_e=1.5, axis_ratio=1, angle=0, gamma1=0, gamma2=0, source=source
    )
    angle = np.linspace(0, 6, 50)
    beta = trace(lens, 1.5 * np.cos(angle), 1.5 * np.sin(angle))
    np.testing.assert_allclose(beta, 0, atol=1e-8)


def test_blurring_keeps_flux_and_a_single_pixel_gets_the_declared_width():
    image = np.zeros((3, 64, 64))
    image[:, 32, 32] = 1
    blurred = RENDERER.blur(image)
    np.testing.assert_allclose(blurred.sum((1, 2)), 1, rtol=1e-3)
    offsets = (np.arange(64) - 32) * 0.168
    width = np.sqrt((blurred.sum(1) * offsets**2).sum(1)) * 2.3548
    np.testing.assert_allclose(width, SURVEY.psf_fwhm_arcsec, rtol=1e-2)


def test_noise_has_the_declared_variance():
    flux = np.full((3, 64, 64), 5.0, dtype=np.float32)
    noise = RENDERER.expose(flux, np.random.default_rng(0)) - flux
    expected = np.array(SURVEY.sky_rms) ** 2 + 5 / np.array(SURVEY.electrons_per_flux)
    np.testing.assert_allclose(noise.var((1, 2)), expected, rtol=0.1)


def test_normal_deviates_are_normal():
    from scipy.stats import kstest

    deviates = normal((3, 101, 101), np.random.default_rng(0))
    assert (deviates.shape, deviates.dtype) == ((3, 101, 101), np.float32)
    assert kstest(deviates.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(deviates.ravel()[:15301], deviates.ravel()[15301:30602])[0, 1]) < 0.03


def test_orientations_are_uniform():
    angles = [
        draw_lens(SURVEY, np.random.default_rng(seed)).galaxies[0].angle for seed in range(2000)
    ]
    counts, _ = np.histogram(angles, bins=8, range=(0, np.pi))
    assert counts.sum() == 2000
    assert np.abs(counts - 250).max() < 4 * np.sqrt(250)


def test_every_kind_of_nonlens_appears_with_its_share():
    kinds = [draw_nonlens(SURVEY, np.random.default_rng(seed)).kind for seed in range(2000)]
    found = {kind: kinds.count(kind) / 2000 for kind in SURVEY.nonlens_kinds}
    assert sum(found.values()) == 1
    for kind, share in SURVEY.nonlens_kinds.items():
        assert abs(found[kind] - share) < 4 * np.sqrt(share * (1 - share) / 2000)


def test_bleeding_column_is_in_one_band_and_as_bright_as_declared():
    strip = Strip(x=0, y=0, angle=np.pi / 2, width=1.0, mags_per_square_arcsec=(np.inf, 22, np.inf))
    scene = Scene(kind="artefact", galaxies=draw_nonlens(SURVEY, np.random.default_rng(0)).galaxies)
    bare = RENDERER.photograph(scene, np.random.default_rng(1))
    struck = RENDERER.photograph(
        Scene(kind="artefact", galaxies=scene.galaxies, strips=(strip,)), np.random.default_rng(1)
    )
    excess = struck - bare
    assert np.abs(excess[[0, 2]]).max() == 0
    profile = excess[1].mean(axis=0)
    brightness = 10 ** (0.4 * (27.0 - 22)) * 0.168**2
    # A Gaussian of FWHM 1 arcsec, in pixels of 0.168 arcsec
    expected = brightness * np.sqrt(np.pi / (4 * np.log(2))) / 0.168
    assert abs(profile.sum() / expected - 1) < 0.01
    assert profile.argmax() in {31, 32}


def sample(split, name, number):
    return np.stack([RENDERER.make(Stream(0, split, name), i).image for i in range(number)])


def radial_features(images):
    y, x = np.mgrid[:64, :64] - 31.5
    radius = np.hypot(x, y).astype(int).ravel()
    counts = np.bincount(radius)[:20]
    flat = np.sqrt(images).reshape(-1, 64 * 64)
    means = np.stack([np.bincount(radius, image)[:20] / counts for image in flat])
    return means.reshape(len(images), -1)


def test_lenses_are_learnable_and_the_median_tells_as_little_as_in_real_images():
    train = np.concatenate([sample("train", "lens", 250), sample("train", "nonlens", 250)])
    test = np.concatenate([sample("test", "lens", 200), sample("test", "nonlens", 200)])
    labels = np.repeat([1, 0], 200)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(radial_features(train), np.repeat([1, 0], 250))
    assert roc_auc_score(labels, model.decision_function(radial_features(test))) > 0.8

    medians = np.median(test, axis=(1, 2, 3))
    # Real files: 0.066 +- 0.042 and 0.175 +- 0.10 (100 each); AUC of -median 0.67 +- 0.09 (20 each)
    assert abs(medians[:200].mean() - 0.066) < 0.042
    assert abs(medians[200:].mean() - 0.175) < 0.10
    assert abs(roc_auc_score(labels, -medians) - 0.67) < 0.09
