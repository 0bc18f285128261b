"""A finished run of a network with lenses and of its plain variant, without any training."""

from pathlib import Path

import numpy as np
import pandas as pd
from synthetic_run import SyntheticRun, make_run

MODELS = ("resnet18", "resnet18+plain")
PLAIN = {"plain": {"method.physics": None}}
LENS = ("theta_e_arcsec", "centre_x_arcsec", "centre_y_arcsec", "gamma1", "gamma2")


def make_lenses_run(folder: Path, numbers: dict | None = None) -> SyntheticRun:
    """Return a run of two folds and three seeds; members of the first model have lenses.

    The Einstein radius of row r is 1 + r / 1000 and a member's own deviate.
    """
    run = make_run(
        folder,
        task="physics-guided",
        models=MODELS,
        folds=2,
        seeds=(0, 1, 2),
        variants=PLAIN,
        numbers=numbers,
    )
    for member in run.plan.members:
        if member.model == MODELS[0]:
            run.finish(member.index, with_lenses(run.predictions(member.index), member.index))
    return run


def with_lenses(frame: pd.DataFrame, index: int) -> pd.DataFrame:
    """Return predictions with the columns of lenses."""
    rng = np.random.default_rng(index)
    columns = {name: rng.normal(0, 0.05, len(frame)) for name in LENS}
    columns["theta_e_arcsec"] += 1 + frame["row"].to_numpy() / 1000
    columns["physics_loss"] = rng.uniform(size=len(frame))
    return frame.assign(**{name: values.astype(np.float32) for name, values in columns.items()})
