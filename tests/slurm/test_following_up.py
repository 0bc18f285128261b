"""A member that dies on a node without scontrol comes back as a job in place of its own."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lenshpc.launch.jobs import latest_of_members, records
from lenshpc.run.paths import RunPaths
from lenshpc.store import Store

pytestmark = pytest.mark.slow

LENSHPC = Path(sys.executable).with_name("lenshpc")
HIDDEN = 'command() { [ "$2" != scontrol ] && builtin command "$@"; }; scontrol() { return 127; }'
TIMEOUT_S = 900
ROOT = Path(__file__).parents[2]


def call(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [LENSHPC, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_member_is_followed_up_and_the_report_waits_for_it(
    cluster, spots: Store, tmp_path: Path
) -> None:
    shutil.copytree(spots.path, tmp_path / "store")
    rehearsal = yaml.safe_load((ROOT / "slurm" / "rehearsal.yaml").read_text())
    profile = {**rehearsal, "setup": [HIDDEN]}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(profile))
    words = ["submit", "--task", "multiclass", "--data", "store", "--site", "./bare.yaml"]
    words += ["--models", "test_resnet", "--folds", "2", "--set", "train.epochs=40", "--json"]
    sent = json.loads(call(tmp_path, *words))
    run, killed = RunPaths(Path(sent["run"])), f"{sent['job']}_1"

    deadline = time.monotonic() + TIMEOUT_S
    while not list(run.root.glob("members/001-*/checkpoint/epoch-*")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # the code that runs is the copy, whatever the installed package
    (code,) = (path for path in run.code.iterdir() if path.is_dir())
    assert any(str(code) in line for line in environments())
    subprocess.run(["scancel", "--signal=KILL", f"{killed}.0"], check=True)

    while len(records(run)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    record, job = latest_of_members(run)[1]
    assert (record.follows, job.endswith("_1")) == (killed, True)
    cluster.wait([sent["job"], job], states=("COMPLETED", "FAILED"), timeout_s=TIMEOUT_S)
    cluster.wait(records(run)[-1].job_id, timeout_s=TIMEOUT_S)
    states = json.loads(call(tmp_path, "status", run.name, "--json"))
    assert [line["state"] for line in states["members"]] == ["DONE", "DONE"]
    assert (states["report"], cluster.squeue()) == ("DONE", [])


def environments() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += path.read_bytes().replace(b"\0", b"\n").decode().splitlines()
        except OSError:
            continue
    return [line for line in found if line.startswith("PYTHONPATH=")]
