"""Initial weights: from a file, from the hub's cache, or one line that says what to do."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from networks import build
from safetensors.torch import save_file

from lenshpc.errors import ConfigError, DataError
from lenshpc.models import weights
from lenshpc.models.importing import timm_module
from lenshpc.run.planning import with_files
from lenshpc.run.recipe import Recipe

REPOSITORY = "hf-hub:zoo/galaxies"


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
    with pytest.raises(
        ConfigError, match=r"on a machine that can reach it, run: hf download timm/r"
    ):
        weights.find_weights("imagenet", ["resnet18"])
    with pytest.raises(ConfigError, match=r"hf download timm/resnet18\.a1_in1k;"):
        build("resnet18", image_shape=(1, 32, 32), num_outputs=2, weights="imagenet")
    assert time.monotonic() - began < 10


def cached(hub, repository, source, name="model.safetensors", **config):
    """Put a repository into the hub's cache, as `hf download` leaves it; return its weights."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text(json.dumps(config))
    return Path(saved(folder / "snapshots" / "abc" / name, source))


def test_imagenet_weights_come_from_the_cache(offline):
    repository = timm_module().get_pretrained_cfg("test_resnet").hf_hub_id
    source = network(num_outputs=1000)
    cached(offline, repository, source)
    weights.find_weights("imagenet", ["test_resnet"])
    found = build("test_resnet", image_shape=(3, 32, 32), num_outputs=2, weights="imagenet").network
    assert torch.equal(found.conv1[0].weight, source.conv1[0].weight)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_of_a_repository_come_from_the_cache_without_a_network(offline, name):
    source = network(num_outputs=7)
    path = cached(offline, "zoo/galaxies", source, name, architecture="test_resnet")
    noted = weights.find_weights(REPOSITORY, ["test_resnet"])
    assert noted == {"weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    asked = {"image_shape": (3, 32, 32), "num_outputs": 2, "weights": REPOSITORY, **noted}
    found = build("test_resnet", **asked).network.state_dict()
    given = source.state_dict()
    assert [key for key in given if not torch.equal(given[key], found[key])] == [
        "fc.weight",
        "fc.bias",
    ]

    saved(path, network(num_outputs=8))
    with pytest.raises(DataError, match="hf-hub:zoo/galaxies has changed since the run was submi"):
        build("test_resnet", **asked)


def test_safetensors_of_a_repository_are_preferred(offline):
    source = network()
    path = cached(offline, "zoo/galaxies", source, architecture="test_resnet")
    (path.parent / "pytorch_model.bin").write_bytes(b"code")
    assert weights.weights_file(REPOSITORY) == path


def test_repository_that_holds_code_is_refused(offline):
    path = cached(offline, "zoo/galaxies", network(), "pytorch_model.bin", architecture="test_vit")
    torch.save({"state_dict": weights.ConfigError}, path)
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        build("test_vit", image_shape=(3, 32, 32), num_outputs=3, weights=REPOSITORY)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            {"architecture": "test_vit"},
            "hf-hub:zoo/galaxies holds weights of test_vit, not of test_resnet; use --models "
            "test_vit, or a variant with other method.weights",
        ),
        (
            {"model_type": "bert"},
            "hf-hub:zoo/galaxies is not a timm repository: its config.json names no architecture; "
            "give one that does, or a file's path as method.weights",
        ),
    ],
)
def test_repository_of_another_network_is_refused_by_planning(offline, config, told):
    cached(offline, "zoo/galaxies", network(), **config)
    recipe = Recipe(
        name="hub", task="multiclass", models=("test_resnet",), method={"weights": REPOSITORY}
    )
    with pytest.raises(ConfigError) as caught:
        with_files(recipe)
    assert str(caught.value) == told


def test_repository_that_is_nowhere_is_told_with_the_command_that_gets_it(offline, monkeypatch):
    monkeypatch.setenv("HF_HOME", "/shared/hub")
    with pytest.raises(ConfigError) as caught:
        weights.find_weights(REPOSITORY, ["test_resnet"])
    assert str(caught.value) == (
        "zoo/galaxies has no config.json in the cache (HF_HOME /shared/hub), and the hub cannot "
        "be reached; on a machine that can reach it, run: hf download zoo/galaxies; then set "
        "HF_HOME to that cache, or give a file's path as method.weights"
    )


@pytest.mark.parametrize("name", ["zoo", "../zoo/x", "zoo/x/model.safetensors", "zoo/x@main"])
def test_name_that_is_no_repository_is_refused(name):
    method = {"weights": f"hf-hub:{name}"}
    with pytest.raises(ValueError, match="expected random, imagenet, hf-hub:ORG/NAME, or the path"):
        Recipe(name="hub", task="multiclass", models=("test_resnet",), method=method)


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
