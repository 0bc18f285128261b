"""An image's augmentation belongs to (seed, epoch, visit), and both back ends apply the same."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from lenshpc.data.augment import Augmenter, change, on_cpu, on_device
from lenshpc.data.draws import convert, draw, standard_normal
from lenshpc.data.sending import send
from lenshpc.run.augmentations import AUGMENTATIONS
from lenshpc.run.sections import Data

SIDE = 48
RNG = np.random.default_rng(0)
PIXELS = RNG.normal(10, 3, size=(64, 3, SIDE, SIDE)).astype(np.float32)
# Smooth, as images behind a telescope are: a point-spread function of 1.5 pixels.
SMOOTH = ndimage.gaussian_filter(PIXELS, (0, 0, 1.5, 1.5)) * 7
VISITS = np.arange(64)
NAMES = sorted(AUGMENTATIONS)
# As parts of the largest pixel. OpenCV 5 interpolates at exact places (4 did at 1/32 pixel).
TOLERANCES = {"d4": 0.0, "flips": 0.0, "noise": 0.0, "affine": 5e-6, "crop": 5e-6}


def steps_of(*augment):
    return Data(augment=augment).augment


def drawn(augment, visits=VISITS, seed=0, epoch=0, sides=(SIDE, SIDE)):
    return convert(draw(steps_of(*augment), seed, epoch, visits, sides), torch.from_numpy)


def augmented(augment, images=PIXELS, visits=VISITS, seed=0, epoch=0):
    images = torch.from_numpy(images[: len(visits)].copy())
    drawn = Augmenter(steps_of(*augment), seed).draw(epoch, [np.asarray(visits)], (SIDE, SIDE))
    (changes,) = send(drawn, images.device)
    return change(images, changes).numpy()


def symmetries(image):
    """Return the eight images that turns and mirrors make of one."""
    turns = [np.rot90(image, k, axes=(1, 2)) for k in range(4)]
    return [turned for turn in turns for turned in (turn, turn[:, :, ::-1])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_channels", [1, 3, 5])
def test_both_back_ends_agree(name, num_channels):
    images = torch.from_numpy(np.concatenate([SMOOTH, SMOOTH], axis=1)[:, :num_channels].copy())
    plan = drawn([name])
    one, other = on_cpu(images.clone(), plan), on_device(images.clone(), plan)
    assert one.shape == other.shape == images.shape
    assert one.stride() == other.stride() == images.stride()  # else DDP warns of its gradients'
    assert one.dtype == other.dtype == torch.float32
    tolerance = TOLERANCES.get(name, 1e-6) * float(images.abs().max())
    assert float((one - other).abs().max()) <= tolerance
    assert not torch.equal(one, images)


def test_both_back_ends_agree_on_a_whole_list():
    images = torch.from_numpy(SMOOTH)
    plan = drawn(["d4", {"affine": {"shift": 0.1}}, "psf_jitter", "contrast", "noise"])
    difference = on_cpu(images.clone(), plan) - on_device(images.clone(), plan)
    assert float(difference.abs().max()) <= 5e-6 * float(images.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_equal_seed_epoch_and_visit_give_the_same_image_in_any_batch(name):
    whole = augmented([name], seed=5, epoch=2)
    images = PIXELS[[9, 4]]
    assert np.array_equal(augmented([name], images, VISITS[[9, 4]], 5, 2), whole[[9, 4]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["seed", "epoch", "visit"])
def test_other_seed_epoch_or_visit_gives_another_image(name, what):
    images = []
    for value in range(12):
        key = {"seed": 0, "epoch": 0, "visit": 0, what: value}
        found = augmented([name], visits=[key["visit"]], seed=key["seed"], epoch=key["epoch"])
        images.append(found.tobytes())
    # there are four flips, and a blur of less than 0.13 pixels changes nothing
    assert len(set(images)) > {"d4": 3, "flips": 2, "psf_jitter": 6}.get(name, 11)


@pytest.mark.parametrize("back_end", [on_cpu, on_device])
@pytest.mark.parametrize(
    "names", [["d4"], ["d4", {"affine": {"rotate_deg": 0, "scale": 0, "shift": 0}}]]
)
def test_each_symmetry_is_that_of_its_number(back_end, names):
    """Alone and in a list the CPU turns images in two ways."""
    images = torch.from_numpy(np.repeat(PIXELS[:1], 64, axis=0))
    plan = drawn(names)
    found = back_end(images, plan).numpy()
    for image, element in zip(found, plan[0].elements.tolist(), strict=True):
        turned = np.rot90(PIXELS[0], element % 4, axes=(1, 2))
        expected = turned[:, :, ::-1] if element >= 4 else turned
        np.testing.assert_allclose(image, expected, atol=1e-4 if len(names) > 1 else 0)


@pytest.mark.parametrize("back_end", [on_cpu, on_device])
def test_images_that_are_not_square_are_flipped(back_end):
    images = PIXELS[:32, :, :20]
    plan = drawn(["flips"], np.arange(32))
    found = back_end(torch.from_numpy(images.copy()), plan).numpy()
    flips = [images, images[:, :, ::-1, ::-1], images[..., ::-1], images[:, :, ::-1]]
    expected = np.stack([flips[[0, 2, 4, 6].index(e)][n] for n, e in enumerate(plan[0].elements)])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("back_end", [on_cpu, on_device])
@pytest.mark.parametrize(("name", "num"), [("d4", 8), ("flips", 4)])
def test_d4_and_flips_give_their_symmetries_equally_often(back_end, name, num):
    image = PIXELS[0]
    known = {turned.tobytes() for turned in symmetries(image)}
    if name == "flips":
        flips = (image, image[:, ::-1], image[:, :, ::-1], image[:, ::-1, ::-1])
        known = {turned.tobytes() for turned in flips}
    images = torch.from_numpy(np.repeat(image[None], 800, axis=0))
    found = [turned.tobytes() for turned in back_end(images, drawn([name], np.arange(800))).numpy()]
    assert set(found) == known
    assert len(known) == num
    counts = [found.count(turned) for turned in known]
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("back_end", [on_cpu, on_device])
def test_affine_turns_scales_and_shifts_as_scipy_does(back_end):
    plan = drawn([{"affine": {"rotate_deg": 30, "scale": 0.2, "shift": 0.1}}])
    found = back_end(torch.from_numpy(SMOOTH), plan).numpy()
    for index in range(8):
        matrix = plan[0].matrices[index].numpy()
        linear, offset = matrix[::-1, [1, 0]], matrix[::-1, 2]  # scipy's axes are y, x
        for channel in range(3):
            expected = ndimage.affine_transform(
                SMOOTH[index, channel], linear, offset, order=1, mode="mirror"
            )
            assert np.abs(found[index, channel] - expected).max() <= 1e-3 * SMOOTH.std()


def test_affine_matrices_keep_to_their_ranges_about_the_centre():
    sides, visits = (20, 40), np.arange(20_000)
    (warps,) = drawn(
        [{"affine": {"rotate_deg": 90, "scale": 0.1, "shift": 0.05}}], visits, sides=sides
    )
    matrices = warps.matrices.numpy()
    linear = matrices[:, :, :2]
    zoom = 1 / np.sqrt(np.linalg.det(linear))
    angle = np.degrees(np.arctan2(-linear[:, 0, 1], linear[:, 0, 0]))
    assert stats.kstest(zoom, stats.uniform(0.9, 0.2).cdf).pvalue > 1e-3
    assert stats.kstest(angle, stats.uniform(-90, 180).cdf).pvalue > 1e-3
    centre = np.array([19.5, 9.5])
    moved = np.einsum("bij,bj->bi", np.linalg.inv(linear), centre - matrices[:, :, 2]) - centre
    for axis, side in enumerate((40, 20)):
        assert stats.kstest(moved[:, axis] / side, stats.uniform(-0.05, 0.1).cdf).pvalue > 1e-3


def test_crop_never_looks_outside_and_reaches_every_edge():
    (warps,) = drawn([{"crop": {"min_side": 0.5}}], np.arange(20_000), sides=(20, 40))
    edges = np.array([[-0.5, -0.5, 1], [39.5, 19.5, 1]])  # of the pixels at the corners
    old = np.einsum("bij,nj->nbi", warps.matrices.numpy(), edges)
    width, height = (old[1] - old[0]).T
    np.testing.assert_allclose(width / 40, height / 20, rtol=1e-9)
    assert stats.kstest(width / 40, stats.uniform(0.5, 0.5).cdf).pvalue > 1e-3
    np.testing.assert_allclose(old.min(axis=(0, 1)), [-0.5, -0.5], atol=0.05)
    np.testing.assert_allclose(old.max(axis=(0, 1)), [39.5, 19.5], atol=0.05)
    assert (old >= -0.5 - 1e-9).all()
    assert (old[..., 0] <= 39.5 + 1e-9).all()


def test_psf_jitter_blurs_as_scipy_does():
    plan = drawn([{"psf_jitter": {"sigma_px": 1.2}}])
    found = on_device(torch.from_numpy(PIXELS), plan).numpy()
    reach = (plan[0].kernels.shape[1] - 1) // 2
    places = np.arange(-reach, reach + 1)
    for index in range(8):
        kernel = plan[0].kernels[index].numpy()
        expected = ndimage.convolve1d(PIXELS[index].astype(np.float64), kernel, 1, mode="mirror")
        expected = ndimage.convolve1d(expected, kernel, 2, mode="mirror")
        np.testing.assert_allclose(found[index], expected, atol=2e-5)
        assert np.sqrt((kernel * places**2).sum()) <= 1.2


def test_noise_is_normal_of_the_drawn_deviation_and_not_clipped():
    images = np.zeros((64, 3, SIDE, SIDE), np.float32)
    plan = drawn([{"noise": {"std": 5.0}}])
    found = on_device(torch.from_numpy(images), plan).numpy()
    stds = plan[0].stds.numpy()
    np.testing.assert_allclose(found.std(axis=(1, 2, 3)), stds, rtol=0.05)
    assert stats.kstest(stds, stats.uniform(0, 5).cdf).pvalue > 1e-3


def test_standard_normal_is_normal_and_uncorrelated():
    keys = drawn(["noise"], np.arange(50))[0].keys
    field = standard_normal(keys, 4001).numpy()
    assert field.shape == (50, 4001)
    assert stats.kstest(field.ravel(), stats.norm.cdf).pvalue > 1e-3
    correlations = np.corrcoef(field)[np.triu_indices(50, 1)] * np.sqrt(4001)
    assert stats.kstest(correlations, stats.norm.cdf).pvalue > 1e-3
    halves = np.corrcoef(field[:, :2000].ravel(), field[:, 2001:].ravel())[0, 1]
    assert abs(halves) < 4 / np.sqrt(100_000)


def test_contrast_stretches_about_the_mean_of_image_and_channel():
    plan = drawn([{"contrast": {"factor": 0.5, "brightness": 2.0}}])
    found = on_cpu(torch.from_numpy(PIXELS), plan).numpy()
    axes = (2, 3)
    factors, added = (values.numpy()[:, None] for values in plan[0])
    np.testing.assert_allclose(found.mean(axis=axes), PIXELS.mean(axis=axes) + added, rtol=1e-5)
    np.testing.assert_allclose(found.std(axis=axes), PIXELS.std(axis=axes) * factors, rtol=1e-4)
    assert stats.kstest(factors[:, 0], stats.uniform(0.5, 1).cdf).pvalue > 1e-3
    assert stats.kstest(added[:, 0], stats.uniform(-2, 4).cdf).pvalue > 1e-3


def test_draws_are_those_of_splitmix64():
    """First outputs of the seed 1234567 in the reference implementation (Vigna 2015)."""
    from lenshpc.data.draws import _GOLDEN, _mix

    places = np.arange(1, 4, dtype=np.int64)
    found = _mix(1234567 + places * _GOLDEN).view(np.uint64)
    assert found.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    torch_found = _mix(1234567 + torch.from_numpy(places) * _GOLDEN).numpy().view(np.uint64)
    assert torch_found.tolist() == found.tolist()


def test_order_of_the_list_counts_and_equal_steps_draw_differently():
    first, second = drawn(["noise", "noise"])
    assert not torch.equal(first.keys, second.keys)
    assert [type(what).__name__ for what in drawn(["d4", "noise"])] == ["Turns", "AddedNoise"]
    assert [type(what).__name__ for what in drawn(["noise", "d4"])] == ["AddedNoise", "Turns"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_gpu_augments_as_the_device_path_on_the_cpu(name):
    plan, images = drawn([name]), torch.from_numpy(SMOOTH)
    found = on_device(images.cuda(), convert(plan, torch.Tensor.cuda)).cpu()
    torch.testing.assert_close(found, on_device(images, plan), rtol=0, atol=1e-3)
