"""The ends of real logs are recognised, and causes before what other ranks see of them.

Seen on this project's cluster (SLURM 22.05.8, torch 2.13): EXECVE, UNABLE, MEMORY, PREEMPTED,
CANCELLED, MODULE, GLOO_PEER, GLOO_STALLED, TIME_LIMIT, DISK_FULL, TORCH_SAVE, CPU_MEMORY; NAN
and INPUT are lenshpc's own. The others are quoted from where their comment says.
"""

from pathlib import Path

import pytest

import lenshpc
from lenshpc.errors import LaunchError
from lenshpc.launch.failures import classify, read_tails
from lenshpc.launch.rules import RULES, UNKNOWN

ALL = (*RULES, UNKNOWN)

EXECVE = """\
srun: error: node2: task 0: Exited with exit code 2
slurmstepd-node2: error: execve(): /shared/envs/none/bin/python: No such file or directory
"""
UNABLE = (
    "srun: error: Unable to create step for job 4992208: More processors requested than permitted"
)
MEMORY = """\
slurmstepd-node1: error: StepId=4992209.0 exceeded memory limit (640569344 > 157286400), being \
killed
slurmstepd-node1: error: Exceeded job memory limit
slurmstepd-node1: error: *** STEP 4992209.0 ON node1 CANCELLED AT 2026-11-21T08:32:11 ***
srun: Job step aborted: Waiting up to 5 seconds for job step to finish.
srun: error: node1: task 0: Killed
"""
PREEMPTED = """\
slurmstepd-node4: error: *** JOB 4992203 ON node4 CANCELLED AT 2026-11-21T08:32:11 DUE \
TO PREEMPTION ***
srun: Job step aborted: Waiting up to 5 seconds for job step to finish.
srun: got SIGCONT
srun: forcing job termination
srun: error: node4: task 0: Terminated
"""
CANCELLED = """\
srun: Job step aborted: Waiting up to 5 seconds for job step to finish.
slurmstepd-node1: error: *** JOB 4992210 ON node1 CANCELLED AT 2026-11-21T08:32:10 ***
srun: error: node1: task 0: Terminated
"""
MODULE = "/tmp/lab/spool/node1/job4992212/slurm_script: 4: module: not found"
GLOO_PEER = """\
[rank0]: Traceback (most recent call last):
[rank0]:     work.wait()
[rank0]: RuntimeError: [/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] \
Connection closed by peer [10.213.77.11]:48624. This is typically caused by a remote worker \
crashing. Check the logs of the remote worker before reporting an error. GLHF! 🏖️
srun: error: node1: task 1: Exited with exit code 9
"""
DISK_FULL = "OSError: [Errno 28] No space left on device"
TORCH_SAVE = "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"
CPU_MEMORY = (
    "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
    "allocate memory: you tried to allocate 4503599627370496 bytes. Error code 12 (Cannot allocate "
    "memory)"
)
GLOO_STALLED = (
    "[rank0]: RuntimeError: [/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/"
    "unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation to complete"
)
TIME_LIMIT = """\
slurmstepd-node1: error: *** STEP 5167702.0 ON node1 CANCELLED AT 2026-11-21T09:02:59 DUE TO TIME \
LIMIT ***
slurmstepd-node1: error: *** JOB 5167702 ON node1 CANCELLED AT 2026-11-21T09:02:59 DUE TO TIME \
LIMIT ***
srun: error: node1: task 0: Terminated
"""
# OFA-Sys/OFA#271
NCCL_STALLED = (
    "[E ProcessGroupNCCL.cpp:737] [Rank 1] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=469508, OpType=ALLREDUCE, Timeout(ms)=1800000) ran for 1802212 milliseconds "
    "before timing out."
)
# pytorch/pytorch#16417
CUDA_MEMORY = (
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a "
    "total capacity of 23.65 GiB of which 11.06 MiB is free."
)
# nextflow-io/nextflow#5932
OOM_KILL = """\
slurmstepd: error: Detected 1 oom_kill event in StepId=11300781.0. Some of the step tasks have \
been OOM Killed.
srun: error: sdumont6156: task 0: Out Of Memory
"""
# ArjunaCluster/ArjunaUsers#52
OOM_KILL_OLD = (
    "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=191.batch cgroup. Some of your "
    "processes may have been killed by the cgroup out-of-memory handler."
)
# facebookincubator/submitit#1708
REQUEUED = (
    "slurmstepd: error: *** JOB 608 ON gpu1 CANCELLED AT 2022-08-12T02:06:12 DUE TO JOB REQUEUE ***"
)
# open-mmlab/mmdetection#12069
QUOTA = "OSError: [Errno 122] Disk quota exceeded"
# jade-hpc-gpu/jade-hpc-gpu.github.io#194
ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"
# hafs-community/HAFS#101
BUS_ERROR = "srun: error: Orion-18-69: task 289: Bus error"
# snakemake/snakemake-executor-plugin-slurm#225
LAUNCH = "srun: error: Task launch for StepId=125452.4 failed on node n1: Unable to layout tasks"
# slurmstepd/mgr.c of SLURM
CHDIR = (
    "slurmstepd: error: couldn't chdir to `/shared/runs': No such file or directory: going to "
    "/tmp instead"
)
NODE_FAILURE = (
    "slurmstepd: error: *** JOB 77 ON gpu3 CANCELLED AT 2024-05-01T10:00:00 DUE TO NODE FAILURE, "
    "SEE SLURMCTLD LOG FOR DETAILS ***"
)
NAN = (
    "lenshpc.errors.LensHpcError: the training loss became nan in epoch 3; lower train.lr, set "
    "train.clip_norm=1, or look at the data with lenshpc info"
)
INPUT = "lenshpc.errors.DataError: no store at /shared/stores/lenses"


