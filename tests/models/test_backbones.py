"""Networks by name: the spelling is checked without torch, the network is built with it."""

import pytest
import torch

from lenshpc.errors import ConfigError
from lenshpc.models.backbones import build, declare_missing_torchvision_ops
from lenshpc.models.names import check_names, known_names


def test_known_names_are_those_of_timm() -> None:
    declare_missing_torchvision_ops()
    import timm

    assert known_names() == set(timm.list_models())


def test_misspelt_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        check_names(["resnet18", "resnet118"])
    assert str(caught.value).startswith("timm knows no model 'resnet118'; did you mean resnet")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 48, 48)])
def test_network_takes_any_channels_and_size(name: str, shape: tuple[int, int, int]) -> None:
    network = build(name, image_shape=shape, num_outputs=3)
    assert network(torch.zeros(2, *shape)).shape == (2, 3)
