"""The network of group convolutions: equal outputs for all eight views of an image."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lenshpc.models.d4 import D4Net, relative_symmetries, transform


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = D4Net(2, 3)
    network.train()(torch.randn(8, 2, 32, 32))  # moves the batch-norm statistics
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (75, 75), (33, 50)])
def test_output_is_the_same_for_all_eight_views(network, size):
    image = torch.randn(2, 2, *size)
    upright = network(image)
    assert upright.std() > 0.05
    for symmetry in range(1, 8):
        turned = network(transform(image, symmetry))
        torch.testing.assert_close(turned, upright, atol=1e-5, rtol=0)


@torch.no_grad()
def test_maps_turn_with_the_image(network):
    image = torch.randn(2, 2, 48, 64)
    maps = network.forward_features(image)
    for symmetry in range(8):
        moved = network.forward_features(transform(image, symmetry))
        torch.testing.assert_close(moved, transform(maps, symmetry), atol=1e-5, rtol=0)


@torch.no_grad()
def test_output_is_another_for_shuffled_pixels(network):
    image = torch.randn(1, 2, 32, 32)
    shuffled = image.flatten()[torch.randperm(image.numel())].reshape(image.shape)
    assert (network(image) - network(shuffled)).abs().max() > 1e-3


def test_symmetries_form_the_group():
    table = relative_symmetries()
    assert (table.sort(dim=1).values == torch.arange(8)).all()
    assert (table.sort(dim=0).values == torch.arange(8)[:, None]).all()
    assert (table.diagonal() == 0).all()
    image = torch.randn(5, 7)
    for g in range(8):
        for h in range(8):
            through = transform(transform(image, int(table[g, h])), g)
            assert torch.equal(through, transform(image, h))


def test_state_holds_parameters_and_statistics_alone(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    other = D4Net(2, 3).eval()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    image = torch.randn(2, 2, 40, 40)
    assert torch.equal(other(image), network(image))
    assert all("views" not in key and "moved" not in key for key in network.state_dict())
    assert 0.15e6 < sum(p.numel() for p in network.parameters()) < 0.3e6


def test_every_parameter_gets_a_gradient():
    network = D4Net(1, 2).train()
    network(torch.randn(4, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
