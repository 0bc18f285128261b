"""A run grows by a seed, a model and an ensemble: only what is new is trained."""

import json
from pathlib import Path

import pytest
from test_runs import TIMEOUT_S, call

from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import load_plan
from lenshpc.store import Store

TASK = ("submit", "--task", "multiclass", "--site", "rehearsal", "--folds", "3", "--json")
SMALL = ("train.epochs=1", "train.warmup_epochs=0", "train.batch_size=8")


def submit(folder: Path, store: Store, *words: str) -> dict:
    """Return what a submission prints."""
    changes = [word for text in SMALL for word in ("--set", text)]
    done = call(folder, *TASK, "--data", str(store.path), *changes, *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def finish(cluster, sent: dict) -> list[str]:
    """Wait for the jobs of a submission, and return which array elements accounting knows."""
    jobs = [job for job in (sent["job"], sent["report"]) if job]
    cluster.wait(jobs, timeout_s=TIMEOUT_S)
    return [row["JobID"] for row in cluster.sacct(sent["job"])] if sent["job"] else []


@pytest.mark.slow
def test_run_grown_by_a_seed_a_model_and_an_ensemble_trains_only_what_is_new(
    cluster, spots: Store, tmp_path: Path
) -> None:
    first = submit(tmp_path, spots, "--models", "test_resnet")
    assert len(finish(cluster, first)) == 3

    seed = submit(tmp_path, spots, "--models", "test_resnet", "--seeds", "0,1")
    assert seed["members"] == [1, 3, 5]
    assert {one["is"] for one in seed["taken"].values()} == {"done"}
    assert len(finish(cluster, seed)) == 3

    model = submit(tmp_path, spots, "--models", "test_resnet,d4_net", "--seeds", "0,1")
    assert model["members"] == [6, 7, 8, 9, 10, 11]
    assert len(finish(cluster, model)) == 6

    words = ("--models", "test_resnet,d4_net", "--seeds", "0,1", "--set", "ensemble=rank_mean")
    ensemble = submit(tmp_path, spots, *words)
    assert ensemble["members"] == []
    assert len(ensemble["taken"]) == 12
    assert finish(cluster, ensemble) == []

    plan = load_plan(RunPaths(Path(ensemble["run"])))
    report = json.loads((Path(ensemble["run"]) / "report" / "report.json").read_text())
    assert [one["index"] for one in report["members"]] == [one.index for one in plan.members]
    assert all(one["adopted"] for one in report["members"])
    status = json.loads(call(tmp_path, "status", ensemble["run"], "--json").stdout)
    assert {line["gpu_hours"] for line in status["members"]} == {0.0}
