"""The training loop: one for all tasks and strategies.

An epoch: train on this rank's share of every step, predict the validation rows, merge the ranks'
predictions, measure, save. All ranks compute the same metrics from the same merged rows, so all
take the same decisions. A signal stops all of them after the same step, with a checkpoint there.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from lenshpc.data.fold import FoldData
from lenshpc.data.order import Rows, evaluation_batches
from lenshpc.engine import distributed
from lenshpc.engine.checkpoint import Checkpoints, MemberProgress, PartialEpoch
from lenshpc.engine.distributed import Process, RankMaximum
from lenshpc.engine.schedule import Schedule
from lenshpc.engine.signals import Signals, Stopped
from lenshpc.engine.strategy import Strategy
from lenshpc.errors import LensHpcError
from lenshpc.registry import Batch, Task
from lenshpc.run.sections import Train

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The signal at which all ranks stop at the same place."""

    signals: Signals
    agreement: RankMaximum = field(default_factory=RankMaximum)

    def check(self, save: Callable[[], None] = lambda: None) -> None:
        """Save and stop if a rank was signalled; a collective call."""
        number = self.agreement.largest(self.signals.received)
        if number:
            save()
            raise Stopped(number)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One member's training; `on_save` is told of every checkpoint, also the one at the start."""

    task: Task
    train: Train
    monitor: tuple[str, int]
    strategy: Strategy
    schedule: Schedule
    data: FoldData
    process: Process
    checkpoints: Checkpoints
    stop: Stop
    on_save: Callable[[MemberProgress], None]

    def run(self, start: MemberProgress) -> MemberProgress:
        """Train from the newest checkpoint to the last epoch, or until nothing improves."""
        progress = self.checkpoints.load(self.strategy, self.schedule, self._loss_sum, start)
        self.on_save(progress)
        while not self._is_finished(progress):
            progress = self._epoch(progress)
            self._save(progress)
            self.stop.check()
        return progress

    @cached_property
    def _loss_sum(self) -> Tensor:
        """Return the sum of this rank's losses over the steps of the epoch."""
        return torch.zeros((), dtype=torch.float64, device=self.process.device)

    def _save(self, progress: MemberProgress) -> None:
        self.checkpoints.save(self.strategy, self.schedule, self._loss_sum, progress)
        self.on_save(progress)

    def _is_finished(self, progress: MemberProgress) -> bool:
        patience = self.train.patience
        stale = patience is not None and progress.epochs_since_best >= patience
        return progress.epochs_done >= self.train.epochs or (progress.epochs_done > 0 and stale)

    def _epoch(self, progress: MemberProgress) -> MemberProgress:
        """Train one epoch, or what is left of it, and measure."""
        epoch, began = progress.epochs_done, time.monotonic()
        begun = progress.begun or PartialEpoch(lr=self.schedule.lr)

        def save(steps: int) -> None:
            seconds = begun.seconds + time.monotonic() - began
            place = PartialEpoch(steps=steps, lr=begun.lr, seconds=seconds)
            self._save(progress.model_copy(update={"begun": place}))

        train_loss = self._train_epoch(epoch, begun.steps, save)
        trained_s = begun.seconds + time.monotonic() - began
        for module in (self.strategy.module, self.strategy.average):
            if module is not None:
                distributed.broadcast_buffers(module)
        metrics = self._validate(lambda: save(self.data.training.num_steps))
        self.schedule.after_epoch(metrics["loss"])
        line = {
            "epoch": epoch,
            "lr": begun.lr,
            "train_loss": train_loss,
            **{f"val_{name}": value for name, value in metrics.items()},
            "seconds": begun.seconds + time.monotonic() - began,
            "images_per_s": self.data.training.num_steps * self.train.batch_size / trained_s,
        }
        return _extend(progress, line, *self.monitor)

    def _train_epoch(self, epoch: int, done: int, save: Callable[[int], None]) -> float:
        """Take the steps after the first `done`; return the epoch's mean loss over all ranks."""
        if done == 0:
            self._loss_sum.zero_()
        num_steps = self.data.training.num_steps
        left = self.data.training_batches(
            epoch, rank=self.process.rank, world_size=self.process.world_size, done=done
        )
        for steps, batch in enumerate(left, start=done + 1):
            part = (epoch + (steps - 1) / num_steps) / self.train.epochs
            self._loss_sum.add_(self.strategy.step({**batch, "progress": torch.tensor(part)}))
            self.schedule.after_step()
            self.stop.check(partial(save, steps))
        loss = distributed.mean_over_ranks(self._loss_sum / num_steps)
        if not math.isfinite(loss):
            raise LensHpcError(
                f"the training loss became {loss} in epoch {epoch}; "
                "lower train.lr, set train.clip_norm=1, or look at the data with lenshpc info"
            )
        return loss

    def _validate(self, save: Callable[[], None]) -> dict[str, float]:
        def predict(batch: Batch) -> dict[str, Tensor]:
            self.stop.check(save)
            return self.strategy.predict(batch)

        columns = predict_rows(predict, self.data, self.data.val_rows, self.process)
        labels = self.data.source.labels[columns.pop("row")]
        return self.task.summarise(labels, columns)


def predict_rows(
    predict: Callable[[Batch], dict[str, Tensor]], data: FoldData, rows: Rows, process: Process
) -> Columns:
    """Return `row` and the predictions of `rows`, on every rank, each row once, ascending."""
    batches = evaluation_batches(
        rows, EVALUATION_BATCH, rank=process.rank, world_size=process.world_size
    )
    parts = [{"row": batch["row"], **predict(batch)} for batch in data.source.batches(batches)]
    return distributed.gather_rows({key: torch.cat([p[key] for p in parts]) for key in parts[0]})


EVALUATION_BATCH = 128


def _extend(
    progress: MemberProgress, line: dict[str, float], monitor: str, sign: int
) -> MemberProgress:
    """Return the progress after one more epoch, with its line and perhaps a new best."""
    metric = line[f"val_{monitor}"]
    best = progress.best_metric
    better = best is None or sign * metric > sign * best
    mark = {"best_epoch": progress.epochs_done, "best_metric": metric} if better else {}
    return progress.model_copy(update={"history": (*progress.history, line), "begun": None, **mark})
