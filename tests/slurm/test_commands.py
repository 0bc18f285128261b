"""Commands on the real cluster: cancelling, outages, killed submissions, thousands of members."""

import json
import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import run as run_command
from test_runs import LENSHPC, TIMEOUT_S, call

from lenshpc.store import Store

HELD = "scheduler: slurm\nsbatch: {hold: true}\n"
KILLED_AFTER = '#!/bin/sh\n{sbatch} "$@"\nkill -9 $PPID\n'
KILLED_BEFORE = "#!/bin/sh\nkill -9 $PPID\n"


def submission(store: Path, *more: str, site: str = "rehearsal", epochs: int = 2) -> list[str]:
    changes = ("--set", f"train.epochs={epochs}", "--set", "train.warmup_epochs=0")
    asked = ("--task", "multiclass", "--data", str(store), "--models", "test_resnet")
    return ["submit", *asked, "--site", site, "--folds", "2", *changes, *more]


def sent(folder: Path, *words: str) -> dict:
    done = call(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def status(folder: Path, run: str) -> dict:
    return sent(folder, "status", run)


def wait_for(cluster, folder: Path, run: str, states: list[str]) -> None:
    """Wait until the members are in those states."""
    end = time.monotonic() + TIMEOUT_S
    while (found := [line["state"] for line in status(folder, run)["members"]]) != states:
        assert time.monotonic() < end, found
        time.sleep(0.5)


def used_by_commands_s() -> float:
    """Return the processor time of the commands so far: the wall time on a machine at rest."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_cancelling_and_resuming_leaves_no_orphan_job(cluster, spots: Store, tmp_path: Path):
    first = sent(tmp_path, *submission(spots.path, epochs=2000))
    run = Path(first["run"]).name
    wait_for(cluster, tmp_path, run, ["RUNNING", "RUNNING"])
    assert call(tmp_path, "cancel", run, "--member", "1").returncode == 0
    line = status(tmp_path, run)["members"][1]
    assert line["state"] == "CANCELLED"
    assert line["reason"] == f"job {first['job']}_1 was cancelled"

    again = sent(tmp_path, "resume", run)
    assert again["members"] == [1]
    reports = [job for job, _, _ in cluster.squeue("--name", f"{run}-report")]
    assert reports == [again["report"]], "the report that waited is replaced"
    dependency = run_command(["squeue", "-h", "-j", again["report"], "-o", "%E"])
    assert first["job"] in dependency
    assert again["job"] in dependency

    log = call(tmp_path, "logs", run, "--member", "0")
    assert (log.returncode, "submitit" in log.stdout) == (0, True), log.stderr
    done = call(tmp_path, "cancel", run)
    assert (done.returncode, cluster.squeue()) == (0, []), done.stderr
    assert "and the report cancelled" in done.stderr
    listed = sent(tmp_path, "list")
    assert [(each["run"], each["states"]) for each in listed] == [(run, {"CANCELLED": 2})]
    removed = call(tmp_path, "clean", run, "--all", "--yes")
    assert (removed.returncode, Path(first["run"]).exists()) == (0, False), removed.stderr


@pytest.mark.parametrize("wrapper", [KILLED_AFTER, KILLED_BEFORE], ids=["taken", "never sent"])
def test_submission_that_is_killed_beside_sbatch_is_healed(
    cluster, spots: Store, tmp_path: Path, wrapper: str
):
    was_taken = wrapper == KILLED_AFTER
    asked = submission(spots.path, "--name", "taken" if was_taken else "unsent")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "sbatch").write_text(wrapper.format(sbatch=shutil.which("sbatch")))
    (bin_folder / "sbatch").chmod(0o755)
    killed = subprocess.run(
        [LENSHPC, *asked],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -9
    (run,) = (tmp_path / "runs").iterdir()
    arrays = {job.partition("_")[0] for job, _, _ in cluster.squeue("--states=all", "-n", run.name)}
    assert len(arrays) == was_taken
    found = {line["job"].partition("_")[0] for line in status(tmp_path, run.name)["members"]}
    assert found == (arrays or {""})

    again = sent(tmp_path, *asked)
    assert again["members"] == ([] if was_taken else [0, 1]), "nothing is sent twice"
    cluster.wait([*arrays, again["report"]], timeout_s=TIMEOUT_S)
    whole = status(tmp_path, run.name)
    assert [line["state"] for line in whole["members"]] == ["DONE", "DONE"]
    assert whole["report"] == "DONE"


def test_status_goes_on_without_accounting_and_without_the_controller(
    cluster, spots: Store, tmp_path: Path
):
    first = sent(tmp_path, *submission(spots.path, epochs=2000))
    run = Path(first["run"]).name
    wait_for(cluster, tmp_path, run, ["RUNNING", "RUNNING"])
    cluster.run("dbd-stop")
    assert [line["state"] for line in status(tmp_path, run)["members"]] == ["RUNNING"] * 2
    cluster.run("ctld-stop")
    told = status(tmp_path, run)
    assert [line["state"] for line in told["members"]] == ["UNKNOWN"] * 2
    assert "Unable to contact slurm controller" in told["silence"]
    refused = call(tmp_path, "resume", run)
    assert refused.returncode == 1
    assert refused.stderr.startswith("lenshpc: nothing was submitted: squeue failed")
    cluster.run("ctld-start")
    cluster.run("dbd-start")
    wait_for(cluster, tmp_path, run, ["RUNNING", "RUNNING"])
    assert call(tmp_path, "cancel", run).returncode == 0
    assert cluster.squeue() == []


def test_thousand_members_are_sent_as_fast_as_a_bare_array(cluster, spots: Store, tmp_path: Path):
    (tmp_path / "held.yaml").write_text(HELD)
    began = time.monotonic()
    bare = cluster.sbatch(["--array=0-999", "--hold"], "true")
    bare_s = time.monotonic() - began
    # with compiled modules, as pip installs them
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    seeds = ",".join(map(str, range(500)))
    used_s = []
    for name in ("warm", "first", "second", "third"):
        words = submission(spots.path, "--seeds", seeds, "--name", name, site="./held.yaml")
        before_s = used_by_commands_s()
        found = json.loads(run_command([LENSHPC, *words, "--json"], cwd=tmp_path, env=environ))
        used_s.append(used_by_commands_s() - before_s)
        assert len(found["members"]) == 1000
        assert call(tmp_path, "cancel", Path(found["run"]).name).returncode == 0
    # 2 s on a machine at rest; beside other work a second costs up to half as much again
    assert min(used_s[1:]) <= 1.2 * bare_s + 3, (used_s, bare_s)
    subprocess.run(["scancel", bare], check=True)


def test_ten_thousand_members_are_several_arrays_and_one_quick_status(
    cluster, spots: Store, tmp_path: Path
):
    (tmp_path / "held.yaml").write_text(HELD + "max_array_size: 1001\n")
    seeds = ",".join(map(str, range(5000)))
    before_s = used_by_commands_s()
    found = sent(tmp_path, *submission(spots.path, "--seeds", seeds, site="./held.yaml"))
    submit_s = used_by_commands_s() - before_s
    jobs = found["job"].split(",")
    assert len(jobs) == 10
    run = Path(found["run"]).name
    used_s = []
    for _ in range(3):
        before_s = used_by_commands_s()
        told = status(tmp_path, run)
        used_s.append(used_by_commands_s() - before_s)
    assert [line["state"] for line in told["members"]] == ["PENDING"] * 10_000
    assert min(used_s) < 3, used_s  # 1 s on a machine at rest, 2 s are what it may take
    assert submit_s < 10, submit_s
    assert call(tmp_path, "cancel", run).returncode == 0
    assert cluster.squeue() == []
