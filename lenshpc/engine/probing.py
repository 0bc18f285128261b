"""Try growing batches of a run's first member, for `lenshpc submit --probe`.

    python -m lenshpc.engine.probing FOLDER

FOLDER is that of a run that is never sent; what fits and how fast it is goes to a file there.
"""

import gc
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import torch

from lenshpc.data.fold import FoldData, open_fold
from lenshpc.engine import devices, distributed
from lenshpc.engine.distributed import Process
from lenshpc.engine.load import build_task
from lenshpc.engine.monitor import GB, memory_bytes
from lenshpc.engine.strategy import choose_strategy
from lenshpc.engine.switches import set_switches
from lenshpc.registry import Batch, Task
from lenshpc.run.manifest import NUMBERS
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import load_plan, load_splits, open_planned_store
from lenshpc.run.probed import ProbedBatch, note_probed
from lenshpc.run.recipe import Recipe

SECONDS = 2.0  # of the steps that are timed
WARM_UP = 2  # steps: the first choose kernels, and allocate
FIRST = 2  # batch norm refuses to learn from one image


def probe(run: RunPaths, seconds: float = SECONDS) -> None:
    """Note each power of two of images until memory ends, or the training rows do."""
    plan = load_plan(run)
    member = plan.members[0]
    recipe = _take_alone(plan.recipe_of(member))
    devices.restrict(os.environ, 0, recipe.resources)
    process = Process()
    distributed.start(process, 1, run.rendezvous, needs_group=recipe.strategy == "deepspeed")
    splits, store = load_splits(run, plan, NUMBERS), open_planned_store(plan)
    switches = set_switches(recipe.train, process.device)
    with switches, open_fold(plan, member, splits, store, process.device) as data:
        task = build_task(run, plan, member, store, data)
        probing = Probing(recipe, task, data, process, member.network, seconds)
        size, found = FIRST, None
        while size <= len(data.training.rows) and (found is None or found.fits):
            # Before it is tried: a process that the kernel ends says nothing afterwards.
            note_probed(run, ProbedBatch(batch_size=size))
            found = probing.measure(size)
            note_probed(run, found)
            size *= 2
    distributed.stop()


def _take_alone(recipe: Recipe) -> Recipe:
    """Return the recipe of one process, whose whole share goes through the network at once."""
    alone = {"nodes": 1, "gpus_per_node": min(1, recipe.resources.gpus_per_node)}
    resources = recipe.resources.model_copy(update={**alone, "tasks_per_node": None})
    way = "deepspeed" if recipe.strategy == "deepspeed" else "single"
    # Not compiled: each size would be, for minutes.
    plain = {"accumulate": 1, "strategy": way, "compile": "none"}
    train = recipe.train.model_copy(update=plain)
    return recipe.model_copy(update={"resources": resources, "train": train})


@dataclass(frozen=True)
class Probing:
    """What is tried: a network's training on one process."""

    recipe: Recipe
    task: Task
    data: FoldData
    process: Process
    network: str
    seconds: float

    def measure(self, size: int) -> ProbedBatch:
        """Return how fast steps of so many images are, or that they do not fit."""
        try:
            found = self._time(size)
        except (MemoryError, RuntimeError) as error:
            if not _lacks_memory(error):
                raise
            found = ProbedBatch(batch_size=size, fits=False)
        # What the failed or the last step held would be counted to the next size.
        gc.collect()
        if self.process.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.process.device)
        return found

    def _time(self, size: int) -> ProbedBatch:
        train = self.recipe.train.model_copy(update={"batch_size": size})
        recipe = self.recipe.model_copy(update={"train": train})
        torch.manual_seed(0)
        model = self.task.build_model(self.network)
        strategy = choose_strategy(recipe, self.task, model, self.process)
        progress = torch.zeros((), device=self.process.device)
        batches = self._batches(size)
        for batch in islice(batches, WARM_UP):
            strategy.step({**batch, "progress": progress})
        self._wait()
        began, num = time.monotonic(), 0
        while num == 0 or time.monotonic() - began < self.seconds:
            strategy.step({**next(batches), "progress": progress})
            num += 1
        self._wait()
        speed = num * size / (time.monotonic() - began)
        used, limit = self._memory_bytes(), self.recipe.resources.mem_gb_per_gpu * GB
        fits = self.process.device.type != "cpu" or used <= limit
        return ProbedBatch(
            batch_size=size, images_per_s=round(speed, 1), memory_gb=round(used / GB, 3), fits=fits
        )

    def _batches(self, size: int) -> Iterator[Batch]:
        """Yield batches of that size, as training reads and changes them, for ever."""
        data = replace(self.data, training=replace(self.data.training, batch_size=size))
        consistency = self.recipe.method.unlabelled
        if data.unlabelled is not None and consistency is not None:
            order = replace(data.unlabelled.order, num_a_step=size * consistency.ratio)
            data = replace(data, unlabelled=replace(data.unlabelled, order=order))
        for epoch in count():
            yield from data.training_batches(epoch, rank=0, world_size=1, done=0)

    def _wait(self) -> None:
        if self.process.device.type == "cuda":
            torch.cuda.synchronize(self.process.device)

    def _memory_bytes(self) -> int:
        device = self.process.device
        on_gpu = device.type == "cuda"
        return torch.cuda.max_memory_reserved(device) if on_gpu else memory_bytes()


def _lacks_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in ("can't allocate memory", "out of memory"))


if __name__ == "__main__":
    probe(RunPaths(Path(sys.argv[1])))
