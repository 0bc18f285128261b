"""Each classification recipe that ships, at reduced size, from `submit` to `aggregate`."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import finished
from safetensors.torch import save_file
from spots import write_store

from lenshpc.models.importing import declare_missing_torchvision_ops

REDUCED = {"data.image_size": 32, "train.epochs": 2, "train.batch_size": 16}
RECIPES = {  # folds, and the words that reduce it further
    "lens_finding": (2, {}),
    "lens_finding_smote_kfold": (2, {}),
    "lens_finding_weighted_bce": (1, {}),
    "lens_finding_ensemble": (1, {}),
    "lens_finding_fixmatch": (1, {"method.consistency.ratio": 1}),
    "lens_finding_best": (1, {"train.warmup_epochs": 1}),
    "multiclass": (2, {}),
    "multiclass_convnextv2": (1, {"method.weights": "convnextv2_tiny.safetensors"}),
    "multiclass_resnet18": (1, {"method.weights": "resnet18.safetensors"}),
    "multiclass_best": (1, {"train.warmup_epochs": 1}),
    "multiclass_transformers": (1, {"train.warmup_epochs": 1, "method.weights": "random"}),
    "slc_two_classes": (2, {}),
    "physics_guided": (
        1,
        {"data.crop": 32, "method.physics.pixel_scale_arcsec": 0.2, "train.warmup_epochs": 0},
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with stores of few lenses, of three classes, and with initial weights."""
    folder = tmp_path_factory.mktemp("recipes")
    parts = ["train"] * 72 + ["test"] * 24
    rare = np.where(np.arange(96) % 4 == 0, 1, 0)
    unlabelled = np.full(16, -1)
    write_store(folder / "lenses", np.append(rare, unlabelled), parts + ["unlabelled"] * 16)
    write_store(folder / "three", np.arange(96) % 3, parts)
    declare_missing_torchvision_ops()
    import timm

    for name in ("convnextv2_tiny", "resnet18"):
        weights = timm.create_model(name, num_classes=0).state_dict()
        save_file(weights, folder / f"{name}.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_goes_from_submission_to_report(recipe: str, place: Path):
    folds, further = RECIPES[recipe]
    settings = {**REDUCED, **further}
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    store = "lenses" if recipe.startswith("lens") else "three"
    asked = ("submit", "--recipe", recipe, "--data", store, "--folds", str(folds), *changes)
    code, out, err = finished(place, *asked, "--wait")
    assert code == 0, err
    written = Path(out.removeprefix("report: ").strip()).with_name("report.json")
    report = json.loads(written.read_text())

    num = len(report["recipe"]["models"]) * len(report["recipe"]["seeds"])
    assert report["missing"] == []
    assert report["num_members"] == len(report["members"]) == num * folds
    assert [one["name"] for one in report["models"] if one["kind"] == "model"] == (
        report["recipe"]["models"]
    )
    assert {one["test"]["num_rows"] for one in report["models"]} == {24}
    assert ("variants" in report) == ("lens_parameters" in report) == (recipe == "physics_guided")
    assert 0 <= report["headline"]["auc"] <= 1
    part = "took part" if recipe == "lens_finding_fixmatch" else "took no part"
    page = written.with_suffix(".md").read_text()
    assert (f"16 more images without a label {part} in the training." in page) == (
        store == "lenses"
    )

    code, out, err = finished(place, "aggregate", report["run"], "--json")
    assert code == 0, err
    again = json.loads(out)
    assert {**again, "created": None} == {**report, "created": None}


def test_every_classification_recipe_is_tried():
    jobs = Path(__file__).parents[2] / "jobs"
    tasks = ("task: lens-finding\n", "task: multiclass\n", "task: physics-guided\n")
    shipped = {
        path.stem for path in jobs.glob("*.yaml") if any(task in path.read_text() for task in tasks)
    }
    assert shipped == {*RECIPES, "foundation_classification"}  # see test_foundation_recipes.py
