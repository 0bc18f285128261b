"""The strategies take the same steps: real processes, real DDP, real DeepSpeed."""

import json
from pathlib import Path

import pytest
from ranks import finish, planned, recipe, start

from lenshpc.store import Store

ZERO = {"train__strategy": "deepspeed", "resources__gpus_per_node": 2}
DDP = {"train__strategy": "ddp", "resources__gpus_per_node": 2}


def losses(folder: Path, store: Store, **changes: object) -> list[float]:
    """Train the first member of a recipe; return training and validation loss of each epoch."""
    asked = recipe(**changes)
    run, plan = planned(folder, store, asked)
    finish(start([run], index=0, world_size=asked.resources.world_size))
    lines = run.member(plan.members[0].name).metrics.read_text().splitlines()
    return [json.loads(line)[key] for line in lines for key in ("train_loss", "val_loss")]


@pytest.mark.slow
def test_losses_agree_to_six_digits_between_ddp_and_zero(spots: Store, tmp_path: Path) -> None:
    ddp = losses(tmp_path, spots, **DDP)
    assert len(ddp) == 4
    for stage in (1, 2, 3):
        zero = losses(tmp_path, spots, **ZERO, train__zero_stage=stage)
        assert zero == pytest.approx(ddp, rel=1e-6), stage


@pytest.mark.slow
def test_losses_of_bf16_agree_between_ddp_and_zero_and_differ_from_fp32(
    spots: Store, tmp_path: Path
) -> None:
    ddp = losses(tmp_path, spots, **DDP, train__precision="bf16")
    zero = losses(tmp_path, spots, **ZERO, train__precision="bf16")
    assert zero == pytest.approx(ddp, rel=1e-2)
    assert ddp != pytest.approx(losses(tmp_path, spots, **DDP), rel=1e-6)


@pytest.mark.slow
def test_two_ranks_give_the_losses_of_one(spots: Store, tmp_path: Path) -> None:
    vit = {"models": ["test_vit"], "method": {"class_weights": "balanced"}}  # no batch norm
    one = losses(tmp_path, spots, **vit, train__strategy="single")
    assert losses(tmp_path, spots, **vit, **DDP) == pytest.approx(one, rel=1e-5)
