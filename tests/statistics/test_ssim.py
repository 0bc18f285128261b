"""Structural similarity against its definition, of arrays and tensors, whatever autocast asks."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from lenshpc.statistics.image_metrics import ssim

KINDS = ("random", "smooth", "faint", "bright", "constant")


def pair(kind, shape=(3, 2, 40, 33)):
    """Return images (n, C, H, W) and others like them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[2], : shape[3]] / 8
    images = {
        "random": rng.random(shape),
        "smooth": 0.5 + 0.4 * np.sin(x) * np.cos(y) + np.zeros(shape),
        "faint": 1e-3 * rng.random(shape),
        "bright": 1000 + 100 * rng.random(shape),
        "constant": np.full(shape, 0.3),
    }[kind]
    return images, images + 0.1 * images.std() * rng.normal(size=shape) + 0.01 * images.mean()


def definition(one, other):
    """Return the SSIM of Wang et al. 2004, eqs. 13 to 16, window by window of mirrored images."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()

    def mean(windows):
        return (weights * windows).sum(axis=(-2, -1), keepdims=True)

    edges = ((0, 0), (0, 0), (5, 5), (5, 5))
    padded = (np.pad(images, edges, mode="reflect") for images in (one, other))
    x, y = (sliding_window_view(images, (11, 11), axis=(2, 3)) for images in padded)
    dx, dy = x - mean(x), y - mean(y)
    luminance = (2 * mean(x) * mean(y) + 0.01**2) / (mean(x) ** 2 + mean(y) ** 2 + 0.01**2)
    structure = (2 * mean(dx * dy) + 0.03**2) / (mean(dx**2) + mean(dy**2) + 0.03**2)
    return (luminance * structure).mean(axis=(1, 2, 3, 4, 5))


@pytest.mark.parametrize("shape", [(3, 2, 40, 33), (2, 1, 4, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_ssim_is_that_of_its_definition(kind, shape):
    images, others = pair(kind, shape)
    np.testing.assert_allclose(ssim(images, others), definition(images, others), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_ssim_of_single_precision_is_that_of_its_values(kind):
    images, others = (one.astype(np.float32) for one in pair(kind))
    found, expected = ssim(images, others), definition(*map(np.float64, (images, others)))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_ssim_of_tensors_is_that_of_arrays(kind):
    arrays = [one.astype(np.float32) for one in pair(kind)]
    tensors = [torch.from_numpy(one) for one in arrays]
    found = ssim(*tensors)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), ssim(*arrays), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_ssim_of_an_image_with_itself_is_one(kind):
    image, _ = pair(kind)
    assert ssim(image, image).tolist() == [1, 1, 1]
    assert ssim(*2 * [torch.from_numpy(image)]).tolist() == [1, 1, 1]


def test_ssim_of_a_row_without_an_image_leaves_the_others_alone():
    images, others = pair("random")
    expected = ssim(images, others)
    others[1] = expected[1] = np.nan
    np.testing.assert_array_equal(ssim(images, others), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_ssim_inside_autocast_is_that_outside(kind):
    images, others = (torch.from_numpy(one).float() for one in pair(kind))
    with torch.autocast("cpu", torch.bfloat16):
        found = ssim(images, others)
    torch.testing.assert_close(found, ssim(images, others), atol=1e-12, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_ssim_on_a_gpu_is_that_on_the_cpu(kind, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    images, others = (torch.from_numpy(one).float() for one in pair(kind))
    with torch.autocast("cuda", torch.bfloat16):
        found = ssim(images.cuda(), others.cuda()).cpu()
    torch.testing.assert_close(found, ssim(images, others), atol=1e-10, rtol=0)


def test_ssim_has_the_gradient_of_its_values():
    images, others = (torch.from_numpy(one) for one in pair("random", (1, 2, 6, 7)))
    images.requires_grad_()
    others.requires_grad_()
    assert torch.autograd.gradcheck(ssim, (images, others))
