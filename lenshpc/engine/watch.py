"""What is seen of a training beside its metrics: its speed, and what it uses. Changes nothing."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from lenshpc.engine.distributed import Process, device_name
from lenshpc.engine.monitor import GB, Tally
from lenshpc.engine.profiling import StepProfiler
from lenshpc.engine.throughput import StepCounter, find_peak
from lenshpc.errors import one_line
from lenshpc.registry import Batch, Task
from lenshpc.run.paths import MemberPaths
from lenshpc.run.sections import Train

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Watch:
    """The watch over one process's training; `counter` and `profiler` are rank 0's alone."""

    tally: Tally
    device: torch.device
    peak_tflops: float | None = None
    counter: StepCounter | None = None
    profiler: StepProfiler | None = None
    step_flops: int = field(default=0, init=False)

    def follow(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches; each is trained on before the next is asked for."""
        taken = False
        for batch in batches:
            yield batch
            taken = True
            if self.counter is not None:
                # After a step: what a task makes once, as constants on the device, is there, and
                # is not made of tensors without values.
                counter, self.counter = self.counter, None
                with _counting():
                    self.step_flops = counter.count(batch)
            if self.profiler is not None:
                self.profiler.end_step()
        if taken and self.device.type == "cuda" and not self.tally.step_bytes:
            # Before anything is predicted, which has a peak of its own. What lies there between two
            # steps is weights and images.
            held = torch.cuda.memory_allocated(self.device)
            self.tally.step_bytes = torch.cuda.max_memory_allocated(self.device) - held

    def measure(self, step_s: float) -> dict[str, float]:
        """Return the figures of an epoch whose steps took so long; what is unknown is left out."""
        told = self.tally.measure_lap()
        if self.device.type == "cuda":
            told["gpu_gb"] = torch.cuda.max_memory_allocated(self.device) / GB
        if self.step_flops:
            told["tflops"] = self.step_flops / step_s / 1e12
            if self.device.type != "cpu":  # what is used of a GPU; of a core it says nothing
                self.tally.tflops = told["tflops"]
            if self.peak_tflops is not None:
                self.tally.peak_tflops = self.peak_tflops
                told["peak_share"] = told["tflops"] / self.peak_tflops
        return told

    def close(self) -> None:
        """End what records."""
        if self.profiler is not None:
            self.profiler.close()


def make_watch(
    task: Task,
    model: nn.Module,
    train: Train,
    process: Process,
    paths: MemberPaths,
    tally: Tally,
) -> Watch:
    """Return the watch over a training of a network that no strategy has taken yet."""
    device = process.device
    watch = Watch(tally=tally, device=device, peak_tflops=find_peak(device_name(device), train))
    if process.is_main:
        with _counting():
            watch.counter = StepCounter(task, model, train, device)
        if train.profile:
            watch.profiler = StepProfiler(paths.profile, device)
    return watch


@contextmanager
def _counting() -> Iterator[None]:
    """Go on where a network cannot be counted: no training is worth less for it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever a task's code does without values
        told = one_line(f"{type(error).__name__}: {error}")
        log.info("the operations of a step are not counted: %s", told)