@pytest.mark.parametrize(
    ("state", "exit_code", "log", "name", "action"),
    [
        ("NODE_FAIL", "0:0", GLOO_PEER, "NODE FAIL", "exclude node"),
        ("FAILED", "1:0", NODE_FAILURE, "NODE FAIL", "exclude node"),
        ("TIMEOUT", "0:0", GLOO_PEER, "TIMEOUT", "requeue"),
        ("UNKNOWN", "0:0", TIME_LIMIT, "TIMEOUT", "requeue"),
        ("PREEMPTED", "0:0", "", "PREEMPTED", "requeue"),
        ("UNKNOWN", "0:0", PREEMPTED, "PREEMPTED", "requeue"),
        ("UNKNOWN", "0:0", REQUEUED, "PREEMPTED", "requeue"),
        ("OUT_OF_MEMORY", "0:125", "", "OUT OF MEMORY", "stop"),
        ("FAILED", "9:0", MEMORY, "OUT OF MEMORY", "stop"),
        ("CANCELLED", "0:0", MEMORY, "OUT OF MEMORY", "stop"),
        ("FAILED", "1:0", OOM_KILL, "OUT OF MEMORY", "stop"),
        ("FAILED", "1:0", OOM_KILL_OLD, "OUT OF MEMORY", "stop"),
        ("FAILED", "1:0", CPU_MEMORY, "OUT OF MEMORY", "stop"),
        ("FAILED", "1:0", CUDA_MEMORY, "GPU OUT OF MEMORY", "stop"),
        ("FAILED", "1:0", DISK_FULL, "DISK FULL", "stop"),
        ("FAILED", "1:0", TORCH_SAVE, "DISK FULL", "stop"),
        ("FAILED", "1:0", QUOTA, "DISK FULL", "stop"),
        ("FAILED", "1:0", ECC, "GPU FAULT", "exclude node"),
        ("FAILED", "1:0", CHDIR, "NO SHARED FILES", "exclude node"),
        ("FAILED", "1:0", NAN, "NAN LOSS", "stop"),
        ("FAILED", "1:0", INPUT, "WRONG INPUT", "stop"),
        ("FAILED", "2:0", EXECVE, "LAUNCH FAILURE", "stop"),
        ("FAILED", "1:0", UNABLE, "LAUNCH FAILURE", "stop"),
        ("FAILED", "127:0", MODULE, "LAUNCH FAILURE", "stop"),
        ("FAILED", "1:0", LAUNCH, "LAUNCH FAILURE", "stop"),
        ("FAILED", "1:0", "ValueError: x", "PYTHON ERROR", "stop"),
        ("FAILED", "1:0", GLOO_STALLED, "COLLECTIVE TIMEOUT", "requeue"),
        ("FAILED", "6:0", NCCL_STALLED, "COLLECTIVE TIMEOUT", "requeue"),
        ("FAILED", "9:0", GLOO_PEER, "RANK LOST", "requeue"),
        ("FAILED", "7:0", BUS_ERROR, "KILLED", "requeue"),
        ("FAILED", "0:9", "", "KILLED", "requeue"),
        ("FAILED", "137:0", "", "KILLED", "requeue"),
        ("CANCELLED", "0:15", "", "CANCELLED", "stop"),
        ("UNKNOWN", "0:0", CANCELLED, "CANCELLED", "stop"),
        ("FAILED", "1:0", "", "UNKNOWN", "stop"),
    ],
)
def test_failure_is_named_from_state_exit_code_and_log(state, exit_code, log, name, action):
    failure = classify(state, exit_code, [log])
    assert (failure.name, failure.action) == (name, action)
    assert failure.meaning
    assert failure.advice


