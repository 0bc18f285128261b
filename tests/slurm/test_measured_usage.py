"""What a real run has used is told for each of its attempts, as SLURM's accounting has it."""

import json
import re
from pathlib import Path

import pytest
from spot_runs import Work, output, submitted
from test_runs import call

from lenshpc.run.measured import read_measured
from lenshpc.store import Store


def seconds(text: str) -> float:
    """Return `00:02.926` or `01:02:03` in seconds."""
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part)
    return total


def test_each_attempt_has_the_processor_time_and_the_memory_of_accounting(
    cluster, spots: Store, tmp_path: Path
) -> None:
    sent = submitted(tmp_path, spots, Work(epochs=8))
    job = sent.job()
    sent.held(job)
    output(["scontrol", "requeue", job])
    cluster.wait(job, timeout_s=900)
    done = call(tmp_path, "status", str(sent.run.root), "--usage", "--json")
    usage = json.loads(done.stdout)["usage"]
    told = output(["sacct", "-D", "-n", "-P", "-j", job, "-o", "JobID,ElapsedRaw,TotalCPU,MaxRSS"])
    rows = [line.split("|") for line in told.splitlines()]
    whole = [row for row in rows if row[0] == job]
    steps = [row for row in rows if row[0] == f"{job}.0"]
    assert usage["source"] == "sacct"
    attempts = usage["attempts"]
    assert [one["state"] for one in attempts] == ["REQUEUED", "COMPLETED"]
    assert [one["elapsed_s"] for one in attempts] == [float(row[1]) for row in whole]
    for one, row, step in zip(attempts, whole, steps, strict=True):
        use = one["use"]
        assert use["cpus"] * one["elapsed_s"] == pytest.approx(seconds(row[2]))
        # one task, so the largest task's memory is all
        assert use["memory_gb"] == pytest.approx(int(step[3].removesuffix("K")) / 1024**2)
        assert (use["cpus_asked"], use["memory_gb_asked"]) == (1, pytest.approx(1.9, abs=1e-3))
        assert (use["gpus_asked"], use["gpu_busy"]) == (1, None)  # its GPU is a pretended one
    # What the member measured by itself is no other thing.
    last = max(read_measured(sent.run)[job], key=lambda one: one.restart)
    assert last.restart == 1
    total = seconds(whole[-1][2])  # with srun, the batch script, and how Python begins and ends
    assert total / 2 < last.cpu_s < 1.02 * total
    assert last.memory_bytes / 1024**3 == pytest.approx(attempts[-1]["use"]["memory_gb"], rel=0.2)

    shown = call(tmp_path, "status", str(sent.run.root), "--usage").stdout
    lines = [line for line in shown.splitlines() if " asked, " in line]
    assert len(lines) == 3  # two attempts, and all
    pattern = r" +1 CPU asked, [0-9.]+ used; 1.9 GB asked, [0-9.]+ used; GPU not measured"
    assert all(re.fullmatch(pattern, line) and len(line) <= 80 for line in lines), shown
