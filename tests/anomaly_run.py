"""Make a small anomaly run whose members' files are drawn, without any training."""

from pathlib import Path

import numpy as np
import zarr
from spots import SIDE, write_store
from synthetic_run import SyntheticRun, finish

from lenshpc.files import write_json
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import expand, save_plan, scored_rows
from lenshpc.run.recipe import Recipe
from lenshpc.store import Store

NUM_TRAIN, NUM_TEST = 80, 60


def make_store(folder: Path) -> Store:
    """Return a store of two classes by turns, the first of which is learnt."""
    labels = np.arange(NUM_TRAIN + NUM_TEST) % 2
    return write_store(folder / "store", labels, ["train"] * NUM_TRAIN + ["test"] * NUM_TEST)


def make_run(
    folder: Path, *, models: tuple[str, ...] = ("conv_ae", "wae"), folds: int = 2
) -> SyntheticRun:
    """Return a complete run; scores of other classes lie two deviations above the normal ones.

    Each member has a scale of its own, which merging has to take away.
    """
    recipe = Recipe(
        name="strange",
        task="anomaly",
        models=models,
        folds=folds,
        data={"crop": 24},
        train={"batch_size": 8},
    )
    plan, splits = expand(recipe, make_store(folder))
    paths = RunPaths(folder / "runs" / plan.run_name)
    save_plan(paths, plan, splits)
    write_json(paths.provenance, {"command": "lenshpc submit", "git": {"commit": "0" * 40}})
    for member in plan.members:
        asked = scored_rows(plan, splits, member).reset_index(drop=True)
        rng = np.random.default_rng(member.index)
        drawn = (1 + member.index) * (rng.normal(size=len(asked)) + 2 * asked["label"])
        names = ("mse", "rel_mse", "ssim_error")
        columns = {"loss": drawn} | dict.fromkeys(names, drawn)
        columns |= {f"rot90_{name}": drawn + 0.1 * rng.normal(size=len(asked)) for name in names}
        frame = asked[["row", "id", "split"]].assign(
            **{name: values.astype(np.float32) for name, values in columns.items()}
        )
        _write_reconstructions(paths.member(member.name).arrays, len(asked))
        finish(paths, plan, member, frame)
    assert SIDE >= 24
    return SyntheticRun(paths, plan, splits)


def _write_reconstructions(path: Path, num_rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((num_rows, 1, 24, 24), 0.3, np.float16)
    zarr.create_array(path, name="reconstruction", data=values)
