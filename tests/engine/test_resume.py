"""A member that is killed goes on as if nothing had happened."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from damage import flip
from ranks import finish, kill_in_epoch, planned, recipe, start

from lenshpc.files import sha256
from lenshpc.run.completion import is_done
from lenshpc.run.paths import MemberPaths
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
@pytest.mark.parametrize(
    ("world_size", "minutes", "kills"),
    [(1, 0, 14), (1, 0.005, 12), (2, 0, 12), (2, 0.005, 12)],
    ids=["single-epochs", "single-interval", "ddp-epochs", "ddp-interval"],
)
def test_member_killed_at_random_moments_ends_with_the_same_weights(
    spots: Store, tmp_path: Path, world_size: int, minutes: float, kills: int
) -> None:
    train = {"epochs": 30, "batch_size": 16, "lr": 1e-3, "checkpoint_min": minutes}
    asked = recipe(train=train, resources__gpus_per_node=world_size)
    undisturbed, plan = planned(tmp_path / "undisturbed", spots, asked)
    disturbed, _ = planned(tmp_path / "disturbed", spots, asked)
    one, other = (run.member(plan.members[1].name) for run in (undisturbed, disturbed))
    finish(start([undisturbed], 1, world_size))
    moments = np.random.default_rng(world_size)
    for attempt in range(kills):
        drafts = set(list_drafts(other))
        ranks = start([disturbed], 1, world_size)
        if attempt % 2:  # while one is written
            wait_until(ranks, lambda known=drafts: set(list_drafts(other)) - known)
            time.sleep(moments.uniform(0, 0.02))
        else:
            begun = attempt + 1
            wait_until(ranks, lambda n=begun: len(list(disturbed.slurm.glob(EVENTS))) >= n)
            time.sleep(moments.uniform(0, 0.6))
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            rank.communicate()
        assert not other.done.exists(), "killed too late"
    finish(start([disturbed], 1, world_size))
    assert sha256(other.weights) == sha256(one.weights)
    assert sha256(other.predictions) == sha256(one.predictions)
    assert _losses(other.metrics) == _losses(one.metrics)


EVENTS = "*_attempts.jsonl"


def list_drafts(paths: MemberPaths) -> list[str]:
    """Return the names of the checkpoints that are being written, or were when it was killed."""
    return [path.name for path in paths.checkpoint.glob(".epoch-*")]


def wait_until(ranks: list[subprocess.Popen[str]], is_so: Callable[[], object]) -> None:
    """Wait until something holds, while all ranks live."""
    deadline = time.monotonic() + 120
    while not is_so():
        assert all(rank.poll() is None for rank in ranks), ranks[0].communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)


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
    told = f"{path} is damaged; training continues from epoch-0001"
    assert [output.count(told) for output in outputs] == [1, 0]
    weights = [sha256(run.member(name).weights) for run in (undisturbed, disturbed)]
    assert weights[0] == weights[1]


def _losses(metrics: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [(line["train_loss"], line["val_loss"]) for line in lines]
