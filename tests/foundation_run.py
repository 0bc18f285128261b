"""Make a small pre-training run whose members' files are drawn, without any training."""

import numpy as np
import zarr
from spots import write_store
from synthetic_run import SyntheticRun, finish

from lenshpc.files import write_json
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import expand, save_plan, scored_rows
from lenshpc.run.recipe import Recipe

SIDE, NUM_ROWS = 32, 120


def make_foundation_run(folder):
    """Return a complete run of two folds whose errors are 0.2 and fillings' 0.8 and 0.4."""
    labels = np.arange(NUM_ROWS) % 2
    store = write_store(folder / "store", labels, ["train"] * 80 + ["test"] * 40)
    vit = {"patch": 8, "width": 24, "depth": 2, "heads": 2}
    recipe = Recipe(
        name="fm",
        task="foundation",
        models=("mae_vit",),
        folds=2,
        method={"vit": vit, "decoder_width": 24, "decoder_heads": 2},
        train={"batch_size": 8},
    )
    plan, splits = expand(recipe, store)
    paths = RunPaths(folder / "runs" / plan.run_name)
    save_plan(paths, plan, splits)
    write_json(paths.provenance, {"command": "lenshpc submit", "git": {"commit": "0" * 40}})
    for member in plan.members:
        asked = scored_rows(plan, splits, member)
        error = 0.2 + 0.1 * asked["label"] + np.where(member.fold, 0.01, -0.01)
        columns = {"loss": error, "mean_error": 0.8, "smooth_error": 0.4}
        arrays = paths.member(member.name).arrays
        arrays.parent.mkdir(parents=True)
        rng = np.random.default_rng(member.index)
        shapes = {"reconstruction": (1, SIDE, SIDE), "mask": (SIDE, SIDE), "embedding": (24,)}
        for name, shape in shapes.items():
            values = rng.random((len(asked), *shape))
            drawn = (values > 0.25).astype("u1") if name == "mask" else values.astype("f2")
            zarr.create_array(arrays, name=name, data=drawn)
        frame = asked[["row", "id", "split"]].assign(**columns)
        finish(paths, plan, member, frame)
    return SyntheticRun(paths, plan, splits)
