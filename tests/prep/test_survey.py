"""The lens-finding simulator: lenses obey the lens equation, and neither class is easy to tell."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from lenshpc.errors import ConfigError
from lenshpc.prep.dataset import load_dataset
from lenshpc.prep.simulation.camera import trace
from lenshpc.prep.simulation.difficulty import ease, with_difficulty
from lenshpc.prep.simulation.draws import Stream
from lenshpc.prep.simulation.pixels import normal
from lenshpc.prep.simulation.population import draw_lens, draw_nonlens, draw_weather
from lenshpc.prep.simulation.ranges import LogNormal
from lenshpc.prep.simulation.scene import Galaxy, LensSystem, Scene, Strip, Weather
from lenshpc.prep.simulation.simulate import simulator
from lenshpc.prep.simulation.survey import KINDS, LOOKALIKES
from lenshpc.statistics.radial import radial_numbers

DATASET = load_dataset("lens_finding")
RENDERER = simulator(DATASET)
SURVEY = RENDERER.survey
WEATHER = Weather(psf_fwhm_arcsec=SURVEY.psf_fwhm_arcsec, sky_rms=SURVEY.sky_rms)


def test_ring_of_a_centred_source_has_the_einstein_radius():
    lens = LensSystem(x=0, y=0, theta_e=1.5, axis_ratio=1, angle=0, gamma1=0, gamma2=0)
    angle = np.linspace(0, 6, 50)
    beta = trace(lens, 1.5 * np.cos(angle), 1.5 * np.sin(angle))
    np.testing.assert_allclose(beta, 0, atol=1e-8)


def test_blurring_keeps_flux_and_a_single_pixel_gets_the_declared_width():
    image = np.zeros((3, 64, 64))
    image[:, 32, 32] = 1
    blurred = RENDERER.blur(image, WEATHER)
    np.testing.assert_allclose(blurred.sum((1, 2)), 1, rtol=1e-3)
    offsets = (np.arange(64) - 32) * 0.168
    width = np.sqrt((blurred.sum(1) * offsets**2).sum(1)) * 2.3548
    np.testing.assert_allclose(width, SURVEY.psf_fwhm_arcsec, rtol=1e-2)


def test_noise_has_the_declared_variance():
    flux = np.full((3, 64, 64), 5.0, dtype=np.float32)
    noise = RENDERER.expose(flux, WEATHER, np.random.default_rng(0)) - flux
    expected = np.array(SURVEY.sky_rms) ** 2 + 5 / np.array(SURVEY.electrons_per_flux)
    np.testing.assert_allclose(noise.var((1, 2)), expected, rtol=0.1)


def test_median_weather_has_the_depths_of_the_survey():
    depths = WEATHER.depths_mag(27.0, 0.168)
    np.testing.assert_allclose(depths, [26.5, 26.1, 25.9], atol=0.02)


def test_seeing_and_depth_vary_as_declared_and_bands_apart():
    drawn = [draw_weather(SURVEY, np.random.default_rng(seed)) for seed in range(1000)]
    for name, scatter in (
        ("psf_fwhm_arcsec", SURVEY.psf_scatter_dex),
        ("sky_rms", 0.4 * SURVEY.depth_scatter_mag),
    ):
        logs = np.log10([getattr(one, name) for one in drawn])
        np.testing.assert_allclose(
            np.median(logs, axis=0), np.log10(getattr(SURVEY, name)), atol=0.1 * scatter
        )
        np.testing.assert_allclose(logs.std(axis=0), scatter, rtol=0.1)
        assert abs(np.corrcoef(logs.T)[np.triu_indices(3, 1)]).max() < 0.1


def test_log_normal_keeps_its_median_and_its_limits():
    law = LogNormal(median=1.0, scatter_dex=0.2, low=0.5, high=2.0)
    random = np.random.default_rng(0)
    values = np.array([law.draw(random) for _ in range(2000)])
    assert values.min() >= 0.5
    assert values.max() <= 2.0
    assert np.median(values) == pytest.approx(1.0, rel=0.05)
    with pytest.raises(ValueError, match="expected low <= median <= high"):
        LogNormal(median=1.0, scatter_dex=0.2, low=1.5, high=2.0)


@pytest.mark.parametrize("draw", [draw_lens, draw_nonlens])
def test_feature_has_the_signal_to_noise_that_was_drawn(draw):
    scenes = (draw(SURVEY, np.random.default_rng(seed)) for seed in range(60))
    scenes = [scene for scene in scenes if scene.feature and not scene.strips]
    assert scenes
    for scene in scenes:
        bare, _ = RENDERER.collect(replace(scene, feature=None), WEATHER)
        whole, _ = RENDERER.collect(scene, WEATHER)
        variance = (
            np.array(SURVEY.sky_rms)[:, None, None] ** 2
            + bare / np.array(SURVEY.electrons_per_flux)[:, None, None]
        )
        snr = np.sqrt(((whole - bare) ** 2 / variance).sum((1, 2))).max()
        assert snr == pytest.approx(scene.feature.snr, rel=1e-2)


def test_twice_the_signal_to_noise_is_reached_by_half_of_the_arcs():
    snr = np.array([draw_lens(SURVEY, np.random.default_rng(n)).feature.snr for n in range(2000)])
    low, high = SURVEY.arc_snr
    expected = (1 / (2 * low) - 1 / high) / (1 / low - 1 / high)
    assert (snr > 2 * low).mean() == pytest.approx(expected, abs=0.04)


def test_source_is_as_bright_as_truth_says():
    scene = draw_lens(SURVEY, np.random.default_rng(3))
    source = replace(scene.feature.galaxies[0], radius=0.5)  # well sampled without a lens
    scene = replace(scene, lens=None, feature=replace(scene.feature, galaxies=(source,)))
    bare, _ = RENDERER.collect(replace(scene, feature=None), WEATHER)
    whole, magnitude = RENDERER.collect(scene, WEATHER)
    flux = float((whole - bare)[2].sum(dtype=np.float64))
    assert 27.0 - 2.5 * np.log10(flux) == pytest.approx(magnitude, abs=0.02)


def test_ring_peaks_at_its_radius_and_has_its_width():
    ring = Galaxy(
        x=0, y=0, mags=(20,) * 3, radius=2.0, index=1, axis_ratio=1, angle=0, ring_width=0.5
    )
    axis = ((np.arange(640) - 319.5) * 0.0168).astype(np.float32)
    profile = RENDERER._profile(ring, axis[None], axis[:, None])[320]
    right = profile[320:]
    assert axis[320:][right.argmax()] == pytest.approx(2.0, abs=0.0168)
    assert (right > 0.5).sum() * 0.0168 == pytest.approx(0.5, abs=0.04)


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
    assert sum(found.values()) == pytest.approx(1)
    for kind, share in SURVEY.nonlens_kinds.items():
        assert abs(found[kind] - share) < 4 * np.sqrt(share * (1 - share) / 2000)


def test_bleeding_column_is_in_one_band_and_as_bright_as_declared():
    strip = Strip(x=0, y=0, angle=np.pi / 2, width=1.0, mags_per_square_arcsec=(np.inf, 22, np.inf))
    scene = Scene(kind="artefact", galaxies=draw_nonlens(SURVEY, np.random.default_rng(0)).galaxies)
    bare, _ = RENDERER.collect(scene, WEATHER)
    struck, _ = RENDERER.collect(replace(scene, strips=(strip,)), WEATHER)
    excess = struck - bare
    assert np.abs(excess[[0, 2]]).max() == 0
    profile = excess[1].mean(axis=0)
    brightness = 10 ** (0.4 * (27.0 - 22)) * 0.168**2
    # A Gaussian of FWHM 1 arcsec, in pixels of 0.168 arcsec
    expected = brightness * np.sqrt(np.pi / (4 * np.log(2))) / 0.168
    assert abs(profile.sum() / expected - 1) < 0.01
    assert profile.argmax() in {31, 32}


def test_spikes_of_a_star_fade_and_hold_their_part_of_its_light():
    scenes = (draw_nonlens(SURVEY, np.random.default_rng(seed)) for seed in range(400))
    scene = next(scene for scene in scenes if scene.kind == "star")
    wide = replace(RENDERER, num_pixels=256)
    spikes = [replace(one, x=0.0, y=0.0) for one in scene.strips]
    lit, _ = wide.collect(replace(scene, strips=tuple(spikes)), WEATHER)
    dark, _ = wide.collect(replace(scene, strips=()), WEATHER)
    star = scene.galaxies[1]
    flux = 10 ** (0.4 * (27.0 - star.mags[2]))
    assert (lit - dark)[2].sum() / flux == pytest.approx(SURVEY.star.spike_fraction, rel=0.02)


def test_difficulty_eases_arcs_look_alikes_and_weather():
    easy = ease(with_difficulty(DATASET, "easy").simulate)
    half = ease(with_difficulty(DATASET, 0.5).simulate)
    hard = ease(with_difficulty(DATASET, "1.0").simulate)
    assert hard.arc_snr == DATASET.simulate.arc_snr
    assert hard.nonlens_kinds == pytest.approx(DATASET.simulate.nonlens_kinds)
    np.testing.assert_allclose(easy.arc_snr, np.multiply(SURVEY.arc_snr, 10))
    np.testing.assert_allclose(half.arc_snr, np.multiply(SURVEY.arc_snr, np.sqrt(10)))
    assert (easy.psf_scatter_dex, easy.depth_scatter_mag) == (0, 0)
    assert sum(half.nonlens_kinds.values()) == pytest.approx(1)
    for kind in LOOKALIKES:
        assert easy.nonlens_kinds[kind] == 0
        ratio = half.nonlens_kinds[kind] / half.nonlens_kinds["faint"]
        expected = SURVEY.nonlens_kinds[kind] / SURVEY.nonlens_kinds["faint"] / 2
        assert ratio == pytest.approx(expected)
    kinds = {draw_nonlens(easy, np.random.default_rng(seed)).kind for seed in range(500)}
    assert kinds == set(SURVEY.nonlens_kinds) - set(LOOKALIKES)


@pytest.mark.parametrize(
    ("name", "given", "complaint"),
    [
        ("lens_finding", "hard", "difficulty 'hard': expected easy, sky or 0 to 1"),
        ("lens_finding", "2", "difficulty '2': expected easy, sky or 0 to 1"),
        ("lens_finding", "nan", "difficulty 'nan': expected easy, sky or 0 to 1"),
        ("multiclass", "easy", "multiclass is not simulated by model survey"),
    ],
)
def test_difficulty_that_makes_no_sense_is_refused(name, given, complaint):
    with pytest.raises(ConfigError, match=complaint):
        with_difficulty(load_dataset(name), given)


def test_truth_says_what_each_image_is():
    rows = [RENDERER.make(Stream(0, "train", "nonlens"), n).truth for n in range(80)]
    for row in rows:
        assert KINDS[row["kind_number"]] == row["kind"] != "lens"
        assert (row["feature_snr"] is not None) == (row["kind"] in LOOKALIKES)
        assert row["theta_e_arcsec"] is None
        assert 0.3 < row["psf_fwhm_i_arcsec"] < 1.1
        assert 25 < row["depth_g_mag"] < 28
    lens = RENDERER.make(Stream(0, "train", "lens"), 0).truth
    assert (lens["kind"], lens["kind_number"]) == ("lens", 0)
    assert lens["feature_snr"] >= SURVEY.arc_snr[0]


def sample(renderer, split, name, number):
    return np.stack([renderer.make(Stream(0, split, name), i).image for i in range(number)])


def boosting_auc(train, test):
    """Return the AUC of the report's baseline, on lenses and as many non-lenses after them."""
    model = HistGradientBoostingClassifier(random_state=0)
    model.fit(radial_numbers(train), np.repeat([1, 0], len(train) // 2))
    scores = model.predict_proba(radial_numbers(test))[:, 1]
    return roc_auc_score(np.repeat([1, 0], len(test) // 2), scores)


def both(renderer, split, number):
    return np.concatenate([sample(renderer, split, name, number) for name in ("lens", "nonlens")])


def test_sky_is_hard_and_its_medians_tell_as_little_as_in_real_images():
    test = both(RENDERER, "test", 300)
    assert 0.65 < boosting_auc(both(RENDERER, "train", 300), test) < 0.9
    medians = np.median(test, axis=(1, 2, 3))
    # Real files: 0.066 +- 0.042 and 0.175 +- 0.10 (100 each); AUC of -median 0.67 +- 0.09 (20 each)
    assert abs(medians[:300].mean() - 0.066) < 0.042
    assert abs(medians[300:].mean() - 0.175) < 0.10
    assert abs(roc_auc_score(np.repeat([1, 0], 300), -medians) - 0.67) < 0.09


def test_easy_lenses_are_learnt_from_few_images():
    easy = simulator(with_difficulty(DATASET, "easy"))
    assert boosting_auc(both(easy, "train", 250), both(easy, "test", 200)) > 0.85
