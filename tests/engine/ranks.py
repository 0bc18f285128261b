"""Run members as real processes, the way a scheduler starts them: an environment a rank."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, expand, save_plan
from lenshpc.run.recipe import Recipe
from lenshpc.store import Store

_JOBS = itertools.count(1)
SCRIPT = """
import sys
from lenshpc.worker import run_member
for root in sys.argv[2:]:
    run_member(root, int(sys.argv[1]))
"""


def recipe(**changes: object) -> Recipe:
    """Return a recipe of seconds: `train__lr=…` changes `train.lr`."""
    value: dict = {
        "name": "spots",
        "task": "multiclass",
        "models": ["test_resnet"],
        "folds": 3,
        "data": {"augment": ["d4"]},
        "train": {"epochs": 2, "batch_size": 16, "lr": 1e-3, "clip_norm": 0.5},
        "resources": {"gpus_per_node": 1},
    }
    for key, change in changes.items():
        section, _, leaf = key.partition("__")
        value[section] = {**value[section], leaf: change} if leaf else change
    return Recipe.model_validate(value)


def planned(folder: Path, store: Store, asked: Recipe) -> tuple[RunPaths, Plan]:
    """Write the run directory of a recipe."""
    plan, splits = expand(asked, store)
    run = RunPaths(folder / plan.run_name)
    save_plan(run, plan, splits)
    run.slurm.mkdir(mode=0o700, exist_ok=True)  # as a submission leaves it
    return run, plan


def start(
    runs: list[RunPaths],
    index: int,
    world_size: int = 1,
    script: str = SCRIPT,
    log: int = subprocess.PIPE,
) -> list[subprocess.Popen[str]]:
    """Start the ranks of a member of each run, one run after the other.

    They write to a pipe each, or all to the file of that descriptor.
    """
    command = [sys.executable, "-c", script, str(index), *(str(run.root) for run in runs)]
    return start_ranks(command, world_size, log)


def start_ranks(
    command: list[str], world_size: int, log: int = subprocess.PIPE
) -> list[subprocess.Popen[str]]:
    """Start a command as each of some ranks."""
    shared = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": str(next(_JOBS)),
        "SUBMITIT_LOCAL_NTASKS": str(world_size),
    }
    return [
        subprocess.Popen(
            command,
            env={
                **shared,
                "SUBMITIT_LOCAL_GLOBALID": str(rank),
                "SUBMITIT_LOCAL_LOCALID": str(rank),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]


def finish(ranks: list[subprocess.Popen[str]]) -> None:
    """Wait for all ranks; fail with their output if one failed."""
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), "\n".join(outputs)


def kill_in_epoch(
    ranks: list[subprocess.Popen[str]], run: RunPaths, member: str, epoch: int
) -> None:
    """Kill all ranks with SIGKILL as soon as that epoch's checkpoint lies there."""
    wanted = run.member(member).checkpoint / f"epoch-{epoch:04d}"
    deadline = time.monotonic() + 120
    while not wanted.is_dir():
        assert all(rank.poll() is None for rank in ranks), ranks[0].communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
        rank.communicate()
