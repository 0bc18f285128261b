"""The real SLURM cluster as a fixture; a test that asks for ``cluster`` is a ``slurm`` test.

Run them inside a sandbox: slurm/cluster.sh sandbox .venv/bin/pytest -m slurm tests/slurm
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from spot_runs import Work, submitted

from lenshpc.store import Store

SCRIPT = Path(__file__).parents[2] / "slurm" / "cluster.sh"
HOW = "slurm/cluster.sh sandbox .venv/bin/pytest -m slurm tests/slurm"
FIELDS = ("JobID", "JobName", "State", "ExitCode", "NodeList", "AllocTRES")


@pytest.hookimpl(tryfirst=True)  # before -m deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slurm)


def run(command: Sequence[str | Path], **options) -> str:
    """Return the command's output; what it said on stderr goes into the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command} ended {done.returncode}: {done.stderr}{done.stdout}"
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster around this pytest; jobs run in ``folder``."""

    folder: Path

    def run(self, verb: str, *args: object) -> str:
        """Call cluster.sh: ``run("crash", 2)``."""
        return run([SCRIPT, verb, *map(str, args)])

    def sbatch(self, args: Sequence[str], script: str) -> str:
        """Submit the lines of a bash script; return the job's id."""
        command = ["sbatch", "--parsable", *args]
        return run(command, cwd=self.folder, input=f"#!/bin/bash\n{script}\n").strip()

    def sacct(self, job: str, *options: str) -> list[dict[str, str]]:
        """Return a row for each array element, and with ``--duplicates`` for each attempt."""
        command = ["sacct", "-X", "-n", "-P", "-j", job, "-o", ",".join(FIELDS), *options]
        return [
            dict(zip(FIELDS, line.split("|"), strict=True)) for line in run(command).splitlines()
        ]

    def describe(self, job: str) -> dict[str, str]:
        """Return what slurmctld knows of a job or an array element, by its own keys."""
        words = run(["scontrol", "-o", "show", "job", job]).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def squeue(self, *options: str) -> list[tuple[str, str, str]]:
        """Return id, state and reason of each job in the queue, array elements one by one."""
        lines = run(["squeue", "-h", "-r", "-o", "%i|%T|%r", *options]).splitlines()
        return [tuple(line.split("|")) for line in lines]

    def states(self, job: str) -> list[str]:
        """Return the sorted states of the job's elements, finished ones too, as slurmctld says."""
        return sorted(state for _, state, _ in self.squeue("--states=all", "--jobs", job))

    def wait(
        self,
        jobs: str | Iterable[str],
        states: Iterable[str] = ("COMPLETED",),
        timeout_s: int = 300,
    ) -> None:
        """Wait until each element of each job is in one of the states, and sacct agrees."""
        jobs, states = [jobs] if isinstance(jobs, str) else list(jobs), set(states)
        end = time.monotonic() + timeout_s
        while not all(self.has_reached(job, states) for job in jobs):
            found = {job: self.states(job) for job in jobs}
            assert time.monotonic() < end, f"after {timeout_s} s {found}, not {states}"
            time.sleep(0.2)

    def has_reached(self, job: str, states: set[str]) -> bool:
        """Compare with sacct, which lags by seconds; it has one row for all pending elements."""
        found = self.states(job)
        in_sacct = sorted(row["State"].split()[0] for row in self.sacct(job))
        return states.issuperset(found) and (in_sacct == found or "PENDING" in states)


def is_inside_sandbox() -> bool:
    """Tell the cluster of cluster.sh from a site's own, which no test may touch."""
    lab, conf = os.environ.get("LENSHPC_LAB_DIR"), os.environ.get("SLURM_CONF")
    return bool(lab and conf) and Path(conf).is_file() and Path(conf).is_relative_to(lab)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if not is_inside_sandbox():
        pytest.skip(f"needs the cluster; run: {HOW}")
    lab = Cluster(folder=tmp_path)
    yield lab
    lab.run("reset")


@pytest.fixture(scope="session")
def undisturbed(spots: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Work], str]:
    """Return the hash of the predictions that a work has if nothing happens; trained once."""

    @cache
    def predictions(work: Work) -> str:
        calm = submitted(tmp_path_factory.mktemp("calm"), spots, work)
        calm.wait_for_end()
        return calm.predictions()

    return predictions
