"""Listing, cleaning, logs and completion, on a run that nobody trained."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_main import HEAVY, called

from lenshpc.files import read_json, read_sealed, write_json, write_sealed
from lenshpc.launch.local import Queue, queue_path

LENSHPC = str(Path(sys.executable).with_name("lenshpc"))


@pytest.fixture
def failed(run):
    """Return the run with a local job of member 0 that failed and left a log."""
    run.paths.slurm.mkdir()
    run.paths.member(run.plan.members[0].name).done.unlink()
    queue = Queue(states={0: "FAILED"}, jobs={0: "4711"})
    queue_path(run.paths).write_text(queue.model_dump_json())
    job = {"job_id": "1", "scheduler": "local", "site": "local", "members": [0], "submitted": "now"}
    run.paths.jobs.write_text(json.dumps(job) + "\n")
    (run.paths.slurm / "4711_0_log.out").write_text("first line\nValueError: bad\n")
    return run


def test_list_counts_states(failed):
    code, out, err = called("list", "--json")
    (line,) = json.loads(out)
    assert (code, err, line["run"]) == (0, "", failed.paths.name)
    assert (line["states"], line["report"]) == ({"FAILED": 1, "DONE": 5}, "NOT SUBMITTED")
    files = [path for path in failed.paths.root.rglob("*") if path.is_file()]
    assert line["num_bytes"] == sum(path.stat().st_size for path in files)


def test_run_that_cannot_be_read_stops_no_other_in_the_list(failed, tmp_path):
    plan = read_sealed(failed.paths.plan)
    other = tmp_path / "runs" / "with-plugin"
    other.mkdir()
    write_sealed(other / "plan.json", {**plan, "plugins": {"lens-rings": "1.2"}})
    code, out, err = called("list")
    fault = f"{other} was made with lens-rings 1.2, which is not installed here; install it"
    assert (code, err) == (0, f"with-plugin: {fault}\n")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [failed.paths.name, "with-plugin"]
    assert called("status", "with-plugin")[::2] == (2, f"lenshpc: {fault}\n")


def test_clean_passes_over_runs_that_cannot_be_read(failed):
    old = failed.paths.root.with_name("old-0000")
    shutil.copytree(failed.paths.root, old)
    value = read_json(old / "plan.json") | {"code_version": "0.1.0"}
    del value["layout"]
    write_json(old / "plan.json", value)
    code, _, err = called("clean")
    assert (code, err.count("left alone: ")) == (0, 1)
    code, _, err = called("clean", old.name)
    assert (code, err.partition(" was")[0]) == (2, f"lenshpc: {old}")


def test_logs_are_those_of_the_member_that_failed(failed):
    code, out, err = called("logs", failed.paths.name)
    assert (code, out) == (0, "first line\nValueError: bad\n")
    log = failed.paths.slurm / "4711_0_log.out"
    assert err == f"{failed.plan.members[0].name}, FAILED: {log}\n"


def test_logs_of_a_member_without_a_job_say_its_state(failed):
    code, out, err = called("logs", failed.paths.name, "--member", 1)
    assert (code, out) == (2, "")
    assert err == "lenshpc: member 1 has no log yet: it is DONE\n"


def test_clean_lists_then_removes_what_is_not_needed(failed):
    paths = failed.paths
    done, open_one = (paths.member(failed.plan.members[at].name) for at in (1, 0))
    for member in (done, open_one):
        member.checkpoint.mkdir()
        (member.checkpoint / "weights").write_bytes(bytes(10))
    (paths.slurm / "4711_submitted.pkl").write_bytes(bytes(5))
    spare = [done.checkpoint, paths.slurm / "4711_submitted.pkl"]
    code, out, err = called("clean")
    assert (code, [line.split()[-1] for line in out.splitlines()]) == (0, [str(p) for p in spare])
    assert err == "0.0 MB to remove, with --yes\n"
    assert all(path.exists() for path in spare)
    assert called("clean", paths.name, "--yes")[0] == 0
    assert not any(path.exists() for path in spare)
    assert open_one.checkpoint.is_dir()  # its training will go on from here
    assert done.predictions.is_file()


def test_clean_of_all_needs_a_run_and_yes(failed):
    assert called("clean", "--all")[0] == 2
    assert called("clean", failed.paths.name, "--all")[0] == 0
    assert failed.paths.root.is_dir()
    assert called("clean", failed.paths.name, "--all", "--yes")[0] == 0
    assert not failed.paths.root.exists()


def completed(words, cwd):
    """Return what bash gets for the last of the words."""
    environ = {
        **os.environ,
        "_LENSHPC_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [LENSHPC], cwd=cwd, env=environ, capture_output=True, text=True, check=True
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_runs_tasks_recipes_sites_and_datasets_are_completed(run, tmp_path):
    name = run.paths.name
    for words, expected in [
        (["lenshpc", "status", name[:3]], [name]),
        (["lenshpc", "clean", name[:3]], [name]),
        (["lenshpc", "submit", "--task", "mul"], ["multiclass"]),
        (["lenshpc", "submit", "--recipe", "lens_finding_s"], ["lens_finding_smote_kfold"]),
        (["lenshpc", "submit", "--site", "reh"], ["rehearsal"]),
        (["lenshpc", "prepare", "sl"], ["slc"]),
    ]:
        assert completed(words, tmp_path) == expected


def test_completion_imports_nothing_heavy(run, tmp_path):
    script = (
        "import sys, click\n"
        "from lenshpc.cli.completing import runs, recipes, sites, datasets, tasks\n"
        "from lenshpc.cli.main import main\n"
        "for each in (runs, recipes, sites, datasets, tasks):\n"
        "    assert each(click.Context(main), None, '')\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
