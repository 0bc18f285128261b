"""Sites as they are: what jobs ask for and inherit, what is said where a site is in the way."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Cluster
from conftest import run as run_command
from spot_runs import QUICK, Sent, Work, asked, submitted, wait_for
from test_runs import call

from lenshpc.run.paths import RunPaths

BANNER = """#!/bin/sh
echo '*** Maintenance on 12/01 | all partitions, 12345 nodes ***'
echo
exec {program} "$@"
"""
PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "sinfo")
WIDE = Work(nodes=2, epochs=1)

TYPED = """
gpu_request: gres
gpu_type: 2080ti
mem_request: mem-per-cpu
cpu_jobs: {partition: cpu, mem_gb: 1.5, time_min: 7}
"""
EVERY_JOB_HAS_A_GPU = """
mem_request: mem-per-gpu
gpu_type: a100
cpu_jobs: {gpus: 1}
"""
WHOLE_NODES = """
gpu_request: none
exclusive: true
constraint: "(a100|2080ti)&rack2"
sbatch: {export: NONE}
"""


def finished(cluster: Cluster, sent: Sent) -> tuple[dict[str, str], dict[str, str]]:
    """Wait for the report; return what SLURM says of the first member's job and the report's."""
    sent.wait_for_end()
    told = sent.status()
    assert ({line["state"] for line in told["members"]}, told["report"]) == ({"DONE"}, "DONE")
    return cluster.describe(sent.job()), cluster.describe(told["report_job"])


def trained(cluster: Cluster, sent: Sent) -> dict[str, str]:
    """Wait for the first member, not for the report; return what SLURM says of its job."""
    wait_for(sent.member().done.is_file)
    return cluster.describe(sent.job())


def picked(told: dict[str, str], keys: str) -> list[str]:
    return [told.get(key, "") for key in keys.split()]


def charged(told: dict[str, str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in told["TRES"].split(","))


def failed(sent: Sent, index: int = 0) -> dict:
    """Wait until nothing of the run is left; return the member that has failed."""
    wait_for(lambda: not sent.queued())
    line = sent.status()["members"][index]
    assert line["state"] == "FAILED", line
    return line


def test_typed_gpus_by_gres_and_memory_a_cpu_and_the_report_on_cpus(cluster, spots, tmp_path):
    size = ("--set=resources.mem_gb_per_gpu=1.6", "--set=resources.cpus_per_gpu=2")
    size += ("--gpus-per-node=2",)
    sent = submitted(tmp_path, spots, QUICK, *size, partition="gpuonly", more=TYPED)
    member, report = finished(cluster, sent)
    assert picked(member, "Partition TresPerNode MinMemoryCPU") == [
        "gpuonly",
        "gres:gpu:2080ti:2",
        "820M",  # of 1.6 GB a GPU on the command line, not 1.9 of the profile
    ]
    assert charged(member).items() >= {"gres/gpu:2080ti": "2", "cpu": "4"}.items()
    assert picked(report, "Partition TimeLimit MinMemoryCPU") == ["cpu", "00:07:00", "1.50G"]
    assert "gres" not in report["TRES"]


@pytest.mark.slow
def test_gpu_for_every_job_where_a_site_takes_none_without(cluster, spots, tmp_path):
    sent = submitted(tmp_path, spots, QUICK, partition="gpuonly", more=EVERY_JOB_HAS_A_GPU)
    for told in finished(cluster, sent):
        assert told["Partition"] == "gpuonly"
        assert charged(told)["gres/gpu:a100"] == "1"
    member = charged(cluster.describe(sent.job()))
    assert member["mem"] == "1946M"


def test_whole_nodes_by_feature_with_nothing_exported_and_a_percent_sign_in_the_path(
    cluster, spots, tmp_path
):
    folder = tmp_path / "50% of %x"
    member, report = finished(cluster, submitted(folder, spots, QUICK, more=WHOLE_NODES))
    assert picked(member, "NodeList Features OverSubscribe") == [
        "node2",
        "(a100|2080ti)&rack2",
        "NO",
    ]
    assert charged(member)["cpu"] == "4"
    assert report["OverSubscribe"] == "OK"


def test_members_on_processors_alone_go_where_no_gpu_may_be_asked_for(cluster, spots, tmp_path):
    size = ("--set=resources.gpus_per_node=0", "--set=resources.tasks_per_node=2")
    sent = submitted(tmp_path, spots, QUICK, *size, partition="cpu")
    member, _ = finished(cluster, sent)
    assert charged(member).items() >= {"cpu": "2", "node": "1"}.items()
    assert "gres" not in member["TRES"]
    report = json.loads((sent.run.report / "report.json").read_text())
    assert [line["num_processes"] for line in report["members"]] == [2]


def inherit_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the variables of a step with one GPU and little memory, and those of sbatch and srun."""
    step = ["srun", "--ntasks=3", "--gpus-per-task=1", "--mem-per-cpu=100", "env", "-0"]
    before = set(os.environ)
    for line in run_command(step).split("\0"):
        name, _, value = line.partition("=")
        if name and name not in before:
            monkeypatch.setenv(name, value)
    assert {"SLURM_NTASKS", "SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"} <= set(os.environ) - before
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CPU_BIND", "quiet,mask_cpu:0x8")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    monkeypatch.setenv("SBATCH_MEM_PER_NODE", "1")
    monkeypatch.setenv("SBATCH_ARRAY_INX", "0-9")
    monkeypatch.setenv("SLURM_EXPORT_ENV", "NONE")
    monkeypatch.setenv("SRUN_CONTAINER", "/nowhere")


