"""The doctor sends each of its jobs once, also to a controller that is busy."""

from pathlib import Path

import pytest

from lenshpc.errors import LaunchError
from lenshpc.launch import examine, slurm
from lenshpc.launch.facts import Facts, NodeReport, parse_records
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


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (None, "scontrol is not installed here"),
        (
            "echo 'scontrol: fatal: Could not establish a configuration source' >&2; exit 1",
            "scontrol failed: scontrol: fatal: Could not establish a configuration source",
        ),
    ],
)
def test_machine_without_a_cluster_is_told_what_else_there_is(tmp_path, monkeypatch, body, told):
    monkeypatch.setenv("PATH", str(tmp_path))
    if body:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "scontrol").chmod(0o755)
    with pytest.raises(LaunchError) as caught:
        examine.cluster(SITE)
    assert str(caught.value) == (
        f"{told}; run this on a login node of the cluster; runs of this machine need no profile "
        "(--site local), and slurm/README.md shows how to practise on a SLURM cluster on it"
    )


@pytest.mark.usefixtures("tools")
def test_job_that_a_busy_controller_took_is_not_sent_twice(tmp_path):
    step = examine._send(SITE, tmp_path, ("n1", "n2"), ["true"], {"mem": "400M"})
    assert (step.job_id, step.nodes) == ("77", ("n1", "n2"))
    (script,) = (tmp_path / "sent").read_text().splitlines()
    lines = Path(script).read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert {"--nodelist=n1,n2", "--partition=gpu", "--mem=400M", "--nice=5"} <= options
    assert not [option for option in options if "exclude" in option]
    assert lines[-1] == "true"


@pytest.mark.parametrize(
    ("states", "probed", "left"),
    [
        (["IDLE", "IDLE+CLOUD+POWERED_DOWN", "MIXED"], ["n0", "n2"], ("n1",)),
        (["IDLE+CLOUD+POWERED_DOWN"] * 3, ["n0"], ("n1", "n2")),
        (["DOWN*", "MIXED+CLOUD+NOT_RESPONDING+POWERING_UP"], ["n1"], ()),
        (["DOWN*"], [], ()),
    ],
)
def test_nodes_that_are_switched_off_are_left_alone(tmp_path, monkeypatch, states, probed, left):
    """The sbatch here takes every job, and no job is ever in the queue."""
    folder, sent = tmp_path / "bin", tmp_path / "sent"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(examine, "POLL_S", 0.0)
    programs = {"sbatch": f'echo "$2" >> {sent}; wc -l < {sent}', "squeue": "exit 0"}
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    nodes = parse_records(
        "\n".join(
            f"NodeName=n{number} State={state} Partitions=gpu CPUTot=4"
            for number, state in enumerate(states)
        )
    )
    facts = Facts(config={}, partition={"PartitionName": "gpu"}, nodes=nodes)
    seen = examine.probe_nodes(facts, SITE, tmp_path, lambda _done, _all: None)
    scripts = sent.read_text().splitlines() if sent.exists() else []
    assert [Path(script).name.partition("-")[0] for script in scripts] == probed
    assert (list(seen.reports), seen.unexamined) == (probed, left)


@pytest.mark.parametrize(
    ("log", "tflops", "unmeasured"),
    [
        # what SLURM writes of a job on node n1 that used more memory than it had asked for
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=2.0. Some of the step tasks "
            "have been OOM Killed.\nsrun: error: n1: task 0: Out Of Memory",
            {"n0": 9.5, "n2": 9.5},
            {"n1": "srun: error: n1: task 0: Out Of Memory"},
        ),
        (
            "slurmstepd: error: *** STEP 2.0 ON n1 CANCELLED AT 2026-11-30 DUE TO TIME LIMIT ***",
            {"n0": 9.5, "n1": 0.0, "n2": 9.5},
            {},
        ),
        ("", {"n0": 9.5, "n1": 0.0, "n2": 9.5}, {}),
    ],
)
def test_killed_measurement_is_no_slow_node(tmp_path, log, tflops, unmeasured):
    steps = [
        examine.Step(job_id=f"{at}", nodes=(f"n{at}",), log=tmp_path / f"{at}.out", began=0.0)
        for at in range(3)
    ]
    for at in (0, 2):
        (tmp_path / f"{at}-speed.json").write_text('{"speed": 9.5}')
        (tmp_path / f"{at}.out").write_text("srun: error: n1: task 0: Killed")  # and came to an end
    (tmp_path / "1.out").write_text(log)
    ended = dict.fromkeys("012", 1.0)
    assert examine._best(tmp_path, steps, ended) == tflops
    assert examine._find_unmeasured(tmp_path, steps, ended) == unmeasured


def test_preflight_asks_for_the_memory_of_a_context_on_each_gpu(tmp_path, monkeypatch):
    sent, folder = tmp_path / "sent", tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(examine, "POLL_S", 0.0)
    for name, body in {
        "sbatch": f'echo "$2" >> {sent}; wc -l < {sent}',
        "squeue": "exit 0",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    nodes = parse_records("NodeName=n0 State=IDLE Gres=gpu:4\nNodeName=n1 State=IDLE Gres=gpu:4")
    reports = {name: NodeReport(asked={"cpus": 1}) for name in ("n0", "n1")}
    facts = Facts(config={}, partition={"PartitionName": "gpu"}, nodes=nodes, reports=reports)
    examine.measure(facts, SITE, tmp_path, lambda _done, _all: None)
    asked = [
        [line for line in Path(script).read_text().splitlines() if "--mem" in line]
        for script in sent.read_text().splitlines()
    ]
    # two nodes with all of their GPUs, then both with one each
    assert asked == [["#SBATCH --mem=10240M"]] * 2 + [["#SBATCH --mem=4096M"]]
