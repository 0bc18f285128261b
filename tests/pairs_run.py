"""Make a small super-resolution run whose members' images are the truth with known faults."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from stores import write_rows
from synthetic_run import finish

from lenshpc.files import write_json
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, expand, save_plan, scored_rows
from lenshpc.run.recipe import Recipe
from lenshpc.store import Pixels, Store, StoreSpec, open_store

SIDE, SCALE = 32, 2
NOISE, FAULT = 0.004, 0.002


@dataclass(frozen=True)
class PairsRun:
    """A run directory, its Plan, its split manifest and its store of pairs."""

    paths: RunPaths
    plan: Plan
    splits: pd.DataFrame
    store: Store

    def forget(self, index: int) -> None:
        """Take a member's mark of completeness away."""
        self.paths.member(self.plan.members[index].name).done.unlink()


def rings(num: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Return (N, 1, H, W) noisy rings of various radii and arcs upon them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    size = rng.uniform(0.2 * side, 0.35 * side, (num, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (num, 1, 1))
    ring = np.exp(-((radius - size) ** 2) / 8) * (0.7 + 0.3 * np.cos(2 * angle - phase))
    images = ring + rng.normal(0, NOISE, (num, side, side))
    return images[:, None].astype(np.float32)


def halved(images: np.ndarray, scale: int = SCALE) -> np.ndarray:
    """Return the means of blocks of pixels."""
    num, channels, height, width = images.shape
    shape = (num, channels, height // scale, scale, width // scale, scale)
    return images.reshape(shape).mean(axis=(3, 5))


def write_pairs(path: Path, num_train: int = 30, num_test: int = 20) -> Store:
    """Write a store of pairs."""
    high = rings(num_train + num_test)
    split = np.repeat(["train", "test"], [num_train, num_test])
    ids = [f"LR/sample{at:03d}.npy" for at in range(len(high))]
    rows = pd.DataFrame({"id": ids, "label": 0, "split": split, "group": ids})
    low = Pixels(shape=(1, SIDE // SCALE, SIDE // SCALE), dtype="float32", channels=("g",))
    spec = StoreSpec(
        dataset="super_resolution",
        classes=("lens",),
        image=low,
        target=Pixels(shape=(1, SIDE, SIDE), dtype="float32", channels=("g",)),
    )
    write_rows(path, spec, rows, halved(high), targets=high)
    return open_store(path)


def make_pairs_run(
    folder: Path, models: tuple[str, ...] = ("edsr", "rcan"), folds: int = 2
) -> PairsRun:
    """Return a complete run; each member's images are the truth plus a fault of its own."""
    store = write_pairs(folder / "store")
    recipe = Recipe(
        name="pairs", task="super-resolution", models=models, folds=folds, train={"batch_size": 8}
    )
    plan, splits = expand(recipe, store)
    paths = RunPaths(folder / "runs" / plan.run_name)
    save_plan(paths, plan, splits)
    write_json(paths.provenance, {"command": "lenshpc submit", "git": {"commit": "0" * 40}})
    for member in plan.members:
        _finish(paths, plan, splits, member, store)
    return PairsRun(paths, plan, splits, store)


def images_of(store: Store, member: Member, rows: np.ndarray) -> np.ndarray:
    """Return what a member makes of some rows."""
    true = store.read_raw_targets(rows)
    rng = np.random.default_rng(100 + member.index)
    return (true + rng.normal(0, FAULT, true.shape)).astype(np.float32)


def _finish(
    paths: RunPaths, plan: Plan, splits: pd.DataFrame, member: Member, store: Store
) -> None:
    scored = scored_rows(plan, splits, member)
    rows = scored["row"].to_numpy()
    images = images_of(store, member, rows)
    mse = ((images - store.read_raw_targets(rows)) ** 2).mean(axis=(1, 2, 3))
    frame = scored[["row", "id", "split"]].assign(psnr=-10 * np.log10(mse), mse=mse)
    folder = paths.member(member.name).arrays
    array = zarr.create_array(
        folder, name="sr", shape=images.shape, chunks=(8, *images.shape[1:]), dtype="f4"
    )
    array[:] = images
    finish(paths, plan, member, frame)
