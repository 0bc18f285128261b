"""Each recipe that learns from images without classes, at reduced size, from `submit` to report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import finished
from pairs_run import write_pairs
from spots import SIDE, write_store

from lenshpc.engine.load import load_model

JOBS = Path(__file__).parents[2] / "jobs"
REDUCED = {"train.epochs": 2, "train.batch_size": 8}
SMALL_IMAGES = {"data.crop": SIDE, "data.image_size": 16, "method.normal": "class0"}
SMALL_NETWORK = {"method.width": 4, "method.blocks": 1}
RECIPES = {  # folds, seeds, networks beside the recipe's own
    "anomaly": (2, "0", "lens_ae,conv_ae,conv_vae,wae"),
    "foundation_super_resolution": (1, "0", None),
    "super_resolution": (2, "0", "edsr,rcan"),
    "super_resolution_ensemble": (1, "0", None),
    "super_resolution_rcan": (1, "0,1", None),
    "super_resolution_srresnet": (2, "0", None),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of two classes, and one of pairs."""
    folder = tmp_path_factory.mktemp("images")
    write_store(folder / "lenses", np.arange(96) % 2, ["train"] * 72 + ["test"] * 24)
    write_pairs(folder / "pairs")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_goes_from_submission_to_report(recipe: str, place: Path):
    folds, seeds, models = RECIPES[recipe]
    pairs = recipe.endswith("super_resolution") or recipe.startswith("super")
    settings = REDUCED | (SMALL_NETWORK if pairs else SMALL_IMAGES)
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    chosen = ("--folds", str(folds), "--seeds", seeds, *(("--models", models) if models else ()))
    source = ("--recipe", str(JOBS / f"{recipe}.yaml"), "--data", "pairs" if pairs else "lenses")
    code, out, err = finished(place, "submit", *source, *chosen, *changes, "--wait")
    assert code == 0, err
    page = Path(out.removeprefix("report: ").strip())
    report = json.loads(page.with_name("report.json").read_text())

    names = report["recipe"]["models"]
    assert report["missing"] == []
    assert (
        report["num_members"]
        == len(report["members"])
        == len(names) * folds * len(report["recipe"]["seeds"])
    )
    lines = report["models" if pairs else "lines"]
    found = [one["name"].split()[0] for one in lines if one["kind"] == "model"]
    assert found == names
    combined = [name for name in names if "+" not in name]
    assert ("ensemble" in [one["name"] for one in lines]) == (len(combined) > 1)
    if pairs:
        assert report["headline"]["num_covered"] == report["headline"]["num_rows"] == 20
        assert np.isfinite(report["headline"]["gain_db"])
    else:
        assert (report["headline"]["num_normal"], report["headline"]["num_anomalous"]) == (12, 12)
        assert 0 <= report["headline"]["auc"] <= 1
    shape = (1, 32, 32) if pairs else ()
    model = load_model(page.parents[1], 0)
    with torch.no_grad():
        assert model(torch.rand(2, 1, 16, 16)).shape == (2, *shape)


def test_every_recipe_of_images_is_tried():
    tasks = ("task: anomaly\n", "task: super-resolution\n")
    shipped = {
        path.stem for path in JOBS.glob("*.yaml") if any(task in path.read_text() for task in tasks)
    }
    assert shipped == set(RECIPES)
