"""What a member measures of itself is what the kernel tells elsewhere, and never harms it."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from ranks import planned, recipe

from lenshpc.engine import monitor
from lenshpc.engine.distributed import Process
from lenshpc.engine.monitor import GpuSample, Tally, watch_usage
from lenshpc.launch.usage import run_usage
from lenshpc.run.measured import Measured, read_measured
from lenshpc.run.paths import RunPaths
from lenshpc.run.records import read_record
from lenshpc.store import Store

# a member as a rank runs it, between two looks at what the kernel counts
RANK = """
import json, resource, sys
from lenshpc.worker import run_member
def used():
    mine = resource.getrusage(resource.RUSAGE_SELF)
    return mine.ru_utime + mine.ru_stime, mine.ru_maxrss * 1024
before, _ = used()
run_member(sys.argv[1], 0)
print(json.dumps([before, *used()]))
"""
# a process with a child that holds 200 MiB and has worked, and then that child's end
FAMILY = """
import json, resource, subprocess, sys
from lenshpc.engine.monitor import cpu_seconds, memory_bytes
CHILD = '''
import resource, sys
held = bytearray(200 << 20)
while resource.getrusage(resource.RUSAGE_SELF).ru_utime < 0.5:
    held[::4096] = bytes(len(held[::4096]))
print(flush=True)
sys.stdin.read()
'''
alone = cpu_seconds(), memory_bytes()
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
child = subprocess.Popen([sys.executable, "-S", "-c", CHILD], **pipes)
child.stdout.readline()
together = cpu_seconds(), memory_bytes()
child.communicate()
print(json.dumps([alone, together, cpu_seconds()]))
"""


def start(script: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """Start a script from a small shell: a process inherits the peak of what started it."""
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", script, *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def told(process: "subprocess.Popen[str]") -> list:
    """Return what a process printed last."""
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    return json.loads(printed.splitlines()[-1])


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_of_a_training_measure_what_the_kernel_counts(
    tmp_path: Path, spots: Store, size: int
) -> None:
    asked = recipe(folds=1, train__epochs=1, resources={"gpus_per_node": size, "cpus_per_gpu": 1})
    run, plan = planned(tmp_path, spots, asked)
    job = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "7"}
    ranks = [
        start(
            RANK,
            str(run.root),
            **job,
            SUBMITIT_LOCAL_NTASKS=str(size),
            SUBMITIT_LOCAL_GLOBALID=str(rank),
            SUBMITIT_LOCAL_LOCALID=str(rank),
        )
        for rank in range(size)
    ]
    counted = [told(rank) for rank in ranks]
    measured = read_measured(run)["7"]
    assert [one.rank for one in measured] == list(range(size))
    for one, (before_s, after_s, peak_bytes) in zip(measured, counted, strict=True):
        assert before_s <= one.cpu_s <= after_s
        assert one.memory_bytes == pytest.approx(peak_bytes, rel=0.05)
        assert (one.gpu_busy, one.gpu_memory_bytes) == (None, None)
    [attempt] = run_usage(run, plan).attempts
    assert (attempt.job, attempt.use.cpus_asked, attempt.use.gpus_asked) == ("7", size, 0)
    assert attempt.use.memory_gb == pytest.approx(sum(one[2] for one in counted) / 2**30, rel=0.05)
    seconds = max(one.seconds for one in measured)
    assert attempt.use.cpus == pytest.approx(sum(one.cpu_s for one in measured) / seconds)


def test_children_count_while_they_live_and_after() -> None:
    (alone_s, alone_bytes), (together_s, together_bytes), after_s = told(start(FAMILY))
    assert together_s - alone_s >= 0.5
    assert after_s >= together_s - 0.02  # a live child's time is counted in ticks of 10 ms
    assert together_bytes - alone_bytes > 150 << 20


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample often."""
    monkeypatch.setattr(monitor, "SAMPLE_S", 0.001)
    monkeypatch.setattr(monitor, "WRITE_S", 0.0)


