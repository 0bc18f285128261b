"""Whole runs on the real cluster: two nodes a member, DDP and DeepSpeed, report, loss, rerun."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lenshpc.store import Store, open_store

LENSHPC = Path(sys.executable).with_name("lenshpc")
SLC = Path(__file__).parents[3] / "shared" / "data" / "slc"
TIMEOUT_S = 900


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LENSHPC, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def asked_for(store: Path, strategy: str) -> list[str]:
    settings = {
        "train.strategy": strategy,
        "train.zero_stage": 2,
        "train.epochs": 2,
        "train.clip_norm": 1.0,
        "data.image_size": 64,
    }
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    names = ["--name", strategy, "--models", "test_resnet", "--site", "rehearsal"]
    size = ["--folds", "3", "--nodes", "2"]
    return ["submit", "--task", "multiclass", "--data", str(store), *size, *names, *changes]


def submitted(folder: Path, store: Path, strategy: str) -> dict:
    done = call(folder, *asked_for(store, strategy), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, spots: Store) -> Store:
    """Return a store of 240 real Strong Lensing Challenge images; of simulated spots without."""
    if not SLC.is_dir():
        return spots
    folder = tmp_path_factory.mktemp("slc")
    for kind in ("no_sub", "sub"):
        (folder / "images" / "lenses" / kind).mkdir(parents=True)
        for path in sorted((SLC / "lenses" / kind).iterdir())[:120]:
            shutil.copy(path, folder / "images" / "lenses" / kind)
    done = call(folder, "prepare", "slc", "images", "store")
    assert done.returncode == 0, done.stderr
    return open_store(folder / "store")


def test_two_node_folds_end_in_a_report_and_a_lost_member_is_rerun_alone(
    cluster, images: Store, tmp_path: Path
) -> None:
    sent = {kind: submitted(tmp_path, images.path, kind) for kind in ("ddp", "deepspeed")}
    again = submitted(tmp_path, images.path, "ddp")
    assert again["members"] == [], "what waits or runs is not sent twice"
    cluster.wait(
        [one[key] for one in sent.values() for key in ("job", "report")], timeout_s=TIMEOUT_S
    )

    for one in sent.values():
        rows = {row["JobID"]: row for row in cluster.sacct(one["job"])}
        elements = [f"{one['job']}_{element}" for element in range(3)]
        assert {job: rows[job]["State"] for job in elements} == dict.fromkeys(elements, "COMPLETED")
        assert all("gres/gpu=2" in rows[job]["AllocTRES"] for job in elements)
        assert all("node=2" in rows[job]["AllocTRES"] for job in elements)
        assert_report_is_whole(Path(one["run"]), len(images.rows))
    assert_sent_script_is_the_dry_runs(tmp_path, images.path, sent["ddp"])
    assert_lost_member_is_rerun_alone(cluster, tmp_path, Path(sent["ddp"]["run"]))


def assert_report_is_whole(run: Path, num_rows: int) -> None:
    report = json.loads((run / "report" / "report.json").read_text())
    assert [line["num_processes"] for line in report["members"]] == [2, 2, 2]
    model = report["models"][0]
    assert model["oof"]["num_covered"] + model["test"]["num_covered"] == num_rows
    assert np.isfinite(model["test"]["auc"])
    done = call(run.parent.parent, "status", run.name, "--json")
    status = json.loads(done.stdout)
    assert [line["state"] for line in status["members"]] == ["DONE"] * 3
    assert status["report"] == "DONE"


def assert_sent_script_is_the_dry_runs(folder: Path, store: Path, sent: dict) -> None:
    run = Path(sent["run"])
    shown = call(folder, *asked_for(store, "ddp"), "--dry-run").stdout
    script = (run / "slurm" / f"{sent['job']}_submission.sh").read_text()
    assert script in shown


def assert_lost_member_is_rerun_alone(cluster, folder: Path, run: Path) -> None:
    members = sorted((run / "members").iterdir())
    lost, kept = members[1] / "predictions.parquet", [members[0], members[2]]
    before = {path: (path / "done.json").stat().st_mtime_ns for path in kept}
    lost.unlink()
    failed = call(folder, "aggregate", run.name)
    assert failed.returncode == 1
    assert failed.stderr == (
        f"lenshpc: member 1 (test_resnet fold 1 seed 0) of run {run.name} has lost its "
        f"predictions.parquet; rerun it with: lenshpc resume {run.name}\n"
    )
    rerun = json.loads(call(folder, "resume", run.name, "--json").stdout)
    assert rerun["members"] == [1]
    cluster.wait([rerun["job"], rerun["report"]], timeout_s=TIMEOUT_S)
    assert lost.is_file()
    assert before == {path: (path / "done.json").stat().st_mtime_ns for path in kept}
    assert call(folder, "aggregate", run.name).returncode == 0


def test_member_that_fails_is_named_with_its_reason_by_the_aggregation(
    cluster, spots: Store, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(spots.path, store)
    sent = submitted(tmp_path, store, "ddp")
    os.rename(store, tmp_path / "moved")  # noqa: PTH104 (the members find no store)
    cluster.wait([sent["job"], sent["report"]], states=("FAILED",), timeout_s=TIMEOUT_S)
    logs = "".join(path.read_text() for path in (Path(sent["run"]) / "slurm").glob("*.out"))
    told = f"does not see {store}, which was there when the job was submitted"
    assert told in logs
    status = json.loads(call(tmp_path, "status", Path(sent["run"]).name, "--json").stdout)
    assert [line["state"] for line in status["members"]] == ["FAILED"] * 3
    assert all(told in line["reason"] for line in status["members"])
    assert status["report"] == "FAILED"
