"""Time what checkpoints cost a training: ResNet-50 with AdamW, with and without a moving average.

One process on one thread. `waits` is what training waits for at each checkpoint; `core` are the
processor's seconds of the thread that writes it. Where a process has one core, both are lost to
training, so their sum is the cost: its share of a minute is what one a minute costs. `lost` is the
same, measured: how much longer as many steps take with one checkpoint among them.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import Table, Target, report, scratch, spread
from torch import Tensor, nn

from lenshpc.engine.checkpoint import Checkpoints, MemberProgress, PartialEpoch
from lenshpc.engine.distributed import Process
from lenshpc.engine.lease import Lease
from lenshpc.engine.plain import Plain
from lenshpc.engine.schedule import Schedule
from lenshpc.models.importing import timm_module
from lenshpc.run.sections import Train

BATCH = 8


class Square:
    """A task whose loss costs nothing."""

    num_phases = 1

    def training_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return the mean square of what the network says."""
        return {"loss": model(batch["image"]).square().mean()}


@dataclass(frozen=True)
class Round:
    """One checkpoint: seconds waited for, seconds until it lay there, the thread's, those lost."""

    waits: float
    written: float
    core: float
    lost: float


class Training:
    """A network that is trained on one batch, and saved."""

    def __init__(self, folder: Path, network: str, side: int, decay: float) -> None:
        train = Train(batch_size=BATCH, ema_decay=decay)
        model = timm_module().create_model(network, num_classes=2)
        self._strategy = Plain(Square(), model, train, Process())
        self._schedule = Schedule(self._strategy.optimizer, train, steps_per_epoch=10**6)
        self._loss_sum, self._steps = torch.zeros((), dtype=torch.float64), 0
        self._images = torch.rand(BATCH, 3, side, side)
        folder.mkdir()
        owner = folder / "owner"
        owner.write_text("one", encoding="utf-8")
        self._checkpoints = Checkpoints(folder / "checkpoint", Lease(owner, "one"))
        self._folder = folder / "checkpoint"

    def take_steps(self, num: int) -> float:
        """Take some steps; return their seconds."""
        began = time.perf_counter()
        for _ in range(num):
            batch: Any = {"image": self._images}
            self._loss_sum.add_(self._strategy.step(batch))
            self._schedule.after_step()
            self._steps += 1
        return time.perf_counter() - began

    def save(self) -> float:
        """Begin a checkpoint; return the seconds that training waits."""
        place = PartialEpoch(steps=self._steps, lr=1e-4)
        progress = MemberProgress(fingerprint="f" * 64, world_size=1, begun=place)
        began = time.perf_counter()
        self._checkpoints.save(self._strategy, self._schedule, self._loss_sum, progress)
        return time.perf_counter() - began

    def take_round(self, num: int) -> Round:
        """Take steps without a checkpoint and as many with one."""
        alone = self.take_steps(num)
        began, cpu_began = time.perf_counter(), time.process_time() - time.thread_time()
        waits = self.save()
        with_one = waits + self.take_steps(num)
        self._checkpoints.finish()
        core = time.process_time() - time.thread_time() - cpu_began
        return Round(waits, time.perf_counter() - began, core, with_one - alone)

    @property
    def megabytes(self) -> float:
        """Return the size of the newest checkpoint."""
        newest = max(self._folder.glob("epoch-*"))
        return sum(path.stat().st_size for path in newest.iterdir()) / 1e6


def main() -> None:
    """Print the costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50", help="(%(default)s)")
    parser.add_argument("--side", type=int, default=64, help="of images (%(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="of a round (%(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, targets = [], []
    with scratch(asked.folder) as folder:
        for name, decay in (("none", 0.0), ("ema_decay 0.999", 0.999)):
            training = Training(folder / name, asked.network, asked.side, decay)
            training.take_steps(1)
            first, *rounds = [training.take_round(asked.steps) for _ in range(asked.repeats + 1)]
            waits = [one.waits * 1e3 for one in rounds]
            cost = median(one.waits + one.core for one in rounds)
            told = [
                median(getattr(one, key) for one in rounds) for key in ("written", "core", "lost")
            ]
            size, begin = f"{training.megabytes:.0f}", f"{first.waits * 1e3:.0f}"
            numbers = [*spread(waits, digits=0), *(f"{value:.2f}" for value in told)]
            rows.append([name, size, begin, *numbers, f"{cost / 60:.2%}"])
            targets += [
                Target(f"50 ms ÷ what training waits for, average: {name}", 50 / median(waits), 1),
                Target(f"1 % of a minute ÷ its cost, average: {name}", 0.6 / cost, 1),
            ]
    heads = "average|MB|first waits, ms|waits, ms|range|written after, s|core, s|lost, s"
    table = Table(
        f"A checkpoint of {asked.network}", [*heads.split("|"), "share of a minute"], rows
    )
    goals = Table("Targets", ["what", "ratio", "goal", "met"], [one.row for one in targets])
    report([table, goals], as_json=asked.json)


if __name__ == "__main__":
    main()
