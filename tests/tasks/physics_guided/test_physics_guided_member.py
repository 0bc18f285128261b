"""Members with lenses as real processes: two ranks, what the files keep, and what is redrawn."""

import numpy as np
import pandas as pd
import pytest
from ranks import finish, planned, recipe, start

from lenshpc.run.plan import scored_rows
from lenshpc.run.recipe import Recipe
from lenshpc.store import Store
from lenshpc.tasks.physics_guided.reconstruct import reconstruct

PHYSICS = {"pixel_scale_arcsec": 0.2, "source_side": 8, "curriculum": (0.0, 0.5)}


def guided(world_size: int, **changes: object) -> Recipe:
    """Return a recipe of a lens and feature SMOTE, without dropped or augmented pixels."""
    method = {"physics": PHYSICS, "smote": {"space": "feature"}}
    return recipe(
        task="physics-guided",
        method=method,
        data__augment=[],
        resources__gpus_per_node=world_size,
        **changes,
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed"])
def test_two_ranks_learn_what_one_does(tmp_path, spots: Store, strategy: str):
    found = {}
    for world_size, how in ((1, "single"), (2, strategy)):
        asked = guided(world_size, train__strategy=how, models=["test_vit"], train__epochs=1)
        run, plan = planned(tmp_path, spots, asked)
        finish(start([run], 0, world_size))
        files = run.member(plan.members[0].name)
        frame = pd.read_parquet(files.predictions)
        assert frame["theta_e_arcsec"].between(0.5, 2.0).all()
        found[world_size] = frame
    names = ["logp_0", "logp_1", "theta_e_arcsec", "gamma1", "physics_loss"]
    np.testing.assert_allclose(found[2][names], found[1][names], atol=2e-3)


@pytest.mark.slow
def test_finished_member_redraws_rows_of_the_store(tmp_path, spots: Store):
    run, plan = planned(tmp_path, spots, guided(1))
    finish(start([run], 0))
    member = plan.members[0]
    splits = pd.read_parquet(run.splits)
    rows = scored_rows(plan, splits, member)["row"].to_numpy()[[5, 1]]
    found = reconstruct(plan, run, member, rows)
    shapes = {name: values.shape for name, values in found.items()}
    assert shapes == {"light": (2, 32, 32), "render": (2, 32, 32), "source": (2, 8, 8)}
    again = reconstruct(plan, run, member, rows[::-1])
    np.testing.assert_allclose(again["render"], found["render"][::-1], atol=1e-5)
