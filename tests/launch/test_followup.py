"""Where nodes have no scontrol, a job is sent in place of the one that would be requeued."""

import os
import shutil
import subprocess

import pytest

from lenshpc.launch.followup import earlier_events, follow_up_lines
from lenshpc.launch.jobs import JobRecord, intents, latest_of_members, record, records
from lenshpc.launch.reconcile import settle
from lenshpc.run.attempts import Attempts
from lenshpc.run.paths import RunPaths

TOKENS = {"8": "lenshpc-" + 32 * "a", "9": "lenshpc-" + 32 * "b"}


@pytest.fixture
def sent(tmp_path):
    """Return a run of three members, sent as job 8 and reported on by job 9."""
    run = RunPaths(tmp_path / "a run-12345678")
    run.slurm.mkdir(parents=True)
    for job_id, members in (("8", (0, 1, 2)), ("9", ())):
        facts = {"scheduler": "slurm", "site": "big", "submitted": "2026-01-02T03:04:05+00:00"}
        record(run, JobRecord(token=TOKENS[job_id], job_id=job_id, members=members, **facts))
    return run


@pytest.fixture
def node(tmp_path):
    """Return a function that runs shell lines on a node: sbatch gives the numbers from 20 on."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "env", "sed", "flock", "cat"):
        (folder / name).symlink_to(shutil.which(name))
    sbatch = f"""#!/bin/sh
echo "${{SLURM_RESTART_COUNT-}}$*" >>{tmp_path}/calls
number=$(cat {tmp_path}/number)
echo $((number + 1)) >{tmp_path}/number
echo "$number;cluster"
"""
    (folder / "sbatch").write_text(sbatch)
    (folder / "sbatch").chmod(0o755)
    (tmp_path / "number").write_text("20")

    def run(lines):
        environment = {**os.environ, "PATH": str(folder), "SLURM_RESTART_COUNT": "3"}
        subprocess.run([folder / "sh", "-c", lines], env=environment, check=True)
        told = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "calls").unlink()
        return told

    return run


def test_element_and_report_are_sent_again_and_on_record(sent, node):
    calls = node(follow_up_lines(sent, "8_1", "gpu7"))
    member, report = records(sent)[-2:]
    folder = sent.slurm
    assert calls == [
        f"--parsable --array=1 --exclude=gpu7 {folder}/{member.token}.sh {TOKENS['8']}.pkl",
        f"--parsable --dependency=afterany:20_1:9 {folder}/{report.token}.sh {TOKENS['9']}.pkl",
    ]
    assert (folder / f"{member.token}.sh").readlink().name == "8_submission.sh"
    assert {m: job_id for m, (_, job_id) in latest_of_members(sent).items()} == {
        0: "8_0",
        1: "20_1",
        2: "8_2",
    }
    assert (report.job_id, report.members, intents(sent)) == ("21", (), [])


def test_follow_up_of_a_follow_up_has_the_first_script_and_all_events(sent, node):
    Attempts(sent.attempts("8_1"), 0).append("requeued", cause="crash")
    node(follow_up_lines(sent, "8_1", ""))
    Attempts(sent.attempts("20_1"), 0).append("requeued", cause="timeout")
    calls = node(follow_up_lines(sent, "20_1", ""))
    assert [call.split()[-1] for call in calls] == [f"{TOKENS['8']}.pkl", f"{TOKENS['9']}.pkl"]
    assert "--dependency=afterany:22_1:21" in calls[1]
    events = earlier_events(sent, "22_1")
    assert [(event.restart, event.cause) for event in events] == [(0, "crash"), (1, "timeout")]
    assert earlier_events(sent, "8_1") == []


def test_follow_up_whose_record_was_lost_is_found_as_its_element(sent, tmp_path, monkeypatch):
    follow_up_lines(sent, "8_1", "")
    member, report = intents(sent)
    squeue = tmp_path / "squeue"
    lines = f"30|/r/{member.token}.sh x\n31|/r/{report.token}.sh x\n"
    squeue.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}END\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    settle(sent)
    assert [one.job_id for one in records(sent)[-2:]] == ["30_1", "31"]
