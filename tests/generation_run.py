"""Make a small diffusion run whose members' images are real ones with known faults."""

import numpy as np
import pandas as pd
import zarr
from pairs_run import rings
from stores import write_rows
from synthetic_run import finish

from lenshpc.files import write_json
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import expand, save_plan, scored_rows
from lenshpc.run.recipe import Recipe
from lenshpc.store import Pixels, StoreSpec, open_store
from lenshpc.tasks.diffusion.feature_extractors import array_name, distances

SIDE, NUM_FEATURES = 16, 6
FAULT = 0.05
IMAGES = ("sample", "real", "blurred")


def make_generation_run(folder, *, folds=2, copies=False, **method):
    """Return paths, Plan, splits and store of a complete run.

    Drawn images are noisy rings of another seed, or, as `copies`, training images themselves.
    """
    images = np.clip(rings(120, SIDE), 0, 1)
    split = np.repeat(["train", "test"], [80, 40])
    ids = [f"{at:03d}.npy" for at in range(len(images))]
    rows = pd.DataFrame({"id": ids, "label": np.arange(120) % 2, "split": split, "group": ids})
    spec = StoreSpec(
        dataset="rings",
        classes=("no", "sub"),
        image=Pixels(shape=(1, SIDE, SIDE), dtype="float32", channels=("g",)),
    )
    write_rows(folder / "store", spec, rows, images)
    store = open_store(folder / "store")
    recipe = Recipe(
        name="rings",
        task="diffusion",
        method={"num_samples": 32, "pixel_range": (-1, 2)} | method,
        models=("unet",),
        folds=folds,
        train={"batch_size": 8},
    )
    plan, splits = expand(recipe, store)
    paths = RunPaths(folder / "runs" / plan.run_name)
    save_plan(paths, plan, splits)
    write_json(paths.provenance, {"command": "lenshpc submit", "git": {"commit": "0" * 40}})
    trained = store.read(np.flatnonzero(store.rows["split"] == "train"))
    for member in plan.members:
        scored = scored_rows(plan, splits, member)
        drawn = np.clip(rings(len(scored), SIDE, seed=5 + member.index), 0, 1) + FAULT
        if copies:
            drawn = trained[np.arange(len(scored)) % len(trained), :, ::-1]
        arrays = {"sample": drawn} | _features(recipe.method, len(scored), member.index)
        for name, values in arrays.items():
            path = paths.member(member.name).arrays
            zarr.create_array(path, name=name, data=np.ascontiguousarray(values))
        frame = scored[["row", "id", "split"]].assign(loss=0.1)
        finish(paths, plan, member, frame)
    return paths, plan, splits, store


def _features(method, num, seed):
    """Return features: real ones are normal, drawn ones are moved by 1, blurred ones by 2."""
    rng = np.random.default_rng(seed)
    return {
        array_name(name, which): (move + rng.normal(size=(num, NUM_FEATURES))).astype(np.float32)
        for name in distances(method.inception)
        for move, which in zip((1, 0, 2), IMAGES, strict=True)
    }
