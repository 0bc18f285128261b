"""Initial weights: from a file, from the hub's cache, or one line that says what to do."""

import hashlib
import subprocess
import sys
import time

import pytest
import torch
from networks import build
from safetensors.torch import save_file

from lenshpc.errors import ConfigError
from lenshpc.models import weights
from lenshpc.models.importing import timm_module
from lenshpc.run.planning import with_files
from lenshpc.run.recipe import Recipe


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Leave the hub's cache empty and its address without an answer."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def network(name="test_resnet", num_outputs=10, channels=3):
    torch.manual_seed(1)
    return build(name, image_shape=(channels, 32, 32), num_outputs=num_outputs).network


def saved(path, module):
    state = module.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "d4_net"])
def test_file_gives_all_but_the_last_layer(name, ending, tmp_path):
    source = network(name)
    path = saved(tmp_path / f"weights.{ending}", source)
    found = build(name, image_shape=(3, 32, 32), num_outputs=3, weights=path).network
    last = tuple(f"{found.pretrained_cfg['classifier']}.{kind}" for kind in ("weight", "bias"))
    for key, value in source.state_dict().items():
        assert (key in last) or torch.equal(found.state_dict()[key], value), key
    assert found.get_classifier().out_features == 3


def test_file_of_a_member_keeps_a_last_layer_that_fits(tmp_path):
    source = build("test_resnet", image_shape=(1, 32, 32), num_outputs=2)
    path = saved(tmp_path / "model.safetensors", source)
    found = build("test_resnet", image_shape=(1, 32, 32), num_outputs=2, weights=path)
    assert all(torch.equal(found.state_dict()[k], v) for k, v in source.state_dict().items())


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3)])
def test_first_convolution_answers_alike_to_grey_images(before, after, tmp_path):
    source = network(channels=before)
    path = saved(tmp_path / "weights.safetensors", source)
    found = build("test_resnet", image_shape=(after, 32, 32), num_outputs=3, weights=path).network
    grey = torch.randn(1, 1, 32, 32)
    expected = source.conv1[0](grey.expand(1, before, 32, 32))
    torch.testing.assert_close(found.conv1[0](grey.expand(1, after, 32, 32)), expected)


def test_file_of_another_network_is_refused(tmp_path):
    path = saved(tmp_path / "weights.safetensors", network("test_convnext"))
    with pytest.raises(ConfigError, match=r"does not hold weights of test_resnet: .*Missing key"):
        build("test_resnet", image_shape=(3, 32, 32), num_outputs=3, weights=path)


def test_file_that_holds_code_is_refused(tmp_path):
    torch.save({"state_dict": weights.ConfigError}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        build(
            "test_resnet",
            image_shape=(3, 32, 32),
            num_outputs=3,
            weights=str(tmp_path / "weights.pth"),
        )


def test_missing_file_is_refused_before_submission():
    with pytest.raises(ConfigError, match=r"method.weights absent.pth: no such file"):
        weights.find_weights("absent.pth", ["resnet18"])
    weights.find_weights("random", ["resnet18"])


def test_own_network_has_no_imagenet_weights():
    with pytest.raises(ConfigError, match="d4_net has no ImageNet weights"):
        weights.find_weights("imagenet", ["d4_net"])


def test_imagenet_weights_without_network_are_refused_at_once(offline):
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"where it can, run: hf download timm/r"):
        weights.find_weights("imagenet", ["resnet18"])
    with pytest.raises(ConfigError, match=r"hf download timm/resnet18\.a1_in1k model\.safetensors"):
        build("resnet18", image_shape=(1, 32, 32), num_outputs=2, weights="imagenet")
    assert time.monotonic() - began < 10


def test_imagenet_weights_come_from_the_cache(offline):
    repository = timm_module().get_pretrained_cfg("test_resnet").hf_hub_id
    folder = offline / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    source = network(num_outputs=1000)
    saved(folder / "snapshots" / "abc" / "model.safetensors", source)
    weights.find_weights("imagenet", ["test_resnet"])
    found = build("test_resnet", image_shape=(3, 32, 32), num_outputs=2, weights="imagenet").network
    assert torch.equal(found.conv1[0].weight, source.conv1[0].weight)


def test_description_has_the_files_hash(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"lens")
    expected = {"weights": str(path), "weights_sha256": hashlib.sha256(b"lens").hexdigest()}
    assert weights.find_weights(str(path), ["resnet18"]) == expected


def test_check_does_not_import_torch():
    code = (
        "import sys; from lenshpc.models import weights;"
        "from lenshpc.run.networks import check_names;"
        "from lenshpc.tasks.classification.settings import Classification;"
        "check_names(['d4_net'], Classification());"
        "weights.find_weights('random', ['resnet18']); weights.is_reachable;"
        "import huggingface_hub.constants; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_of_variants_are_found_as_well(tmp_path):
    for name in ("base", "other"):
        (tmp_path / f"{name}.pth").write_bytes(name.encode())
    base, other = (str(tmp_path / f"{name}.pth") for name in ("base", "other"))
    recipe = Recipe(
        name="three",
        task="multiclass",
        models=("test_resnet", "test_resnet+same", "test_resnet+other", "d4_net+scratch"),
        method={"weights": base},
        variants={
            "same": {"train.epochs": 2},
            "other": {"method.weights": other},
            "scratch": {"method.weights": "random"},
        },
    )
    found = with_files(recipe)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("base", "other")}
    methods = [found.of(model).method for model in recipe.models]
    assert [(one.weights, one.weights_sha256) for one in methods] == [
        (base, digests["base"]),
        (base, digests["base"]),
        (other, digests["other"]),
        ("random", None),
    ]


def test_missing_file_of_a_variant_is_refused():
    variants = {"other": {"method.weights": "absent.pth"}}
    models = ("test_resnet", "test_resnet+other")
    recipe = Recipe(name="two", task="multiclass", models=models, variants=variants)
    with pytest.raises(ConfigError, match=r"method.weights absent.pth: no such file"):
        with_files(recipe)
