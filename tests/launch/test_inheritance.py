"""What commands of SLURM get of the shell that lenshpc is called in."""

import os
import re
import subprocess

import pytest

from lenshpc.cli.show import say_withheld
from lenshpc.launch.followup import FOLLOW
from lenshpc.launch.sites import Site
from lenshpc.launch.slurm import environment

# As srun of SLURM 22.05 gives them to a task, and what people have in their .bashrc.
OUTER = {
    "SLURM_JOB_ID": "7",
    "SLURM_MEM_PER_CPU": "200",
    "SLURM_GPUS_PER_TASK": "1",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_NTASKS": "3",
    "SLURM_TIME_FORMAT": "relative",
    "SLURMD_NODENAME": "node1",
    "PMI_RANK": "0",
    "CUDA_VISIBLE_DEVICES": "2",
    "ROCR_VISIBLE_DEVICES": "2",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_ACCOUNT": "mine",
    "SRUN_CPUS_PER_TASK": "9",
    "SQUEUE_FORMAT": "%i",
    "SQUEUE_PARTITION": "other",
    "SACCT_FORMAT": "JobID",
    "SCANCEL_INTERACTIVE": "1",
}
KEPT = {
    "SLURM_CONF": "/etc/s",
    "SLURM_CLUSTERS": "big",
    "SLURM_JWT": "token",
    "NCCL_DEBUG": "INFO",
    "HOME": "/h",
}


@pytest.fixture(autouse=True)
def shell(monkeypatch):
    for name in [*filter(re.compile("SLURM|SBATCH|SRUN").match, os.environ)]:
        monkeypatch.delenv(name)
    for name, value in {**OUTER, **KEPT}.items():
        monkeypatch.setenv(name, value)


def test_commands_of_slurm_get_nothing_of_an_outer_job_but_the_cluster():
    told = environment()
    assert told.items() >= KEPT.items()
    assert not OUTER.keys() & told.keys()


def test_what_is_not_handed_on_is_named_once(capsys):
    say_withheld(Site(name="s", scheduler="slurm", account="mine"))
    assert capsys.readouterr().err == (
        "note: not passed on to jobs, which get what the profile says: SBATCH_TIMELIMIT, "
        "SLURM_CPU_BIND, SLURM_GPUS_PER_TASK, SLURM_JOB_ID, SLURM_MEM_PER_CPU, SLURM_NTASKS and 2 "
        "more\n"
    )
    say_withheld(Site(name="here", scheduler="local"))
    assert capsys.readouterr().err == ""


def test_follow_up_hands_on_as_little(tmp_path):
    lines = FOLLOW.format(slurm=tmp_path) + "env\n"
    told = subprocess.run(["sh", "-c", lines], capture_output=True, text=True, check=True).stdout
    names = {line.partition("=")[0] for line in told.splitlines()}
    assert names >= KEPT.keys()
    heeded = {name for name in OUTER if name.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    assert not (heeded | {"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"}) & names
