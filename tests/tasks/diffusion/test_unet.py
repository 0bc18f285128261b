"""The network of diffusion models."""

import pytest
import torch
from torch.nn import functional

from lenshpc.tasks.diffusion.unet import Double, UNet, pad, sinusoids

pytestmark = pytest.mark.usefixtures("seeded")


def make(shape, **changes):
    settings = {"width": 8, "multipliers": (1, 2, 2, 4), "blocks": 1} | changes
    return UNet(shape, **settings).eval()


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 150, 150), (3, 64, 64), (2, 37, 50), (1, 8, 8)])
def test_output_has_the_shape_of_the_image(shape):
    noisy, level = torch.randn(2, *shape), torch.tensor([0, 999])
    output = make(shape)(noisy, level)
    assert output.shape == noisy.shape
    assert not output.any(), "the last layer begins with zeros"


def test_padding_reflects_to_the_middle_of_what_is_cut_back():
    images = torch.randn(2, 1, 150, 64)
    found = pad(images, 32)
    assert found.shape == (2, 1, 160, 64)
    assert torch.equal(found[:, :, 5:155], images)
    assert torch.equal(found, functional.pad(images, (0, 0, 5, 5), mode="reflect"))


@torch.no_grad()
def test_class_changes_the_output_and_the_hidden_one_is_its_own():
    model = make((1, 16, 16), num_classes=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    noisy, level = torch.randn(1, 1, 16, 16), torch.tensor([5])
    hidden, first, second, null = (
        model(noisy, level, label) for label in (None, *torch.arange(3)[:, None])
    )
    assert torch.equal(hidden, null)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, hidden)


def test_every_parameter_gets_a_gradient():
    model = make((1, 16, 16), num_classes=2).train()
    model.last[-1].weight.data.fill_(0.1)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d) and not layer.weight.any():
            torch.nn.init.normal_(layer.weight, std=0.1)
    label = torch.tensor([0, 2])
    model(torch.randn(2, 1, 16, 16), torch.tensor([1, 500]), label).square().mean().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None] == []


def test_attention_stands_where_maps_are_small():
    sides = {64: 4, 160: 1, 16: 9}  # blocks of which 2 sides of 64 px, 1 of 160 px, all of 16 px
    for side, least in sides.items():
        model = make((1, side, side))
        there = sum(type(one).__name__ == "Attention" for one in model.modules())
        assert there >= least


def test_sinusoids_are_the_papers():
    found = sinusoids(torch.tensor([3.0]), 4)
    angles = [3.0, 3.0 / 100]
    expected = torch.tensor([*angles]).sin().tolist() + torch.tensor([*angles]).cos().tolist()
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize("sides", [(5, 7), (1, 1), (8, 2)])
def test_doubling_is_the_convolution_of_repeated_pixels(sides):
    layer, maps = Double(6).double(), torch.randn(2, 6, *sides, dtype=torch.float64)
    expected = layer.convolution(maps.repeat_interleave(2, 2).repeat_interleave(2, 3))
    weights = tuple(layer.parameters())
    found = layer(maps, torch.zeros(0))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    gradients = [torch.autograd.grad(one.square().sum(), weights) for one in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=0)
