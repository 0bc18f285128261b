"""What went wrong in a run, from what attempts told when they ended and from accounting."""

import pytest
from ranks import planned, recipe

from lenshpc.launch import jobs, usage
from lenshpc.launch.history import past_failures
from lenshpc.run.attempts import Attempts

SACCT = """\
12_0|NODE_FAIL|2026-11-21T08:00:00|1800|cpu=4||||||node1
12_0|REQUEUED|2026-11-21T09:00:00|1800|cpu=4||||||node2
12_0|COMPLETED|2026-11-21T10:00:00|3600|cpu=4||||||node2
12_1|OUT_OF_MEMORY|2026-11-21T08:00:00|7200|cpu=4||||||node3
12_2|RUNNING|2026-11-21T08:00:00|7200|cpu=4||||||node3
"""


@pytest.fixture
def sent(tmp_path, spots, monkeypatch):
    """Return a run and its Plan, sent as job 12, with an accounting that knows SACCT."""
    (tmp_path / "bin").mkdir()
    sacct = tmp_path / "bin" / "sacct"
    sacct.write_text(f"#!/bin/sh\ncat <<'END'\n{SACCT}END\n")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sacct.parent}:/usr/bin:/bin")
    run, plan = planned(tmp_path, spots, recipe(resources={"gpus_per_node": 0}))
    run.slurm.mkdir(exist_ok=True)
    job = jobs.JobRecord(
        job_id="12", scheduler="slurm", site="here", members=(0, 1, 2), submitted=jobs.now()
    )
    jobs.record(run, job)
    return run, plan


def test_every_failed_attempt_is_told_also_those_that_were_mended(sent):
    run, plan = sent
    tail = ("epoch 3", "Connection closed by peer")
    facts = {"failure": "RANK LOST", "line": tail[-1], "tail": tail}
    Attempts(run.attempts("12_0"), 1).append("requeued", cause="crash", **facts)
    (run.slurm / "12_1_0_log.out").write_text("epoch 7\n")
    found = [
        {key: one[key] for key in ("member", "attempt", "name", "action", "node", "line", "tail")}
        for one in past_failures(run, usage.run_usage(run, plan).attempts)
    ]
    lost = {"name": "NODE FAIL", "action": "exclude node", "node": "node1", "line": "", "tail": ()}
    peer = {"name": "RANK LOST", "action": "requeue", "node": "", "line": tail[-1], "tail": tail}
    full = {"name": "OUT OF MEMORY", "action": "stop", "node": "node3"}
    assert found == [
        {"member": 0, "attempt": 1, **lost},
        {"member": 0, "attempt": 2, **peer},
        {"member": 1, "attempt": 1, **full, "line": "epoch 7", "tail": ("epoch 7",)},
    ]


def test_summary_of_the_usage_is_its_totals(sent):
    summary = usage.run_usage(*sent).summary()
    assert summary["total"].pop("use")["cpus_asked"] == 4
    assert summary["total"] == {
        "attempts": 5,
        "hours": 24.0,
        "useful_hours": 8.0,
        "wasted_hours": 16.0,
    }
    assert (summary["unit"], summary["source"]) == ("core", "sacct")
    assert sorted(summary["members"]) == ["0", "1", "2"]
    assert "attempts" not in summary
