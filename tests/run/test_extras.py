"""What cannot be imported is one line: which extra to install, or which versions fit together."""

import os
import subprocess
import sys
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lenshpc.cli.main import main
from lenshpc.data.smote import synthesise
from lenshpc.errors import ConfigError
from lenshpc.files import sha256
from lenshpc.models.backbones import build
from lenshpc.prep.fits import fits_images
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.stacks import count_rows
from lenshpc.run.extras import PACKAGES
from lenshpc.run.plan import expand
from lenshpc.run.recipe import Recipe
from lenshpc.run.sampling import Smote
from lenshpc.tasks.diffusion import feature_extractors
from lenshpc.tasks.diffusion.inception import Inception
from lenshpc.tasks.supervised.explain import class_maps

ROOT = Path(__file__).parents[2]
AUGMENTS = """
import numpy, torch
from lenshpc.data.augment import on_cpu
from lenshpc.data.draws import Warps
from lenshpc.errors import ConfigError
try:
    on_cpu(torch.zeros(2, 1, 8, 8), [Warps(torch.zeros(2, 2, 3))])
except ConfigError as error:
    print(error)
"""


def absent(monkeypatch, extra, use):
    """Return what is told of a use without its package, which can no longer be imported."""
    monkeypatch.setitem(sys.modules, PACKAGES[extra], None)
    with pytest.raises(ConfigError) as error:
        use()
    return str(error.value)


def classification(**method):
    return Recipe(name="x", task="lens-finding", models=("resnet18",), method=method)


def diffusion(**method):
    return Recipe(name="x", task="diffusion", models=("unet",), method=method)


def requirements(listed):
    return [line for line in listed.splitlines() if line]


def test_extras_are_those_of_the_setup_and_none_is_always_installed():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = dict(setup["options.extras_require"])
    assert f"lenshpc[docs,{','.join(PACKAGES)}]" in requirements(extras.pop("dev"))
    del extras["docs"]  # of a clone, never of a run
    assert set(extras) == set(PACKAGES)
    always = {line.split(">")[0] for line in requirements(setup["options"]["install_requires"])}
    owners = metadata.packages_distributions()
    for extra, package in PACKAGES.items():
        names = {line.split(">")[0] for line in requirements(extras[extra])}
        (owner,) = owners[package]
        assert owner.replace("_", "-") in names
        assert not names & always


@pytest.mark.parametrize(
    ("extra", "recipe", "told"),
    [
        (
            "smote",
            classification(smote={}),
            "method.smote needs imblearn, which is not installed; install it with: pip install "
            "'lenshpc[smote]'",
        ),
        (
            "fid",
            diffusion(inception="weights.pth"),
            "method.inception needs torch_fidelity, which is not installed; install it with: pip "
            "install 'lenshpc[fid]'",
        ),
    ],
)
def test_a_recipe_is_refused_before_anything_is_sent(spots, monkeypatch, extra, recipe, told):
    assert absent(monkeypatch, extra, lambda: expand(recipe, spots)) == told


def test_a_recipe_without_the_option_needs_no_extra(spots, monkeypatch):
    for package in PACKAGES.values():
        monkeypatch.setitem(sys.modules, package, None)
    assert len(expand(classification(), spots)[0].members) == 5


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_tracker_is_refused_before_anything_is_sent(spots, monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    monkeypatch.chdir(tmp_path)
    command = ["submit", "--task", "multiclass", "--data", str(spots.path), "--track", name]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, done.stdout, done.stderr, list(tmp_path.iterdir())) == (
        2,
        "",
        f"lenshpc: tracking by {name} needs {name}, which is not installed; install it with: pip "
        f"install 'lenshpc[{name}]'\n",
        [],
    )


@pytest.mark.parametrize(
    ("form", "use", "told"),
    [
        (
            "fits",
            lambda image: fits_images("1.fits", b"SIMPLE  =", image),
            "FITS needs astropy, which is not installed; install it with: pip install "
            "'lenshpc[fits]'",
        ),
        (
            "hdf5",
            lambda image: count_rows(__file__, image),
            "HDF5 needs h5py, which is not installed; install it with: pip install 'lenshpc[hdf5]'",
        ),
    ],
)
def test_a_format_names_its_extra(monkeypatch, form, use, told):
    image = ImageFormat(
        format=form,
        shape=(1, 8, 8),
        dtype="uint8",
        channels=("i",),
        key="images" if form == "hdf5" else None,
    )
    assert absent(monkeypatch, form, lambda: use(image)) == told


def test_a_job_without_the_package_names_its_extra(monkeypatch, tmp_path):
    labels = np.array([0, 0, 1])
    told = absent(
        monkeypatch,
        "smote",
        lambda: synthesise(
            np.arange(3), labels, lambda rows: np.zeros((len(rows), 4)), Smote(), num_rows=3, seed=0
        ),
    )
    assert told.endswith("install it with: pip install 'lenshpc[smote]'")
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"these pass for the published ones")
    monkeypatch.setattr(feature_extractors, "INCEPTION_SHA256", sha256(weights))
    told = absent(monkeypatch, "fid", lambda: Inception(str(weights)))
    assert told.endswith("install it with: pip install 'lenshpc[fid]'")


def test_maps_of_where_a_network_looks_name_their_extra(monkeypatch):
    model = build("test_resnet", image_shape=(1, 32, 32), num_outputs=2).eval()
    told = absent(monkeypatch, "explain", lambda: class_maps(model, {"image": torch.zeros(1)}))
    assert told == (
        "Grad-CAM needs captum, which is not installed; install it with: pip install "
        "'lenshpc[explain]'"
    )


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("raise ImportError('no name reshape')", "ImportError: no name reshape"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
    ],
)
def test_a_package_that_cannot_be_imported_is_one_line(tmp_path, module, told):
    (tmp_path / "albumentations").mkdir()
    (tmp_path / "albumentations" / "__init__.py").write_text(module)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", AUGMENTS]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == (
        f"albumentations cannot be imported ({told}); install compatible versions with: pip "
        "install -c constraints.txt lenshpc\n"
    )
