"""Predictions as a job array on the real cluster: one job is killed, and the rest goes on."""

import json
from pathlib import Path

from spot_runs import output, wait_for
from test_runs import TIMEOUT_S, call
from trained_run import TrainedRun, train_run

from lenshpc.files import sha256
from lenshpc.inference.outputs import Predictions
from lenshpc.launch.sites import load_site

ARRAY_SIZE = 8
WORDS = ["--part-rows", "8", "--top", "5"]


def predict(folder: Path, run: TrainedRun, out: str, *more: str) -> dict:
    """Return what the command prints as JSON."""
    asked = ["predict", str(run.paths.root), str(run.store.path), "--out", out]
    done = call(folder, *asked, *WORDS, "--json", *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def hash_results(root: Path) -> dict[str, str]:
    """Return the hash of each part and of the candidates."""
    files = [*sorted((root / "parts").glob("*.parquet")), root / "candidates.csv"]
    return {path.name: sha256(path) for path in files}


def test_array_with_a_killed_job_ends_as_one_process_does(cluster, tmp_path: Path) -> None:
    run = train_run(tmp_path, folds=1, models=("test_resnet", "d4_net"))
    # Two at a time, so that the last one begins when the command has long returned.
    site = load_site("rehearsal").model_copy(update={"max_parallel": 2})
    (tmp_path / "two.yaml").write_text(
        json.dumps(site.model_dump(mode="json", exclude_defaults=True)), "utf-8"
    )
    array = ["--site", "./two.yaml", "--array-size", str(ARRAY_SIZE)]
    first = predict(tmp_path, run, "array", *array)
    assert first["elements"] == list(range(ARRAY_SIZE))
    victim = f"{first['job']}_7"
    wait_for(lambda: any(row[0] == victim and row[1] == "RUNNING" for row in cluster.squeue()))
    output(["scancel", victim])
    jobs = [first["job"], first["join"]]
    cluster.wait(jobs, states=("COMPLETED", "CANCELLED", "FAILED"), timeout_s=TIMEOUT_S)
    states = sorted(row["State"].split()[0] for row in cluster.sacct(first["job"]))
    assert states == ["CANCELLED", *["COMPLETED"] * 7]
    assert [row["State"] for row in cluster.sacct(first["join"])] == ["FAILED"]
    assert Predictions(tmp_path / "array").missing() == [7]

    second = predict(tmp_path, run, "array", *array)
    assert second["elements"] == [7]
    cluster.wait([second["job"], second["join"]], timeout_s=TIMEOUT_S)
    alone = predict(tmp_path, run, "alone")
    assert alone["num_images"] == 104
    assert hash_results(tmp_path / "array") == hash_results(tmp_path / "alone")
