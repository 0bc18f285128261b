"""A run that is really trained, on images in files: two tiny networks, two folds, a report."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.files import write_json
from lenshpc.launch.sites import load_site
from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import Dataset
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, save_plan
from lenshpc.run.planning import plan_run
from lenshpc.run.recipe import Recipe
from lenshpc.store import Store
from lenshpc.worker import write_report

SIDE = 24
CLASSES = ("plain", "spot")
COUNTS = {"train": 40, "test": 12}  # of each class


@dataclass(frozen=True)
class TrainedRun:
    """A run that is done, with the folder of images and the store that it was trained on."""

    images: Path
    store: Store
    paths: RunPaths
    plan: Plan

    @cached_property
    def report(self) -> pd.DataFrame:
        """Return the merged predictions of the test rows, by row."""
        merged = pd.read_parquet(self.paths.report / "predictions.parquet")
        return merged[merged["split"] == "test"].set_index("row").sort_index()

    @property
    def pixels(self) -> np.ndarray:
        """Return the images of the test rows, in the order of `report`."""
        return self.store.read_raw(self.report.index.to_numpy())


def make_dataset(dtype: str = "float32", bad_pixels: object = "refuse") -> Dataset:
    """Return what the images are."""
    folders = [{"name": name, "train": f"train/{name}", "test": f"test/{name}"} for name in CLASSES]
    image = {"format": "npy", "shape": [1, SIDE, SIDE], "dtype": dtype, "channels": ["grey"]}
    image["bad_pixels"] = bad_pixels
    return Dataset.model_validate({"name": "spots", "image": image, "classes": folders})


def write_images(folder: Path, dtype: str = "float32", seed: int = 0) -> None:
    """Write files of noise, half of them with a spot in the middle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    for split, num in COUNTS.items():
        for label, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for at in range(num):
                image = rng.normal(0.3, 0.1, (1, SIDE, SIDE))
                image += 0.25 * label * np.exp(-(x**2 + y**2) / 30)
                pixels = np.clip(image, 0, 1)
                if dtype == "uint8":
                    pixels = (255 * pixels).round()
                np.save(place / f"{at}.npy", pixels.astype(dtype))


def break_images(folder: Path) -> None:
    """Put NaN and infinity into two of three images, at places of their own."""
    rng = np.random.default_rng(9)
    for at, path in enumerate(sorted(folder.rglob("*.npy"))):
        image = np.load(path)
        image[rng.random(image.shape) < 0.1 * (at % 3)] = np.nan
        image[0, at % SIDE, : at % 3] = -np.inf
        np.save(path, image)


def train_run(
    folder: Path, *, dtype: str = "float32", bad_pixels: object = "refuse", **further: object
) -> TrainedRun:
    """Return a run trained in this process; `further` keys are the recipe's.

    Images have bad pixels where these are filled.
    """
    write_images(folder / "images", dtype)
    if bad_pixels != "refuse":
        break_images(folder / "images")
    store = convert(make_dataset(dtype, bad_pixels), folder / "images", folder / "store")
    given = {
        "name": "spots",
        "task": "multiclass",
        "models": ("test_resnet", "d4_net"),
        "folds": 2,
        "train": {"epochs": 2, "batch_size": 16, "lr": 3e-3},
        "resources": {"gpus_per_node": 0},
        **further,
    }
    planned = plan_run(Recipe.model_validate(given), store, folder / "runs")
    save_plan(planned.paths, planned.plan, planned.splits)
    planned.paths.slurm.mkdir(mode=0o700)
    write_json(planned.paths.site, load_site("local").model_dump(mode="json"))
    for member in planned.plan.members:
        run_member(planned.paths, member.index, Signals())
    write_report(planned.paths)
    return TrainedRun(folder / "images", store, planned.paths, planned.plan)
