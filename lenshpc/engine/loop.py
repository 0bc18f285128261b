"""The training loop: one for all tasks and strategies.

An epoch: train on this rank's share of every step, predict the validation rows, merge the ranks'
predictions, measure, save. All ranks compute the same metrics from the same merged rows, so all
take the same decisions.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from lenshpc.data.augment import Augmenter
from lenshpc.data.batches import Batch, Source
from lenshpc.data.order import Rows, TrainingOrder, evaluation_batches
from lenshpc.engine import distributed
from lenshpc.engine.checkpoint import Checkpoints, Progress
from lenshpc.engine.distributed import Process
from lenshpc.engine.schedule import Schedule
from lenshpc.engine.strategy import Strategy
from lenshpc.errors import LensHpcError
from lenshpc.recipe import Train
from lenshpc.tasks.base import Task

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """The rows of one member, and how to read them."""

    source: Source
    training: TrainingOrder
    val_rows: Rows
    augmenter: Augmenter


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One member's training."""

    task: Task
    train: Train
    strategy: Strategy
    schedule: Schedule
    data: FoldData
    process: Process
    checkpoints: Checkpoints
    on_epoch: Callable[[Progress], None]

    def run(self, start: Progress) -> Progress:
        """Train from the newest checkpoint to the last epoch, or until nothing improves."""
        progress = self.checkpoints.load(self.strategy, self.schedule, start)
        self.on_epoch(progress)
        while not self._finished(progress):
            progress = self._epoch(progress)
            self.checkpoints.save(self.strategy, self.schedule, progress)
            self.on_epoch(progress)
        return progress

    def _finished(self, progress: Progress) -> bool:
        patience = self.train.patience
        stale = patience is not None and progress.epochs_since_best >= patience
        return progress.epochs_done >= self.train.epochs or (progress.epochs_done > 0 and stale)

    def _epoch(self, progress: Progress) -> Progress:
        began, epoch, lr = time.monotonic(), progress.epochs_done, self.schedule.lr
        train_loss = self._train_epoch(epoch)
        trained = time.monotonic()
        distributed.broadcast_buffers(self.strategy.module)
        metrics = self._validate()
        self.schedule.after_epoch(metrics["loss"])
        num_images = self.data.training.num_steps * self.train.batch_size
        line = {
            "epoch": epoch,
            "lr": lr,
            "train_loss": train_loss,
            **{f"val_{name}": value for name, value in metrics.items()},
            "seconds": time.monotonic() - began,
            "images_per_s": num_images / (trained - began),
        }
        return _extended(progress, line, self.train.monitor)

    def _train_epoch(self, epoch: int) -> float:
        """Return the mean loss of the epoch over all ranks."""
        batches = self.data.training.batches(
            epoch, rank=self.process.rank, world_size=self.process.world_size
        )
        total = torch.zeros((), dtype=torch.float64, device=self.process.device)
        for batch in self.data.source.batches(batches, self.data.augmenter, epoch):
            total += self.strategy.step(batch)
            self.schedule.after_step()
        loss = distributed.mean_over_ranks(total / len(batches))
        if not math.isfinite(loss):
            raise LensHpcError(
                f"the training loss became {loss} in epoch {epoch}; "
                "lower train.lr, set train.clip_norm=1, or look at the data with lenshpc info"
            )
        return loss

    def _validate(self) -> dict[str, float]:
        columns = predict_rows(self.strategy.predict, self.data, self.data.val_rows, self.process)
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


def _extended(progress: Progress, line: dict[str, float], monitor: str) -> Progress:
    """Return the progress after one more epoch, with its line and perhaps a new best."""
    metric = line[f"val_{monitor}"]
    sign = -1 if monitor == "loss" else 1
    best = progress.best_metric
    better = best is None or sign * metric > sign * best
    mark = {"best_epoch": progress.epochs_done, "best_metric": metric} if better else {}
    return progress.model_copy(update={"history": (*progress.history, line), **mark})
