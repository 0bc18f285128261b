"""A run goes on with another number of processes where that is the same training."""

import json
from pathlib import Path

import pytest
from ranks import finish, kill_in_epoch, planned, recipe, start

from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.errors import ConfigError
from lenshpc.run.completion import is_done, read_facts
from lenshpc.run.judging import judge_otherwise
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, load_plan
from lenshpc.run.resizing import resize
from lenshpc.store import Store

WITHOUT_BATCH_NORM = {"models": ["test_convnext"], "folds": 1, "data": {"augment": ["d4"]}}


def losses(run: RunPaths, plan: Plan) -> list[float]:
    """Return the losses of all epochs, of the training and the validation rows."""
    lines = run.member(plan.members[0].name).metrics.read_text().splitlines()
    return [json.loads(line)[key] for line in lines for key in ("train_loss", "val_loss")]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("stage", [None, 1, 2, 3], ids=["ddp", "zero1", "zero2", "zero3"])
def test_member_goes_on_with_another_number_of_processes(
    spots: Store, tmp_path: Path, before: int, now: int, stage: int | None
) -> None:
    zero = {"strategy": "deepspeed", "zero_stage": stage} if stage else {}
    train = {"epochs": 4, "batch_size": 16, "lr": 1e-3, "clip_norm": 0.5, **zero}
    asked = recipe(train=train, resources__gpus_per_node=before, **WITHOUT_BATCH_NORM)
    undisturbed, plan = planned(tmp_path / "undisturbed", spots, asked)
    finish(start([undisturbed], 0, before))
    run, _ = planned(tmp_path / "resized", spots, asked)
    kill_in_epoch(start([run], 0, before), run, plan.members[0].name, 2)
    resized = resize(run, plan, None, now)
    assert resized.fingerprint() == plan.fingerprint()
    assert resized.recipe.resources.world_size == now
    finish(start([run], 0, now))
    # Rounding alone differs: the sums over a batch have other parts.
    assert losses(run, plan) == pytest.approx(losses(undisturbed, plan), rel=1e-4)
    assert is_done(run, load_plan(run), plan.members[0], verify=True)
    assert read_facts(run, plan.members[0])["num_processes"] == now


def test_other_places_of_as_many_processes_are_the_same_training(
    spots: Store, tmp_path: Path
) -> None:
    run, plan = planned(tmp_path, spots, recipe(resources={"nodes": 2, "gpus_per_node": 1}))
    resized = resize(run, plan, 1, 2)
    assert load_plan(run) == resized
    size = resized.recipe.resources
    assert (size.nodes, size.gpus_per_node) == (1, 2)
    prints = [
        (one.fingerprint(), *map(one.member_fingerprint, plan.members)) for one in (plan, resized)
    ]
    assert prints[0] == prints[1]
    judged = judge_otherwise(resized, [("method.test_prior", 0.1)]).plan
    assert list(map(judged.member_fingerprint, plan.members)) == list(prints[0][1:])


def test_batch_norm_of_another_share_of_the_batch_is_refused(spots: Store, tmp_path: Path) -> None:
    run, plan = planned(tmp_path, spots, recipe(folds=1, train__epochs=1))
    run_member(run, 0, Signals())
    with pytest.raises(ConfigError) as refused:
        resize(run, plan, 2, 1)
    assert str(refused.value) == (
        f"test_resnet of run {run.name} has batch norm, which looks at each process's share of the "
        "batch alone; give nodes and GPUs that multiply to 1 processes, or submit the recipe with "
        "the new size"
    )
    assert not run.size.exists()


def test_run_without_weights_and_a_batch_that_cannot_be_shared_out_are_refused(
    spots: Store, tmp_path: Path
) -> None:
    run, plan = planned(tmp_path, spots, recipe(folds=1))
    with pytest.raises(ConfigError, match=r"test_resnet of run .* has no weights yet, so nobody"):
        resize(run, plan, 2, None)
    with pytest.raises(ConfigError) as refused:
        resize(run, plan, 3, None)
    assert str(refused.value) == (
        "train.batch_size 16 cannot be divided among 3 processes; give nodes and GPUs whose "
        "product divides 16"
    )
