"""An attempt that was given up for lost, and lives on beside the next, writes nothing more."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from ranks import finish, planned, recipe, start

from lenshpc.data.batches import Batch
from lenshpc.data.fold import open_fold
from lenshpc.engine.distributed import Process
from lenshpc.engine.lease import Lease, Superseded
from lenshpc.engine.predictions import write_predictions
from lenshpc.run.completion import is_done
from lenshpc.run.plan import load_splits
from lenshpc.store import Store


def test_error_counts_for_nothing_once_a_later_attempt_has_taken_over(tmp_path: Path) -> None:
    first, second = (Lease(tmp_path / "owner", f"7_1.{restart}") for restart in range(2))
    with pytest.raises(OSError, match="disk is gone"), first.hold():
        raise OSError("disk is gone")
    with (
        pytest.raises(Superseded, match=r"attempt 7_1\.1 has taken over from 7_1\.0"),
        first.hold(),
        second.hold(),
    ):
        raise OSError("disk is gone")


def test_replaced_attempt_publishes_no_predictions(spots: Store, tmp_path: Path) -> None:
    run, plan = planned(tmp_path, spots, recipe())
    paths, cpu = run.member(plan.members[0].name), torch.device("cpu")
    paths.root.mkdir(parents=True)

    def infer(batch: Batch) -> dict[str, torch.Tensor]:
        with Lease(paths.owner, "7_1.1").hold():
            return {"score": torch.zeros(len(batch["row"])), "map": batch["image"]}

    lease, splits = Lease(paths.owner, "7_1.0"), load_splits(run, plan)
    with (
        open_fold(plan, plan.members[0], splits, spots, cpu) as data,
        pytest.raises(Superseded),
        lease.hold(),
    ):
        write_predictions(paths, infer, data, Process(), lease, size=16)
    assert [path.name for path in paths.root.iterdir() if not path.name.startswith(".")] == [
        "owner"
    ]


@pytest.mark.slow
def test_replaced_attempt_ends_quietly_and_leaves_the_files_alone(
    spots: Store, tmp_path: Path
) -> None:
    run, plan = planned(tmp_path, spots, recipe(train__epochs=20))
    member = run.member(plan.members[0].name)
    (late,) = start([run], 0)
    end = time.monotonic() + 300
    while not list(member.checkpoint.glob("epoch-*")):
        assert time.monotonic() < end
        time.sleep(0.01)
    late.send_signal(signal.SIGSTOP)
    finish(start([run], 0))
    before = {path: path.stat().st_mtime_ns for path in member.root.rglob("*")}
    os.kill(late.pid, signal.SIGCONT)
    told, _ = late.communicate(timeout=300)
    assert late.returncode == 0, told
    assert "has taken over from" in told.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in member.root.rglob("*")} == before
    assert is_done(run, plan, plan.members[0], verify=True)
