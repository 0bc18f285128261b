"""The strategies take the same steps: real processes, real DDP, real DeepSpeed."""

import json
from pathlib import Path

import pytest
from ranks import finish, planned, recipe, start

from lenshpc.store import Store

STRATEGIES = {
    "ddp": {"train__strategy": "ddp"},
    "zero1": {"train__strategy": "deepspeed", "train__zero_stage": 1},
    "zero2": {"train__strategy": "deepspeed", "train__zero_stage": 2},
    "zero3": {"train__strategy": "deepspeed", "train__zero_stage": 3},
}


@pytest.mark.slow
def test_losses_agree_to_six_digits_between_ddp_and_zero(spots: Store, tmp_path: Path) -> None:
    runs = [
        planned(tmp_path, spots, recipe(resources__gpus_per_node=2, **changes))
        for changes in STRATEGIES.values()
    ]
    for run, _ in runs:
        finish(start([run], index=0, world_size=2))
    losses = {}
    for name, (run, plan) in zip(STRATEGIES, runs, strict=True):
        lines = run.member(plan.members[0].name).metrics.read_text().splitlines()
        epochs = [json.loads(line) for line in lines]
        losses[name] = [epoch[key] for epoch in epochs for key in ("train_loss", "val_loss")]
    assert len(losses["ddp"]) == 4
    for name in STRATEGIES:
        assert losses[name] == pytest.approx(losses["ddp"], rel=1e-6), (name, losses)
