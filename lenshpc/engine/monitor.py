"""Measure what this process uses, every few seconds, in a thread that cannot hold it up.

Processor time and memory come from the kernel, those of the GPU from NVML. The thread is a daemon
and waits for nothing of the member's; whatever goes wrong in it ends the measuring alone.
"""

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenshpc.engine import distributed
from lenshpc.engine.cards import find_gpu
from lenshpc.engine.distributed import Process
from lenshpc.files import write_json
from lenshpc.run.measured import Measured

SAMPLE_S = 5.0
WRITE_S = 30.0
END_S = 2.0  # for the last sample, once the member has ended
GB = 1024**3  # as SLURM counts
TICKS = os.sysconf("SC_CLK_TCK")  # a second
PAGE = os.sysconf("SC_PAGE_SIZE")
SELF = Path("/proc/self")


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """What NVML says of a GPU: the part of the last second in which it computed, and bytes."""

    busy: float | None = None
    memory_bytes: int | None = None
    total_bytes: int | None = None


class Tally:
    """The means and peaks of samples, and what the training tells of itself.

    `tflops` is what it computes a second, of `peak_tflops`; `step_bytes` the memory of the GPU that
    its steps take.
    """

    def __init__(self) -> None:
        self._peaks: dict[str, Any] = {}
        self._busy_sum, self._num_busy = 0.0, 0
        self._before = (0.0, 0)  # the same two at the last lap
        self.tflops: float | None = None
        self.peak_tflops: float | None = None
        self.step_bytes = 0

    def add(self, memory_bytes: int, gpu: GpuSample) -> None:
        """Add a sample of the process and one of its GPU."""
        if gpu.busy is not None:
            self._busy_sum, self._num_busy = self._busy_sum + gpu.busy, self._num_busy + 1
        seen = {
            "memory_bytes": memory_bytes,
            "gpu_busy_peak": gpu.busy,
            "gpu_memory_bytes": gpu.memory_bytes,
            "gpu_memory_total_bytes": gpu.total_bytes,
        }
        for name, value in seen.items():
            if value is not None:
                self._peaks[name] = max(value, self._peaks.get(name, value))

    def measure(self, process: Process) -> Measured:
        """Return what the process has used until now."""
        return Measured(
            job=process.job,
            restart=process.restart,
            rank=process.rank,
            node=distributed.hostname(),
            updated=time.time(),
            seconds=_age_s(),
            cpu_s=cpu_seconds(),
            gpu_busy=self._busy_sum / self._num_busy if self._num_busy else None,
            tflops=self.tflops,
            peak_tflops=self.peak_tflops,
            **self._peaks,
        )

    def measure_lap(self) -> dict[str, float]:
        """Return the process's peak of memory, and how busy its GPU was since the last lap."""
        told = {"host_gb": memory_bytes() / GB}
        busy = self._busy_sum, self._num_busy
        samples = busy[1] - self._before[1]
        if samples:
            told["gpu_busy"] = (busy[0] - self._before[0]) / samples
        self._before = busy
        return told


@contextmanager
def watch_usage(path: Path, process: Process, tally: Tally) -> Iterator[None]:
    """Tally what this rank uses and keep it in a file, until the block ends."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(path, process, ended, tally), daemon=True)
    with suppress(RuntimeError):  # no thread is to be had here
        thread.start()
    try:
        yield
    finally:
        ended.set()
        # Never without a limit: the file system or the GPU's driver may not answer any more.
        if thread.is_alive():
            thread.join(END_S)


def _watch(path: Path, process: Process, ended: threading.Event, tally: Tally) -> None:
    with suppress(Exception):  # nothing that is measured is worth a member
        path.parent.mkdir(mode=0o700, exist_ok=True)
        sample_gpu: Callable[[], GpuSample] = GpuSample
        with suppress(Exception):  # no NVML here, or one of another kind: the rest is measured
            sample_gpu = open_gpu(find_gpu(process.device))
        written, has_ended = -WRITE_S, False
        while not has_ended:
            has_ended = ended.wait(SAMPLE_S)
            tally.add(memory_bytes(), sample_gpu())
            if has_ended or time.monotonic() - written >= WRITE_S:
                written = time.monotonic()
                with suppress(OSError):  # the disk may have room again next time
                    write_json(path, tally.measure(process).model_dump(mode="json"))


def open_gpu(name: str) -> Callable[[], GpuSample]:
    """Return what samples the GPU or MIG slice of that UUID; nothing of one NVML knows not."""
    if not name:
        return GpuSample
    import pynvml

    def ask(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except pynvml.NVMLError:  # no driver, no such GPU, or a figure that a slice has not
            return None

    def sample() -> GpuSample:
        rates = ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
        memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
        return GpuSample(
            busy=rates.gpu / 100 if rates else None,
            memory_bytes=memory.used if memory else None,
            total_bytes=memory.total if memory else None,
        )

    ask(pynvml.nvmlInit)
    handle = ask(pynvml.nvmlDeviceGetHandleByUUID, name)
    if handle is None:
        return GpuSample
    # What a whole GPU tells is not ours where it is cut into slices.
    is_cut = not name.startswith("MIG-") and (ask(pynvml.nvmlDeviceGetMigMode, handle) or [0])[0]
    return GpuSample if is_cut else sample


def cpu_seconds() -> float:
    """Return the processor time of this process and its children, ended ones included."""
    mine = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # utime and stime of each child, cutime and cstime of those that it has outlived
    ticks = (int(field) for child in _children() for field in _stat(child)[11:15])
    return sum(used.ru_utime + used.ru_stime for used in mine) + sum(ticks) / TICKS


def memory_bytes() -> int:
    """Return what this process and its children hold, and no less than it alone ever held."""
    # Not `ru_maxrss`, which begins with that of the process which started this one.
    status = dict(line.split(":", 1) for line in _read(SELF / "status").splitlines())
    pages = (
        int(one) for each in (SELF, *_children()) for one in _read(each / "statm").split()[1:2]
    )
    return max(int(status["VmHWM"].split()[0]) * 1024, sum(pages) * PAGE)


def _age_s() -> float:
    """Return for how long this process has run."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(_stat(SELF)[19]) / TICKS


def _children() -> list[Path]:
    """Return the folders in /proc of all that this process has started, directly or not."""
    found = [SELF]
    for each in found:  # grows as it goes
        children = (_read(path).split() for path in each.glob("task/*/children"))
        found += [Path("/proc", child) for some in children for child in some]
    return found[1:]


def _stat(process: Path) -> list[str]:
    """Return the fields after the command's name, which may hold anything."""
    return _read(process / "stat").rpartition(")")[2].split()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return ""