def test_cause_in_another_ranks_log_comes_before_the_lost_connection():
    failure = classify("FAILED", "1:0", [GLOO_PEER, "[rank1]: ValueError: bad image"])
    assert (failure.name, failure.line) == ("PYTHON ERROR", "ValueError: bad image")
    assert classify("FAILED", "1:0", [GLOO_PEER, CUDA_MEMORY]).name == "GPU OUT OF MEMORY"


def test_earlier_attempts_in_the_same_log_do_not_count():
    start = "submitit INFO (2026-11-21 08:00:00,000) - Starting with JobEnvironment(job_id=5)"
    assert classify("FAILED", "1:0", [f"{start}\n{CUDA_MEMORY}\n{start}\nValueError: x"]) == (
        classify("FAILED", "1:0", ["ValueError: x"])
    )


def test_job_that_came_back_and_did_not_begin_is_not_named_by_what_it_wrote_before():
    start = "submitit INFO (2026-11-21 08:00:00,000) - Starting with JobEnvironment(job_id=5)"
    before, again = f"{start}\n{NODE_FAILURE}", "lenshpc: job begins again"
    setup = "lenshpc: setup failed (exit code 1): module load cuda"
    logs = [f"{before}\n{again}\n{setup}", f"{start}\n{CUDA_MEMORY}"]
    assert classify("FAILED", "1:0", logs) == classify("FAILED", "1:0", [setup])
    # once it has begun, the logs of all its ranks count
    assert classify("FAILED", "1:0", [f"{before}\n{again}\n{start}", logs[1]]).name == (
        "GPU OUT OF MEMORY"
    )


@pytest.mark.parametrize(
    ("log", "nodes", "node"),
    [
        (NODE_FAILURE, "gpu[1-9]", "gpu3"),
        (BUS_ERROR, "", "Orion-18-69"),
        (ECC, "gpu7", "gpu7"),
        (ECC, "gpu[7-8]", ""),
        (ECC, "gpu7,cpu1", ""),
    ],
)
def test_culprit_is_the_node_in_the_log_or_the_only_one(log, nodes, node):
    assert classify("FAILED", "1:0", [log], nodes).node == node


NODE = {"SLURMD_NODENAME": "gpu7", "CUDA_VISIBLE_DEVICES": "1"}


def told(error):
    """Return the name of the failure that a log with this error tells, what follows, the node."""
    failure = classify("FAILED", "1:0", [f"lenshpc.errors.LaunchError: {error}"], "gpu[1-9]")
    return failure.name, failure.action, failure.node


def torch_sees_gpus():
    import torch

    return torch.cuda.is_available()


def test_rank_refuses_the_cpu_where_cuda_is_dead_and_its_node_is_to_blame():
    from lenshpc.engine.distributed import ask_cuda, refuse_dead_gpus

    devices = [Path("/dev/nvidia0"), Path("/dev/nvidia1")]
    with pytest.raises(LaunchError, match="nvidia0, nvidia1") as caught:
        refuse_dead_gpus(devices, NODE, "No CUDA GPUs are available")
    assert told(caught.value) == ("NO GPU", "exclude node", "gpu7")
    with pytest.raises(LaunchError) as caught:
        refuse_dead_gpus(devices, NODE, "The NVIDIA driver on your system is too old")
    assert told(caught.value)[:2] == ("DRIVER TOO OLD", "stop")
    refuse_dead_gpus([], {"CUDA_VISIBLE_DEVICES": "1"}, "")
    refuse_dead_gpus(devices, {"CUDA_VISIBLE_DEVICES": ""}, "")
    assert bool(ask_cuda()) != torch_sees_gpus()


def test_commands_page_has_every_failure_with_its_action_and_advice():
    page = (Path(lenshpc.__file__).parents[1] / "docs" / "commands.md").read_text()
    rows = [
        f"- **{one.name}** (*{one.action}*): {one.meaning}. What to do: {one.advice}."
        for one in ALL
    ]
    listed = page[page.index("- **NODE FAIL**") :].split("\n\n")[0]
    assert " ".join(listed.split()) == " ".join(rows)


def test_last_lines_are_of_the_log_with_the_evidence(tmp_path):
    quiet, loud = tmp_path / "0.out", tmp_path / "1.out"
    quiet.write_text("epoch 1\n")
    loud.write_text("".join(f"line {number}\n" for number in range(5000)) + MEMORY)
    failure = classify("FAILED", "9:0", read_tails([quiet, loud, tmp_path / "absent"]))
    assert failure.line == "slurmstepd-node1: error: Exceeded job memory limit"
    assert failure.tail == (
        *(f"line {number}" for number in range(4995, 5000)),
        *MEMORY.splitlines(),
    )