RECORDED = [
    GpuSample(busy=0.0, memory_bytes=1 << 30, total_bytes=80 << 30),
    GpuSample(busy=0.97, memory_bytes=11 << 30, total_bytes=80 << 30),
    GpuSample(),  # it did not answer
    GpuSample(busy=0.83, memory_bytes=10 << 30, total_bytes=80 << 30),
]


def test_gpu_is_told_by_mean_and_peak_of_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    left, ended = iter(RECORDED), threading.Event()

    def sample() -> GpuSample:
        found = next(left, None)
        if found is None:
            ended.set()
        return found or GpuSample()

    monkeypatch.setattr(monitor, "open_gpu", lambda name: sample)
    path = tmp_path / "usage" / "5.1.0.json"
    with watch_usage(path, Process(job="5", restart=1), Tally()):
        assert ended.wait(60)
    one = read_record(Measured, path)
    assert (one.job, one.restart, one.rank) == ("5", 1, 0)
    assert one.gpu_busy == pytest.approx(0.6)
    assert one.gpu_busy_peak == 0.97
    assert (one.gpu_memory_bytes, one.gpu_memory_total_bytes) == (11 << 30, 80 << 30)


def test_attempt_that_is_killed_has_what_was_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    path = tmp_path / "usage" / "5.0.0.json"
    with watch_usage(path, Process(job="5"), Tally()):
        while not path.exists():
            time.sleep(0.001)
        assert read_record(Measured, path).cpu_s > 0


def test_driver_that_does_not_answer_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    hangs, released = threading.Event(), threading.Event()

    def hang(name: str) -> None:
        hangs.set()
        released.wait()

    monkeypatch.setattr(monitor, "open_gpu", hang)
    monkeypatch.setattr(monitor, "END_S", 0.01)
    with watch_usage(tmp_path / "one.json", Process(), Tally()):
        assert hangs.wait(60)
    released.set()


def test_process_is_measured_where_the_gpu_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    monkeypatch.setattr(monitor, "find_gpu", lambda device: "GPU-1")
    path = tmp_path / "usage" / "5.0.0.json"
    with watch_usage(path, Process(job="5"), Tally()):
        pass
    one = read_record(Measured, path)
    assert (one.cpu_s > 0, one.gpu_busy, one.gpu_memory_bytes) == (True, None, None)


def test_file_that_cannot_be_written_ends_nothing(tmp_path: Path, quick: None) -> None:
    (tmp_path / "usage").write_text("no folder")
    run = RunPaths(tmp_path)
    with watch_usage(tmp_path / "usage" / "one.json", Process(), Tally()):
        pass
    assert read_measured(run) == {}


def test_gpu_without_a_driver_is_not_measured() -> None:
    assert monitor.open_gpu("GPU-00000000-0000-0000-0000-000000000000")() == GpuSample()
    assert monitor.open_gpu(monitor.find_gpu(torch.device("cpu")))() == GpuSample()


def test_slice_of_a_gpu_is_looked_up_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    slices = ["MIG-4d806f22-346a-5a1d-ba01-86b505cdf485", "MIG-GPU-8932f937/1/0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ", ".join(slices))
    assert [monitor.find_gpu(torch.device("cuda", at)) for at in range(2)] == slices


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_is_the_one_that_torch_uses() -> None:
    device = torch.device("cuda", 0)
    held = torch.zeros(1 << 30, dtype=torch.uint8, device=device)
    free, total = torch.cuda.mem_get_info(device)
    sample = monitor.open_gpu(monitor.find_gpu(device))()
    assert sample.total_bytes == pytest.approx(total, rel=0.05)
    assert sample.memory_bytes == pytest.approx(total - free, rel=0.05, abs=1 << 30)
    assert sample.memory_bytes >= held.nbytes
    assert 0 <= sample.busy <= 1
