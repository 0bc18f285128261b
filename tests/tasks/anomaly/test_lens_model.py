"""The lens that is fitted to images."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lenshpc.models.d4 import transform
from lenshpc.tasks.anomaly import lens_model
from lenshpc.tasks.anomaly.lens_model import LensAutoencoder, restore

SIDE = 32
TRUTH = torch.tensor(
    [[0.2, -0.1, 0.15, 0.1, 0.1, 0.0, 0.2, 0.1], [-0.1, 0.1, 0.0, -0.2] + 4 * [0.0]]
)


pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def model():
    return LensAutoencoder((1, SIDE, SIDE)).eval()


@torch.no_grad()
def drawn(model, latent):
    """Return the images of latents: three parts source, two lens light, one sky."""
    bright = torch.tensor([3.0, 2.0, 1.0])[:, None, None]
    return (model.templates(latent) * bright).sum(dim=1, keepdim=True)


@torch.no_grad()
def test_fit_finds_the_lens_that_an_image_shows(model, monkeypatch):
    monkeypatch.setattr(lens_model, "NUM_STEPS", 4)
    image = drawn(model, TRUTH)
    start = TRUTH + 0.05 * torch.tensor([1, -1, 1, -1, 1, -1, 1, -1])
    found = model.fit(start, image)
    assert (model._misfit(found, image) < 1e-3 * model._misfit(start, image)).all()
    torch.testing.assert_close(found, TRUTH, atol=0.02, rtol=0)


@torch.no_grad()
def test_fit_leaves_what_no_lens_draws_no_worse_than_it_was(model):
    image, start = torch.randn(4, 1, SIDE, SIDE), torch.randn(4, 8)
    found = model.fit(start, image)
    assert (model._misfit(found, image) <= model._misfit(start, image)).all()


@torch.no_grad()
def test_reconstruction_lies_as_the_image_does(model):
    """A lens without symmetry is fitted well from whichever view was guessed best."""
    image = drawn(model, TRUTH)
    left = (model.reconstruct(image) - image).square().mean(dim=(1, 2, 3))
    assert (left < 0.1 * image.var(dim=(1, 2, 3))).all()


@pytest.mark.parametrize("symmetry", range(8))
def test_turning_back_undoes_each_symmetry(symmetry):
    image = torch.randn(2, 1, 5, 5)
    assert torch.equal(restore(transform(image, symmetry), symmetry), image)


@torch.no_grad()
def test_blur_is_a_gaussian_with_nothing_beyond_the_edges(model):
    model.blur.fill_(np.log(1.3))
    maps = torch.rand(1, 2, SIDE, SIDE)
    expected = gaussian_filter(maps.numpy(), (0, 0, 1.3, 1.3), mode="constant", truncate=8)
    np.testing.assert_allclose(model._blur(maps), expected, atol=2e-6)


@torch.no_grad()
def test_images_that_are_not_square_are_judged(model):
    model = LensAutoencoder((2, 24, 30)).eval()
    assert model.reconstruct(torch.rand(3, 2, 24, 30)).shape == (3, 2, 24, 30)
