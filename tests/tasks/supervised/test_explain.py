"""Maps of where a network looks."""

import numpy as np
import pytest
import torch
from networks import build
from torch.nn import functional

from lenshpc.tasks.supervised.explain import class_maps, last_maps

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "d4_net"])
def test_maps_have_the_images_size_and_lie_between_0_and_1(name, num_outputs):
    model = build(name, image_shape=(1, 48, 48), num_outputs=num_outputs).eval()
    maps = class_maps(model, {"image": torch.randn(2, 1, 48, 48)})
    assert maps.shape == (2, 48, 48)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert set(maps.max(axis=(1, 2))) <= {0.0, 1.0}


def test_grad_cam_of_a_linear_head_is_its_closed_form():
    model = build("test_resnet", image_shape=(1, 64, 64), num_outputs=3).eval()
    image = torch.randn(2, 1, 64, 64)
    assert last_maps(model, image[:1]) is model.network.layer4
    with torch.no_grad():
        features = model.network.forward_features(image)
        weight = model.network.fc.weight[model(image).argmax(dim=1)]
        coarse = functional.relu((weight[:, :, None, None] * features).sum(dim=1, keepdim=True))
        fine = functional.interpolate(coarse, size=(64, 64), mode="bilinear")[:, 0]
    expected = fine / fine.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
    np.testing.assert_allclose(class_maps(model, {"image": image}), expected.numpy(), atol=1e-5)
