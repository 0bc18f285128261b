"""Preemption, time limit, a killed rank, a cancelled member: the predictions are the same bits."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from test_runs import TIMEOUT_S, call

from lenshpc.attempts import Event, read_events
from lenshpc.files import sha256
from lenshpc.paths import RunPaths
from lenshpc.store import Store

SITE = """
scheduler: slurm
partition: {partition}
cpus_per_gpu: 1
mem_gb_per_gpu: 1.9
"""


def submitted(
    folder: Path, store: Store, partition: str, options: str, **train: object
) -> tuple[RunPaths, str]:
    """Submit test_resnet on the spots; return the run and the id of the members' job."""
    (folder / f"{partition}.yaml").write_text(SITE.format(partition=partition))
    settings = {"batch_size": 4, "lr": 1e-3, **train}
    changes = [f"--set=train.{key}={value}" for key, value in settings.items()]
    asked = ["--task", "multiclass", "--data", str(store.path), "--models", "test_resnet"]
    where = ["--site", f"./{partition}.yaml", "--runs", partition, "--name", "spots", "--json"]
    done = call(folder, "submit", *asked, *where, *changes, *options.split())
    assert done.returncode == 0, done.stderr
    run = RunPaths(Path(json.loads(done.stdout)["run"]))
    return run, job_of(run)


def job_of(run: RunPaths) -> str:
    """Return the id of the latest job of a run's members, as SLURM knows it."""
    queue = ["squeue", "-h", "--states=all", f"--name={run.name}", "-o", "%F"]
    return max(output(queue).split(), key=int)


def output(command: list[str]) -> str:
    from conftest import run as run_command

    return run_command(command)


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def places(events: list[Event], restart: int) -> int:
    """Return how many checkpoints an attempt has told of, the one it began from included."""
    return sum(event.what == "saved" and event.restart == restart for event in events)


def kill_rank(job: str, element: str) -> bool:
    """Kill the rank 0 of an element of an array; return whether there was one."""
    wanted = {f"SLURM_ARRAY_JOB_ID={job}", f"SLURM_ARRAY_TASK_ID={element}", "SLURM_PROCID=0"}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().decode().split("\0")
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if wanted.issubset(environ) and b"-m\0submitit" in command and command[:4] != b"srun":
            os.kill(int(folder.name), signal.SIGKILL)
            return True
    return False


def test_two_node_member_preempted_five_times_gets_to_the_end(
    cluster, spots: Store, tmp_path: Path
) -> None:
    options = "--folds 1 --nodes 2"
    calm, calm_job = submitted(tmp_path, spots, "batch", options, epochs=10)
    cluster.wait(calm_job, timeout_s=TIMEOUT_S)
    run, job = submitted(tmp_path, spots, "lowgrace", options, epochs=10)
    attempts = run.attempts(job)
    for restart in range(5):
        wait_for(lambda restart=restart: places(read_events(attempts), restart) > 1)
        other = cluster.sbatch(["-p", "high", "-N4", "--exclusive"], "true")
        cluster.wait(other)
    cluster.wait(job, timeout_s=TIMEOUT_S)

    requeued = [event.cause for event in read_events(attempts) if event.what == "requeued"]
    assert requeued == ["preemption"] * 5
    wait_for((run.report / "report.html").is_file)
    wait_for((calm.report / "report.html").is_file)
    assert predictions(run) == predictions(calm)


def predictions(run: RunPaths) -> str:
    return sha256(run.report / "predictions.parquet")


def test_killed_rank_is_requeued_alone_and_a_cancelled_member_ends_after_one_resume(
    cluster, spots: Store, tmp_path: Path
) -> None:
    calm, _ = submitted(tmp_path, spots, "batch", "--folds 2", epochs=20)
    wait_for((calm.report / "report.html").is_file)
    run, job = submitted(tmp_path, spots, "high", "--folds 2", epochs=20)
    killed, cancelled = run.attempts(f"{job}_0"), run.attempts(f"{job}_1")

    wait_for(lambda: places(read_events(cancelled), 0) > 1)
    output(["scancel", f"{job}_1"])
    wait_for(lambda: places(read_events(killed), 0) > 1 and kill_rank(job, "0"))
    cluster.wait(job, states=["COMPLETED", "CANCELLED"], timeout_s=TIMEOUT_S)
    assert cluster.states(job) == ["CANCELLED", "COMPLETED"]
    causes = [event.cause for event in read_events(killed) if event.what == "requeued"]
    assert causes == ["crash"]
    assert read_events(cancelled)[-1].what == "stopped", "saved when it was cancelled"

    wait_for(lambda: not cluster.squeue())
    done = call(tmp_path, "resume", str(run.root), "--json")
    assert json.loads(done.stdout)["members"] == [1], done.stderr
    wait_for(lambda: not cluster.squeue())
    assert predictions(run) == predictions(calm)


def test_member_that_needs_longer_than_its_time_limit_goes_on_by_itself(
    cluster, spots: Store, tmp_path: Path
) -> None:
    calm, _ = submitted(tmp_path, spots, "batch", "--folds 1", epochs=700)
    limit = "--folds 1 --set resources.time_min=2"
    run, job = submitted(tmp_path, spots, "high", limit, epochs=700)
    cluster.wait(job, timeout_s=TIMEOUT_S)
    requeued = [event.cause for event in read_events(run.attempts(job)) if event.what == "requeued"]
    assert requeued
    assert set(requeued) == {"timeout"}
    wait_for((run.report / "report.html").is_file)
    wait_for((calm.report / "report.html").is_file)
    assert predictions(run) == predictions(calm)
