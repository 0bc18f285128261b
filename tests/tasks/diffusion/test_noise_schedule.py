"""Levels of noise and steps of sampling, beside those of diffusers and closed forms."""

import itertools
import math

import pytest
import torch

from lenshpc.tasks.diffusion.noise_schedule import NoiseSchedule

KINDS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}
CASES = [
    ("linear", "epsilon", False),
    ("linear", "v", True),
    ("cosine", "epsilon", False),
    ("cosine", "v", False),
    ("cosine", "v", True),
]
EPS = torch.finfo(torch.float32).eps

pytestmark = pytest.mark.usefixtures("seeded")


def ours(kind, prediction, zero):
    return NoiseSchedule(num_steps=1000, kind=kind, prediction=prediction, zero_terminal_snr=zero)


def theirs(name, kind, prediction, zero):
    """Return a scheduler of diffusers with the same settings."""
    from lenshpc.models.importing import declare_missing_torchvision_ops

    declare_missing_torchvision_ops()
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=1000,
        beta_schedule=KINDS[kind],
        prediction_type=PREDICTIONS[prediction],
        rescale_betas_zero_snr=zero,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(50)
    return scheduler


def rows():
    image, noise = torch.randn(2, 4, 1, 8, 8)
    return image, noise, torch.tensor([0, 300, 998, 999])


def check_betas(alpha_bar, kind):
    """Compare 1 - alpha_bar_t / alpha_bar_(t-1) with diffusers' betas.

    A closed form of single precision: rounded at most eight times, by half an eps each.
    """
    expected = theirs("DDPMScheduler", kind, "v", False).betas.double()
    found = 1 - alpha_bar / torch.cat([torch.ones(1), alpha_bar[:-1]])
    torch.testing.assert_close(found, expected, atol=0, rtol=4 * EPS)


def check_rescaled(alpha_bar, kind):
    """Compare with diffusers' rescaling in double precision of the levels without it.

    In single precision its 1 - beta loses what a vanishing alpha_bar keeps.
    """
    scheduling = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    plain = ours(kind, "v", False).alpha_bar
    betas = 1 - plain / torch.cat([torch.ones(1), plain[:-1]])
    expected = (1 - scheduling.rescale_zero_terminal_snr(betas)).cumprod(dim=0)
    torch.testing.assert_close(alpha_bar, expected, atol=1e-15, rtol=1e-9)


CHECKS = {False: check_betas, True: check_rescaled}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero", CHECKS)
def test_levels_are_those_of_diffusers(kind, zero):
    CHECKS[zero](ours(kind, "v", zero).alpha_bar, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero", CHECKS)
@pytest.mark.parametrize("at", [0, 500, 998])
def test_one_wrong_level_is_found(kind, zero, at):
    alpha_bar = ours(kind, "v", zero).alpha_bar.clone()
    alpha_bar[at] *= 1 + 1e-5
    with pytest.raises(AssertionError, match="not close"):
        CHECKS[zero](alpha_bar, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_rescaling_is_found(kind):
    plain = ours(kind, "v", False).alpha_bar
    shifted = plain.sqrt() - plain[-1].sqrt()
    without_scale, of_variance = shifted**2, (plain - plain[-1]) * plain[0] / (plain[0] - plain[-1])
    for wrong in (plain, without_scale, of_variance):
        with pytest.raises(AssertionError, match="not close"):
            check_rescaled(wrong, kind)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_noise_and_targets_are_those_of_diffusers(case):
    scheduler, schedule = theirs("DDPMScheduler", *case), ours(*case)
    scheduler.alphas_cumprod = schedule.alpha_bar
    image, noise, level = rows()
    image, noise = image.double(), noise.double()
    noisy = scheduler.add_noise(image, noise, level)
    torch.testing.assert_close(schedule.add_noise(image, noise, level), noisy, atol=1e-12, rtol=0)
    if case[1] == "v":
        velocity = scheduler.get_velocity(image, noise, level)
        torch.testing.assert_close(
            schedule.target(image, noise, level), velocity, atol=1e-12, rtol=0
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ddim_steps_are_those_of_diffusers(case):
    scheduler, schedule = theirs("DDIMScheduler", *case), ours(*case)
    levels = schedule.levels(50)
    assert levels == scheduler.timesteps.tolist()
    scheduler.alphas_cumprod = schedule.alpha_bar
    noisy, output = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64)
    for level, after in zip(levels, [*levels[1:], -1], strict=True):
        image = schedule.image_of(noisy, output, torch.full((4,), level))
        found = schedule.ddim_step(noisy, image, level, after)
        expected = scheduler.step(output, level, noisy).prev_sample
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ancestral_steps_are_those_of_diffusers(case):
    scheduler, schedule = theirs("DDPMScheduler", *case), ours(*case)
    scheduler.alphas_cumprod = schedule.alpha_bar
    levels = schedule.levels(50)
    noisy, output = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64)
    for level, after in itertools.pairwise(levels):
        image = schedule.image_of(noisy, output, torch.full((4,), level))
        generator = torch.Generator().manual_seed(level)
        noise = torch.randn(noisy.shape, generator=generator, dtype=torch.float64)
        found = schedule.ancestral_step(noisy, image, level, after, noise)
        generator = torch.Generator().manual_seed(level)
        expected = scheduler.step(output, level, noisy, generator=generator).prev_sample
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("kind", "level", "expected"),
    [
        ("linear", 0, 1 - 1e-4),
        ("linear", 1, (1 - 1e-4) * (1 - 1e-4 - 0.0199 / 999)),
        ("cosine", 499, (math.cos(0.508 / 1.008 * math.pi / 2) / math.cos(math.pi / 252)) ** 2),
    ],
)
def test_levels_are_the_papers(kind, level, expected):
    assert ours(kind, "v", False).alpha_bar[level].item() == pytest.approx(expected, rel=1e-9)


def test_zero_terminal_snr_ends_in_noise_and_keeps_the_first_level():
    plain, zero = (ours("cosine", "v", flag).alpha_bar for flag in (False, True))
    assert zero[-1] == 0
    assert zero[0] == pytest.approx(plain[0].item(), rel=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_image_comes_back_from_the_target(prediction):
    schedule, (image, noise, level) = ours("linear", prediction, False), rows()
    noisy = schedule.add_noise(image, noise, level)
    found = schedule.image_of(noisy, schedule.target(image, noise, level), level)
    torch.testing.assert_close(found, image, atol=1e-3, rtol=0)


def test_min_snr_weights_are_the_papers():
    level = torch.tensor([0, 400, 999])
    for prediction in PREDICTIONS:
        schedule = ours("linear", prediction, False)
        alpha_bar = schedule.alpha_bar[level]
        snr = alpha_bar / (1 - alpha_bar)
        below = snr if prediction == "epsilon" else snr + 1
        expected = (torch.minimum(snr, torch.tensor(5.0)) / below).float()
        torch.testing.assert_close(schedule.weights(level, 5.0), expected)
    assert schedule.weights(level, None).tolist() == [1, 1, 1]
    zero = ours("cosine", "v", True)
    assert zero.weights(torch.tensor([999]), 5.0).tolist() == [1]
