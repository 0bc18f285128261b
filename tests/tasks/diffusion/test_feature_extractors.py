"""Frozen networks: written, read back, and how images are prepared for them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lenshpc.errors import DataError
from lenshpc.files import sha256
from lenshpc.models.backbones import build
from lenshpc.models.vit import Vit
from lenshpc.tasks.diffusion import feature_extractors
from lenshpc.tasks.diffusion.extractors import FrozenNetwork, freeze
from lenshpc.tasks.diffusion.feature_extractors import Card
from lenshpc.tasks.diffusion.features import features
from lenshpc.tasks.diffusion.freeze import with_features
from lenshpc.tasks.foundation.networks import MaskedAutoencoder
from lenshpc.tasks.foundation.settings import Foundation

pytestmark = pytest.mark.usefixtures("seeded")
CARD = Card(
    network="test_resnet",
    image_shape=(3, 32, 32),
    part=1.0,
    num_outputs=2,
    stretch="sqrt",
    mean=(0.4, 0.4, 0.4),
    std=(0.2, 0.2, 0.2),
    trained_on="spots (no, sub)",
    vit=Vit(),
)


@pytest.fixture
def written(tmp_path):
    model = build("test_resnet", image_shape=(3, 32, 32), num_outputs=2).eval()
    freeze(model, CARD, tmp_path / "one.safetensors")
    return model, tmp_path / "one.safetensors"


def test_network_comes_back_with_its_card(written):
    model, path = written
    network = FrozenNetwork(path)
    assert network.card == CARD
    grey = torch.rand(4, 1, 32, 32)
    grey[:, :, 0, :2] = torch.tensor([0.0, 1.0])  # so that the range stays as it is
    prepared = (grey.sqrt().repeat(1, 3, 1, 1) - 0.4) / 0.2
    with torch.no_grad():
        torch.testing.assert_close(
            features(network, grey), model.features(prepared), atol=1e-2, rtol=1e-2
        )
    assert not any(one.requires_grad for one in network.parameters())


def test_network_is_shown_the_part_that_it_was_trained_on(tmp_path):
    model = build("test_resnet", image_shape=(3, 32, 32), num_outputs=2).eval()
    card = CARD.model_copy(update={"part": 0.5})
    freeze(model, card, tmp_path / "one.safetensors")
    network, images = FrozenNetwork(tmp_path / "one.safetensors"), torch.rand(2, 1, 64, 64)
    found = features(network, images)
    images[:, :, :16] = 5  # outside of the middle
    torch.testing.assert_close(features(network, images), found)
    images[:, :, 17] = 5
    assert not torch.allclose(features(network, images), found)


def test_features_do_not_depend_on_units_or_on_other_rows(written):
    network, images = FrozenNetwork(written[1]), torch.rand(4, 2, 50, 50)
    found = features(network, images)
    torch.testing.assert_close(features(network, 300 * images - 7), found, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(features(network, images[2:]), found[2:], atol=1e-5, rtol=1e-5)
    assert torch.isfinite(features(network, torch.zeros(1, 1, 50, 50))).all()


def test_encoder_of_a_pretraining_gives_its_mean_token(tmp_path):
    vit = Vit(patch=8, width=24, depth=1, heads=2)
    pretrained = MaskedAutoencoder((1, 16, 16), Foundation(vit=vit)).eval()
    card = CARD.model_copy(
        update={"network": "mae_vit", "image_shape": (1, 16, 16), "num_outputs": 1, "vit": vit}
    )
    with torch.no_grad():
        model, images = with_features(pretrained, card).eval(), torch.randn(2, 1, 16, 16)
        expected = pretrained.encoder(images).mean(dim=1)
        torch.testing.assert_close(model.features(images), expected)
        freeze(model, card.model_copy(update={"mean": (0,), "std": (1,)}), tmp_path / "mae")
        found = FrozenNetwork(tmp_path / "mae").features(images)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)


def test_description_is_what_the_report_needs(written):
    _, path = written
    assert feature_extractors.describe(path) == {
        "file": "one.safetensors",
        "sha256": sha256(path),
        "network": "test_resnet",
        "side_px": 32,
        "trained_on": "spots (no, sub)",
    }


def test_shipped_networks_give_features_of_any_images():
    names = [name for name, _ in feature_extractors.find_shipped()]
    assert names[0] == "FD-lens"
    for _, path in feature_extractors.find_shipped():
        found = features(FrozenNetwork(path), torch.rand(3, 1, 40, 40))
        assert found.shape[0] == 3
        assert np.isfinite(found.numpy()).all()


def test_file_without_a_card_is_refused(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        DataError, match=r"other.safetensors is not a feature extractor \(KeyError\)"
    ):
        feature_extractors.read_card(tmp_path / "other.safetensors")
