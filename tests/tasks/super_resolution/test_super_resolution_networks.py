"""Networks that enlarge images."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from lenshpc.errors import ConfigError
from lenshpc.registry import TaskSpec, build_component
from lenshpc.run.sections import Train
from lenshpc.tasks.super_resolution.networks import bicubic
from lenshpc.tasks.super_resolution.settings import SuperResolution

pytestmark = pytest.mark.usefixtures("seeded")


NETWORKS = ("srresnet", "edsr", "rcan", "mae_sr")


def build(name, *, channels, scale, width, blocks):
    spec = TaskSpec(
        settings=SuperResolution(width=width, blocks=blocks),
        train=Train(),
        classes=("pairs",),
        class_counts=(1,),
        image_shape=(channels, 16, 16),
        target_shape=(channels, scale * 16, scale * 16),
    )
    return build_component("networks", spec, name)


def small(name, scale=2, channels=1):
    return build(name, channels=channels, scale=scale, width=8, blocks=5)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_untrained_network_is_bicubic_exactly(name, scale):
    image = torch.randn(2, 3, 13, 16)
    model = small(name, scale, channels=3)
    for mode in (model.train(), model.eval()):
        assert torch.equal(mode(image), bicubic(image, scale))


@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_is_that_of_opencv(scale):
    image = np.random.default_rng(0).random((17, 12), np.float32)
    expected = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    found = bicubic(torch.from_numpy(image)[None, None], scale)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(("name", "millions"), [("srresnet", 1.5), ("edsr", 1.4), ("rcan", 1.5)])
def test_default_size_is_the_published_one(name, millions):
    # SRResNet x4 has 1.5 M parameters (Ledig et al. 2017), EDSR's baseline x2 1.37 M (Lim et al.).
    scale = 4 if name == "srresnet" else 2
    model = build(name, channels=3, scale=scale, width=64, blocks=16)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_only_srresnet_has_batch_norm():
    kinds = {name: {type(layer) for layer in small(name).modules()} for name in NETWORKS}
    assert [nn.BatchNorm2d in kinds[name] for name in NETWORKS] == [True, False, False, False]


def test_unknown_network_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown network of super_resolution 'edsr2'.* edsr\?"):
        small("edsr2")
