"""A member that is killed goes on as if nothing had happened."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from damage import flip
from ranks import finish, kill_in_epoch, planned, recipe, start

from lenshpc.files import sha256
from lenshpc.run.completion import is_done
from lenshpc.store import Store


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "changes"),
    [
        (1, {}),
        (2, {"train__strategy": "deepspeed", "train__zero_stage": 2}),
        (2, {"data": {"loading": "stream", "sampling": "balanced", "augment": ["d4", "noise"]}}),
    ],
    ids=["single", "zero2", "stream"],
)
def test_killed_member_ends_with_the_weights_of_an_undisturbed_one(
    spots: Store, tmp_path: Path, world_size: int, changes: dict
) -> None:
    asked = recipe(train__epochs=4, resources__gpus_per_node=world_size, **changes)
    undisturbed, plan = planned(tmp_path / "undisturbed", spots, asked)
    disturbed, _ = planned(tmp_path / "disturbed", spots, asked)
    name = plan.members[1].name
    finish(start([undisturbed], 1, world_size))
    for epoch in (1, 3):
        kill_in_epoch(start([disturbed], 1, world_size), disturbed, name, epoch)
    finish(start([disturbed], 1, world_size))

    one, other = undisturbed.member(name), disturbed.member(name)
    assert sha256(one.weights) == sha256(other.weights)
    pd.testing.assert_frame_equal(
        pd.read_parquet(one.predictions), pd.read_parquet(other.predictions), check_exact=True
    )
    assert _losses(one.metrics) == _losses(other.metrics)
    assert is_done(disturbed, plan, plan.members[1], verify=True)
    assert sorted(path.name for path in other.root.iterdir()) == [
        "arrays.zarr",
        "done.json",
        "metrics.jsonl",
        "model.safetensors",
        "owner",
        "predictions.parquet",
        "progress.json",
        "state.json",
    ]


@pytest.mark.slow
def test_member_killed_at_22_random_moments_ends_with_the_same_weights(
    spots: Store, tmp_path: Path
) -> None:
    asked = recipe(train__epochs=30)
    undisturbed, plan = planned(tmp_path / "undisturbed", spots, asked)
    name = plan.members[1].name
    finish(start([undisturbed], 1))
    expected = sha256(undisturbed.member(name).weights)
    moments = np.random.default_rng(0)
    for trial in range(2):
        disturbed, _ = planned(tmp_path / f"disturbed{trial}", spots, asked)
        for attempt in range(11):
            (rank,) = start([disturbed], 1)
            while len(list(disturbed.slurm.glob("*_attempts.jsonl"))) <= attempt:  # it has begun
                assert rank.poll() is None, rank.communicate()[0]
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.5))
            rank.kill()
            rank.communicate()
            assert not disturbed.member(name).done.exists(), "killed too late"
        finish(start([disturbed], 1))
        assert sha256(disturbed.member(name).weights) == expected


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["rank-0000.pt", "rank-0001.pt"])
def test_killed_member_whose_newest_checkpoint_was_damaged_ends_with_the_same_weights(
    spots: Store, tmp_path: Path, pattern: str
) -> None:
    zero2 = {"train__strategy": "deepspeed", "train__zero_stage": 2}
    asked = recipe(train__epochs=3, resources__gpus_per_node=2, **zero2)
    undisturbed, plan = planned(tmp_path / "undisturbed", spots, asked)
    disturbed, _ = planned(tmp_path / "disturbed", spots, asked)
    name = plan.members[1].name
    finish(start([undisturbed], 1, 2))
    kill_in_epoch(start([disturbed], 1, 2), disturbed, name, 2)
    newest = disturbed.member(name).checkpoint / "epoch-0002"
    path = max(newest.glob(pattern))
    flip(path)
    ranks = start([disturbed], 1, 2)
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)
    told = f"{path} is damaged; training goes on from epoch-0001"
    assert [output.count(told) for output in outputs] == [1, 0]
    weights = [sha256(run.member(name).weights) for run in (undisturbed, disturbed)]
    assert weights[0] == weights[1]


def _losses(metrics: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [(line["train_loss"], line["val_loss"]) for line in lines]
