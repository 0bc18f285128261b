"""A study on the real cluster: preempted, robbed of a node, resumed, and found to be the same."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from spot_runs import SITE, output, process_of, release_when_signalled, wait_for
from test_runs import call

from lenshpc.launch.jobs import records
from lenshpc.run.attempts import read_events
from lenshpc.store import Store
from lenshpc.tuning.boards import read_trials
from lenshpc.tuning.study import Study

pytestmark = pytest.mark.slow
KEYS = "search.keys={train.lr: {log: [1e-4, 1e-1]}, train.clip_norm: {float: [0, 1]}}"


@dataclass(frozen=True)
class SentStudy:
    """A study of 12 trials in rounds of 4, on the cluster."""

    study: Study

    def points(self) -> list:
        return [(one.number, one.values, one.state, one.value) for one in read_trials(self.study)]

    def jobs(self) -> list[str]:
        return [job.job_id for job in records(self.study.base)]

    def queued(self) -> list[str]:
        ids = ",".join(self.jobs())
        return output(["squeue", "-h", "-r", "-o", "%i", "-j", ids]).split()

    def held(self, restart: int) -> tuple[str, int]:
        """Stop an attempt at the first trial once it has trained an epoch; return its process."""
        array = next(job.job_id for job in records(self.study.base) if 0 in job.members)
        job = f"{array}_0"

        def has_saved() -> bool:
            saved = [one.restart for one in self.events(job) if one.what == "saved"]
            return saved.count(restart) > 1

        wait_for(has_saved)
        process = process_of(job)
        os.kill(process, signal.SIGSTOP)
        return job, process

    def events(self, job: str) -> list:
        return read_events(self.study.base.attempts(job))


def sent(folder: Path, store: Store, partition: str) -> SentStudy:
    """Send the study to a partition."""
    folder.mkdir()
    (folder / "site.yaml").write_text(SITE.format(partition=partition, more="max_parallel: 4"))
    settings = {"epochs": 4, "batch_size": 4, "lr": 1e-3, "clip_norm": 0.5, "warmup_epochs": 0}
    changes = [f"--set=train.{key}={value}" for key, value in settings.items()]
    what = ["--task", "multiclass", "--data", str(store.path), "--models", "test_resnet"]
    how = ["--folds", "1", "--trials", "12", "--rounds", "4", "--site", "./site.yaml"]
    how += ["--name", "spots", "--set", KEYS, "--set", "search.objective=loss"]
    done = call(folder, "tune", *what, *how, *changes, "--json")
    assert done.returncode == 0, done.stderr
    return SentStudy(Study(Path(json.loads(done.stdout)["study"])))


def test_study_that_is_preempted_and_loses_a_node_finds_what_an_undisturbed_one_finds(
    cluster, spots, tmp_path
) -> None:
    calm = sent(tmp_path / "calm", spots, "batch")
    wait_for(lambda: not calm.queued())
    assert [number for number, *_ in calm.points()] == list(range(12))

    study = sent(tmp_path / "disturbed", spots, "lowgrace")
    for restart in range(2):
        job, held = study.held(restart)
        other = cluster.sbatch(["-p", "high", "-N4", "--exclusive"], "true")
        release_when_signalled(held)
        cluster.wait(other)
    job, _ = study.held(2)
    node = output(["squeue", "-h", "-o", "%N", "-j", job]).strip()
    cluster.run("crash", node.removeprefix("node"))
    wait_for(lambda: not study.queued())
    if study.points() != calm.points():  # a trial of an early round was lost for good
        done = call(tmp_path / "disturbed", "tune", "--resume", str(study.study.root), "--json")
        assert done.returncode == 0, done.stderr
        wait_for(lambda: not study.queued())
    assert [one.cause for one in study.events(job) if one.what == "requeued"] == ["preemption"] * 2
    attempts = [row["State"].split()[0] for row in cluster.sacct(job, "--duplicates")]
    assert attempts == ["REQUEUED", "REQUEUED", "NODE_FAIL", "COMPLETED"]
    assert study.points() == calm.points()
    assert (study.study.report / "report.html").is_file()
    best = [
        json.loads((one.study.report / "trials.json").read_text())["best"] for one in (calm, study)
    ]
    assert best[0] == best[1]
