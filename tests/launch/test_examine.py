"""The doctor sends each of its jobs once, also to a controller that is busy."""

from pathlib import Path

import pytest

from lenshpc.launch import examine, slurm
from lenshpc.launch.sites import Site

SITE = Site(name="big", scheduler="slurm", partition="gpu", sbatch={"exclude": "n9", "nice": 5})
BUSY = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Make an sbatch that takes the job but does not say so, and a squeue that knows it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "ORDER_RETRIES_S", (0.0, 0.0))
    programs = {
        "sbatch": f"echo \"$2\" >> {tmp_path}/sent; echo '{BUSY}' >&2; exit 1",
        "squeue": f"sed 's/^/77|/' {tmp_path}/sent",
        "sacct": "exit 1",
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)


@pytest.mark.usefixtures("tools")
def test_job_that_a_busy_controller_took_is_not_sent_twice(tmp_path):
    step = examine._send(SITE, tmp_path, ("n1", "n2"), ["true"], ["--mem=400M"])
    assert (step.job_id, step.nodes) == ("77", ("n1", "n2"))
    (script,) = (tmp_path / "sent").read_text().splitlines()
    lines = Path(script).read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert {"--nodelist=n1,n2", "--partition=gpu", "--mem=400M", "--nice=5"} <= options
    assert not [option for option in options if "exclude" in option]
    assert lines[-1] == "true"
