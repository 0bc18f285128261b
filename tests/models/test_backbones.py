"""Networks by name: the spelling is checked without torch, the network is built with it."""

import pytest
import torch
from networks import build

from lenshpc.errors import ConfigError
from lenshpc.models.importing import timm_module
from lenshpc.run.networks import check_names, timm_names
from lenshpc.tasks.classification.settings import Classification

SMALL = ["test_resnet", "test_vit", "test_convnext", "d4_net"]
NAMED = [
    "resnet18",
    "resnet34",
    "efficientnet_b1",
    "efficientnet_b2",
    "mobilevit_s",
    "convnextv2_tiny",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "densenet121",
]


def test_timms_names_are_those_that_it_registers() -> None:
    assert timm_names() == set(timm_module().list_models())


def test_misspelt_name_is_refused_with_the_nearest() -> None:
    check_names(["resnet18", "d4_net"], Classification())
    with pytest.raises(ConfigError) as caught:
        check_names(["resnet18", "resnet118"], Classification())
    assert str(caught.value).startswith("timm has no model 'resnet118'; did you mean resnet")


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 48, 48), (2, 75, 75)])
def test_network_takes_any_channels_and_size(name: str, shape: tuple[int, int, int]) -> None:
    network = build(name, image_shape=shape, num_outputs=3).eval()
    image = torch.randn(2, *shape)
    assert network(image).shape == (2, 3)
    torch.testing.assert_close(network(image), network.network(image))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMED)
def test_network_of_the_recipes_takes_grey_images_of_any_size(name: str) -> None:
    assert build(name, image_shape=(1, 64, 64), num_outputs=2).network.num_features > 0


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("side", [64, 150, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_network_of_the_recipes_takes_every_size(name: str, side: int, channels: int) -> None:
    network = build(name, image_shape=(channels, side, side), num_outputs=3).eval()
    image = torch.randn(1, channels, side, side)
    assert network(image).shape == (1, 3)
    torch.testing.assert_close(network(image), network.network(image))


@torch.no_grad()
def test_vit_sees_the_last_pixels_of_a_side_that_no_patch_divides() -> None:
    network = build("test_vit", image_shape=(1, 75, 75), num_outputs=2).eval()
    image = torch.randn(1, 1, 75, 75)
    changed = image.clone()
    changed[..., -1, -1] += 5
    assert (network(image) - network(changed)).abs().max() > 1e-6


def test_size_that_a_network_cannot_take_is_refused_with_some_that_it_can() -> None:
    with pytest.raises(ConfigError) as caught:
        build("densenet121", image_shape=(1, 8, 8), num_outputs=2)
    message = str(caught.value)
    assert message.startswith("densenet121 cannot take images of 8×8 px (")
    assert message.endswith("); use --set data.image_size=32 or 224 or 256")


@pytest.mark.parametrize("name", ["test_resnet", "d4_net"])
def test_network_is_made_in_autocast_too(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        build(name, image_shape=(1, 32, 32), num_outputs=2)


def test_partners_belong_to_the_first_rows() -> None:
    network = build("test_resnet", image_shape=(1, 32, 32), num_outputs=2).eval()
    image, partner = torch.randn(5, 1, 32, 32), torch.randn(2, 1, 32, 32)
    mix = torch.tensor([0, 1.0])
    outputs = network(image, partner, mix, torch.tensor([1]))
    expected = torch.cat([image[:1], partner[1:], image[2:]])
    torch.testing.assert_close(outputs, network(expected))
