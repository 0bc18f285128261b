"""Each recipe that generates images, at reduced size, from `submit` to report."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import finished
from spots import write_store

JOBS = Path(__file__).parents[2] / "jobs"
REDUCED = {
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.warmup_epochs": 0,
    "train.precision": "fp32",
    "resources.nodes": 1,
    "data.image_size": 16,
    "method.width": 8,
    "method.multipliers": "[1,2]",
    "method.blocks": 1,
    "method.sampling_steps": 4,
    "method.pixel_range": "[-0.5,2]",
    "method.num_samples": 16,
}
RECIPES = ("diffusion", "diffusion_conditional")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of two classes."""
    folder = tmp_path_factory.mktemp("generation")
    write_store(folder / "lenses", np.arange(72) % 2, ["train"] * 48 + ["test"] * 24)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_goes_from_submission_to_report(recipe: str, place: Path):
    changes = [word for key, value in REDUCED.items() for word in ("--set", f"{key}={value}")]
    source = ("--recipe", str(JOBS / f"{recipe}.yaml"), "--data", "lenses", "--folds", "2")
    code, out, err = finished(place, "submit", *source, *changes, "--wait")
    assert code == 0, err
    page = Path(out.removeprefix("report: ").strip())
    report = json.loads(page.with_name("report.json").read_text())

    assert report["missing"] == []
    kinds = [(one["kind"], one["split"], one["num_rows"]) for one in report["lines"]]
    of_members = [("member", split, 16) for split in ("oof", "test")] * 2
    assert kinds == [*of_members, ("model", "test", 16)]
    names = [one["name"] for one in report["lines"][-1]["measures"]]
    assert names[-3:] == ["pixels", "radial profile", "power spectrum"]
    assert report["headline"]["over_floor"] > 0
    assert {"FD-lens"} <= set(report["networks"])
    assert len(report["networks"]["FD-lens"]["sha256"]) == 64
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert {"walk_01.gif", "grid_sample_01.png", "nearest_01.png"} <= figures
    assert "FID" not in page.with_name("report.md").read_text().replace("not the FID", "")


def test_every_recipe_of_generation_is_tried():
    shipped = {path.stem for path in JOBS.glob("*.yaml") if "task: diffusion\n" in path.read_text()}
    assert shipped == set(RECIPES)