@contextmanager
def banners(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a site's notice printed by SLURM's commands before what they say."""
    folder.mkdir(exist_ok=True)
    for name in PROGRAMS:
        (folder / name).write_text(BANNER.format(program=shutil.which(name)))
        (folder / name).chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield


def test_run_sent_from_inside_a_job_behind_a_banner_gets_what_the_dry_run_says(
    cluster, spots, tmp_path, monkeypatch
):
    inherit_a_job(monkeypatch)
    command = asked(tmp_path, spots, QUICK, "--set=resources.time_min=9")
    with banners(tmp_path / "bin", monkeypatch):
        done = call(tmp_path, *command, "--json")
        assert done.returncode == 0, done.stderr
        first = json.loads(done.stdout)
        sent = Sent(RunPaths(Path(first["run"])))
        assert sent.job() == first["job"]
        cancelled = call(tmp_path, "cancel", str(sent.run.root))
        assert cancelled.returncode == 0, cancelled.stderr
    assert cluster.squeue() == []
    told = [line for line in done.stderr.splitlines() if "not passed on to jobs" in line]
    assert len(told) == 1
    assert "SBATCH_MEM_PER_NODE, SBATCH_PARTITION, SBATCH_TIMELIMIT" in told[0]
    script = (sent.run.slurm / f"{first['job']}_submission.sh").read_text()
    assert script in call(tmp_path, *command, "--dry-run").stdout

    with banners(tmp_path / "bin", monkeypatch):
        assert sent.resumed() == [0]
    member, report = finished(cluster, sent)
    assert "SBATCH --time=9" in script
    assert picked(member, "Partition TimeLimit MinMemoryNode NumTasks") == [
        "batch",
        "00:09:00",
        "1946M",
        "1",
    ]
    assert picked(report, "Partition TimeLimit MinMemoryNode") == ["batch", "01:00:00", "4G"]


@pytest.mark.slow
def test_loopback_name_is_named_and_an_interface_in_the_profile_helps(cluster, spots, tmp_path):
    pair = "sbatch: {exclude: 'node[3-4]'}\n"
    for node in (1, 2):
        cluster.run("loopback", node)
    sent = submitted(tmp_path, spots, WIDE, more=pair)
    failure = failed(sent)["failure"]
    assert failure["name"] == "NO INTERFACE", failure
    assert "interface:" in failure["advice"]
    again = submitted(tmp_path, spots, WIDE, more=f"{pair}interface: eth0")
    assert again.run == sent.run
    assert trained(cluster, again)["NodeList"] == "node[1-2]"


@pytest.mark.slow
def test_limit_of_submitted_jobs_says_what_was_sent_and_resume_sends_the_rest(
    cluster, spots, tmp_path
):
    cluster.run("limit", 1)
    command = asked(tmp_path, spots, Work(folds=2, epochs=1), more="max_array_size: 1")
    refused = call(tmp_path, *command)
    assert refused.returncode == 1
    (run,) = (tmp_path / "batch").iterdir()
    sent = Sent(RunPaths(run))
    job = sent.job(0)
    first = (
        f"lenshpc: 1 of 2 members were submitted as job {job}, the others and the report were not: "
    )
    assert refused.stderr.startswith(first)
    assert "Job violates accounting/QOS policy" in refused.stderr
    assert [line["job"] for line in sent.status()["members"]] == [job, ""]
    wait_for(lambda: not sent.queued())

    second = call(tmp_path, "resume", str(run))
    assert second.returncode == 1
    last = f"lenshpc: 1 of 1 members were submitted as job {sent.job(1)}, the report was not: "
    assert second.stderr.startswith(last)
    for told in (refused.stderr, second.stderr):
        assert "when those have ended, submit the rest with: lenshpc resume " in told
    wait_for(lambda: not sent.queued())
    assert sent.resumed() == []
    finished(cluster, sent)


def test_doctor_counts_nodes_that_are_off_until_they_are_wanted(cluster, tmp_path):
    words = ["doctor", "--site", "elastic", "--partition", "elastic", "--json"]
    done = call(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [one for one in told["findings"] if one["level"] == "error"] == []
    profile = (tmp_path / "slurm" / "elastic.yaml").read_text()
    assert "partition: elastic" in profile
    assert "gpus_per_node: 4" in profile


@pytest.mark.slow
def test_member_wakes_a_node_that_is_off(cluster, spots, tmp_path):
    where = "cpu_jobs: {partition: cpu}"
    sent = submitted(tmp_path, spots, QUICK, partition="elastic", more=where)
    assert trained(cluster, sent)["NodeList"] == "node5"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("module load nothing", "setup failed (exit code 127): module load nothing"),
        ("exit 0", "setup ended the script before srun"),
    ],
)
def test_setup_line_that_ends_a_job_is_named(cluster, spots, tmp_path, line: str, told: str):
    sent = submitted(tmp_path, spots, QUICK, more=f"setup: ['{line}']")
    failure = failed(sent)["failure"]
    assert failure["name"] == "LAUNCH FAILURE"
    assert told in failure["line"]
    assert sent.status()["report"] == "FAILED"
