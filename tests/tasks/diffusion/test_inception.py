"""The FID: Inception's features are torch-fidelity's, and of the published weights alone."""

import hashlib

import pytest
import torch

from lenshpc.errors import ConfigError
from lenshpc.models.importing import declare_missing_torchvision_ops
from lenshpc.tasks.diffusion import feature_extractors
from lenshpc.tasks.diffusion.features import Features
from lenshpc.tasks.diffusion.inception import Inception

declare_missing_torchvision_ops()
inception_of = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture
def library(tmp_path, monkeypatch, seeded):
    """Return torch-fidelity's network with random weights, whose file passes for the published."""
    monkeypatch.setattr(inception_of, "load_state_dict_from_url", lambda *_, **__: None)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        network = inception_of.FeatureExtractorInceptionV3("random", ["2048"])
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    digest = hashlib.sha256((tmp_path / "inception.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(feature_extractors, "INCEPTION_SHA256", digest)
    return network


@torch.no_grad()
def test_features_are_those_of_the_library_on_bytes(library, tmp_path):
    image = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8)
    image.view(2, -1)[:, :2] = torch.tensor([0, 255], dtype=torch.uint8)  # the whole range
    network = Inception(str(tmp_path / "inception.pth"))
    (expected,) = library(image)
    assert expected.shape == (2, 2048)
    assert torch.equal(network(image.float() / 51 - 3), expected)  # in any units
    grey = image[:, :1].float()
    (expected,) = library(
        (255 * grey / grey.amax((2, 3), True)).round().byte().expand(-1, 3, -1, -1)
    )
    assert torch.equal(network((grey - grey.amin((2, 3), True)).expand(-1, 2, -1, -1)), expected)


@torch.no_grad()
def test_arrays_of_its_features_stand_beside_those_of_the_networks_that_ship(library, tmp_path):
    path = str(tmp_path / "inception.pth")
    found = Features(path)({"sample": torch.rand(1, 1, 16, 16)})
    assert list(found) == ["lens_sample", "mae_sample", "fid_sample"]
    assert feature_extractors.distances(path) == ("FD-lens", "FD-MAE", "FID")
    assert feature_extractors.distances(None) == ("FD-lens", "FD-MAE")
    assert [*map(feature_extractors.kernel_distance, ("FD-lens", "FID"))] == ["KID-lens", "KID"]


def test_other_weights_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"inception gone.pth: no such file; download https://"):
        feature_extractors.find_inception("gone.pth")
    (tmp_path / "other.pth").write_bytes(b"lens")
    with pytest.raises(ConfigError, match=r"other.pth has the SHA-256 [0-9a-f]{8}…, and the wei"):
        feature_extractors.find_inception(str(tmp_path / "other.pth"))
