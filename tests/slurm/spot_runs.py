"""Runs of test_resnet on simulated spots: sent, watched, disturbed, compared with undisturbed."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from test_runs import call

from lenshpc.files import sha256
from lenshpc.run.attempts import Event, read_events
from lenshpc.run.paths import MemberPaths, RunPaths
from lenshpc.run.plan import load_plan
from lenshpc.store import Store

SITE = """
scheduler: slurm
partition: {partition}
cpus_per_gpu: 1
mem_gb_per_gpu: 1.9
{more}
"""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained: equal work has equal predictions, whatever happens to it."""

    folds: int = 1
    nodes: int = 1
    epochs: int

    def words(self) -> list[str]:
        """Return it as options of `lenshpc submit`."""
        settings = {"batch_size": 4, "lr": 1e-3, "epochs": self.epochs}
        settings |= {} if self.epochs > 1 else {"warmup_epochs": 0}
        changes = [f"--set=train.{key}={value}" for key, value in settings.items()]
        return ["--folds", str(self.folds), "--nodes", str(self.nodes), *changes]


QUICK = Work(epochs=1)
PAIR = Work(folds=2, epochs=8)
WIDE = Work(nodes=2, epochs=10)


@dataclass(frozen=True)
class Sent:
    """A run that was submitted."""

    run: RunPaths

    @cached_property
    def member_names(self) -> tuple[str, ...]:
        return tuple(member.name for member in load_plan(self.run).members)

    def member(self, index: int = 0) -> MemberPaths:
        return self.run.member(self.member_names[index])

    def queued(self) -> list[tuple[str, str, str]]:
        """Return id, state and nodes of the run's jobs that wait or run."""
        names = f"--name={self.run.name},{self.run.name}-report"
        lines = output(["squeue", "-h", "-r", names, "-o", "%i|%T|%N"]).splitlines()
        return [tuple(line.split("|")) for line in lines]

    def job(self, index: int = 0) -> str:
        """Return the latest job of a member: `123_4`, or `123` of a lone one."""
        return self.status()["members"][index]["job"]

    def status(self) -> dict:
        done = call(self.run.root, "status", str(self.run.root), "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def events(self, job: str) -> list[Event]:
        return read_events(self.run.attempts(job))

    def causes(self, job: str) -> list[str | None]:
        """Return what a job was requeued for by itself."""
        return [event.cause for event in self.events(job) if event.what == "requeued"]

    def wait_for_checkpoint(self, job: str, restart: int = 0) -> None:
        """Wait until an attempt has saved more than what it began from."""

        def has_saved() -> bool:
            saved = [one.restart for one in self.events(job) if one.what == "saved"]
            return saved.count(restart) > 1

        wait_for(has_saved)

    def held(self, job: str, restart: int = 0) -> int:
        """Stop an attempt's rank 0 after its first checkpoint; return its process.

        So it is still there, on a machine of any speed, when something happens to it.
        """
        self.wait_for_checkpoint(job, restart)
        process = process_of(job)
        os.kill(process, signal.SIGSTOP)
        return process

    def wait_for_end(self) -> None:
        """Wait until no job of the run is left, and its report is there."""
        wait_for(lambda: not self.queued())
        told = call(self.run.root, "status", str(self.run.root)).stdout
        assert (self.run.report / "report.html").is_file(), told

    def predictions(self) -> str:
        return sha256(self.run.report / "predictions.parquet")

    def resumed(self) -> list[int]:
        """Resume the run; return the members that were sent."""
        done = call(self.run.root, "resume", str(self.run.root), "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["members"]

    def assert_nothing_was_trained_twice(self, index: int, *jobs: str) -> None:
        """Each attempt, of whatever job, went on from the last checkpoint before it."""
        spans = [span for job in jobs for span in attempted(self.events(job))]
        assert spans[0][0] == (0, 0)
        assert all(begin >= end for (_, end), (begin, _) in pairwise(spans)), spans
        lines = self.member(index).metrics.read_text().splitlines()
        epochs = [json.loads(line)["epoch"] for line in lines]
        assert epochs == list(range(load_plan(self.run).recipe.train.epochs))


def attempted(events: Iterable[Event]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield the first and the last checkpoint of each attempt that came to have one."""
    saved = [event for event in events if event.what == "saved"]
    for restart in sorted({event.restart for event in saved}):
        places = [event.place for event in saved if event.restart == restart]
        yield places[0], places[-1]


def asked(
    folder: Path, store: Store, work: Work, *words: str, partition: str = "batch", more: str = ""
) -> list[str]:
    """Return a submission of the work to a partition; `more` are lines of the site profile."""
    folder.mkdir(exist_ok=True)
    site = folder / f"{partition}.yaml"
    site.write_text(SITE.format(partition=partition, more=more))
    what = ["--task", "multiclass", "--data", str(store.path), "--models", "test_resnet"]
    where = ["--site", f"./{site.name}", "--runs", partition, "--name", "spots"]
    return ["submit", *what, *where, *work.words(), *words]


def submitted(
    folder: Path, store: Store, work: Work, *words: str, partition: str = "batch", more: str = ""
) -> Sent:
    """Send it."""
    command = asked(folder, store, work, *words, partition=partition, more=more)
    done = call(folder, *command, "--json")
    assert done.returncode == 0, done.stderr
    return Sent(RunPaths(Path(json.loads(done.stdout)["run"])))


def output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_for(what: Callable[[], bool], timeout_s: float = 900) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, f"not after {timeout_s} s"
        time.sleep(0.1)


def process_of(job: str, rank: int = 0) -> int:
    """Return the process of a job's rank."""
    array, _, element = job.partition("_")
    named = {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": element}
    wanted = {f"{k}={v}" for k, v in (named if element else {"SLURM_JOB_ID": array}).items()}
    wanted.add(f"SLURM_PROCID={rank}")
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may have ended
            environ = (folder / "environ").read_bytes().decode().split("\0")
            command = (folder / "cmdline").read_bytes()
            if wanted.issubset(environ) and b"-m\0submitit" in command and command[:4] != b"srun":
                return int(folder.name)
    raise AssertionError(f"no rank {rank} of job {job}")


def release(process: int) -> None:
    """Let a stopped process go on, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def release_when_signalled(process: int, number: int = signal.SIGUSR2) -> None:
    """Let a stopped process go on once it has been sent a signal.

    SLURM may do so itself: beside some signals it sends SIGCONT.
    """

    def is_signalled() -> bool:
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:  # it has ended
            return True
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
        return bool(pending >> (number - 1) & 1) or not status["State"].startswith("T")

    wait_for(is_signalled)
    release(process)
