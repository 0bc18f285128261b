"""A trace of some training steps, and which operations took the time of them.

`trace.json.gz` opens in Perfetto (ui.perfetto.dev) and in Chrome; `operations.txt` is a table.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from lenshpc.files import replacing, write_text

SKIPPED, WARM_UP, STEPS = 3, 2, 10  # memory is allocated and kernels are chosen in the first ones
ROWS = 40
log = logging.getLogger(__name__)


class StepProfiler:
    """Records ten steps of a training after its first five, once; changes nothing in it."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._on_gpu = folder, device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        self._profile: profile | None = profile(
            activities=activities,
            schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=STEPS, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )
        self._profile.start()
        self._taken = 0

    def end_step(self) -> None:
        """Note that a step was taken."""
        if self._profile is None:
            return
        self._taken += 1
        self._profile.step()
        if self._taken == SKIPPED + WARM_UP + STEPS:
            self.close()

    def close(self) -> None:
        """Write what was recorded so far, and record no more."""
        ended, self._profile = self._profile, None
        if ended is not None:
            ended.stop()

    def _write(self, ended: Any) -> None:
        self._folder.mkdir(exist_ok=True)
        trace, table = self._folder / "trace.json.gz", self._folder / "operations.txt"
        with replacing(trace) as temporary:
            # It compresses what is called so.
            named = temporary.with_name(f"{temporary.name}.gz")
            ended.export_chrome_trace(str(named))
            named.replace(temporary)
        order = "self_cuda_time_total" if self._on_gpu else "self_cpu_time_total"
        write_text(table, ended.key_averages().table(sort_by=order, row_limit=ROWS))
        steps = self._taken - SKIPPED - WARM_UP
        log.info("the trace of %d steps is in %s, what took longest in %s", steps, trace, table)
