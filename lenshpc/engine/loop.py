"""The training loop: one for all tasks and strategies.

An epoch: train on this rank's share of every step, predict the validation rows, merge the ranks'
predictions, measure, save. All ranks compute the same metrics from the same merged rows, so all
take the same decisions. A signal stops all of them after the same step, with a checkpoint there.
"""

import logging
import math
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
from lenshpc.engine.averages import Average
from lenshpc.engine.checkpoint import Checkpoints, MemberProgress, PartialEpoch
from lenshpc.engine.distributed import Process, RankMaximum
from lenshpc.engine.evaluation import choose_batch
from lenshpc.engine.pace import Pace, describe_epoch, describe_step
from lenshpc.engine.schedule import Schedule
from lenshpc.engine.signals import Signals, Stopped
from lenshpc.engine.strategy import Strategy
from lenshpc.engine.watch import Watch
from lenshpc.errors import LensHpcError
from lenshpc.registry import Batch, Task
from lenshpc.run.sections import Train

log = logging.getLogger(__name__)
Columns = dict[str, npt.NDArray[Any]]
DUE = 1  # less than the signals that stop a member: these count where both are told


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The signal at which all ranks stop at the same place, or save and go on."""

    signals: Signals
    agreement: RankMaximum = field(default_factory=RankMaximum)

    def check(
        self,
        save: Callable[[], None] = lambda: None,
        is_due: Callable[[], bool] = lambda: False,
        *,
        at_once: bool = True,
    ) -> None:
        """Save and stop where a rank was signalled, save where for one it is due; collective.

        The ranks talk now, or where not `at_once` about twice a second.
        """
        asked = self.signals.received or (DUE if is_due() else 0)
        number = self.agreement.largest(asked, at_once=at_once)
        if number:
            save()
        if number > DUE:
            raise Stopped(number)


class GivenUp(Exception):  # noqa: N818 - no error: a study ends what promises nothing
    """A trial was ended after an epoch, with its checkpoint there."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One member's training; `on_progress` is told of every epoch, and at the start.

    `on_save` is told of the checkpoint at the start; of later ones `checkpoints` tell it.
    `on_step` is told on rank 0 how far an epoch has come, now and then.
    `give_up` says after an epoch, on rank 0, whether the training is to end with GivenUp.
    """

    task: Task
    train: Train
    monitor: tuple[str, int]
    strategy: Strategy
    schedule: Schedule
    data: FoldData
    process: Process
    checkpoints: Checkpoints
    stop: Stop
    watch: Watch
    on_progress: Callable[[MemberProgress], None]
    on_save: Callable[[MemberProgress], None]
    on_step: Callable[[MemberProgress], None]
    give_up: Callable[[MemberProgress], bool] | None = None

    def run(self, start: MemberProgress) -> MemberProgress:
        """Train from the newest checkpoint to the last epoch, or until nothing improves.

        No checkpoint is being written when this ends, however it does.
        """
        try:
            progress = self._train(start)
            self.checkpoints.finish()
        except (Stopped, GivenUp):
            self.checkpoints.finish()  # all ranks are here, and what they saved is to be there
            raise
        finally:
            self.checkpoints.abandon()
        return progress

    def _train(self, start: MemberProgress) -> MemberProgress:
        # It restores the random state too: nothing may draw between here and the first step, or a
        # resumed run would differ from an undisturbed one.
        progress = self.checkpoints.load(self.strategy, self.schedule, self._loss_sum, start)
        # Also at the start: a run killed after its last checkpoint and before its metrics finds
        # them written here, from the checkpoint's history.
        self.on_progress(progress)
        self.on_save(progress)
        while not is_finished(progress, self.train):
            progress = self._epoch(progress)
            save = partial(self._save, progress)
            if self._is_due_after(progress):
                save()
            self.on_progress(progress)
            log.info(self._describe(progress))  # on rank 0 alone, at this level
            # Collective, hence not inside any branch that ranks may decide differently. It saves
            # nothing twice.
            self.stop.check(save)
            # Rank 0 decides for all: it alone reads what other trials have reached.
            if self.give_up and distributed.agree(self.process.is_main and self.give_up(progress)):
                save()
                raise GivenUp(self._describe(progress))
        return progress

    def _describe(self, progress: MemberProgress) -> str:
        num_steps = self.data.training.num_steps
        return describe_epoch(progress, self.train.epochs, self.monitor[0], num_steps)

    @cached_property
    def _loss_sum(self) -> Tensor:
        """Return the sum of this rank's losses over the steps of the epoch."""
        # float64, since an epoch may add a hundred thousand float32 losses; on the device, so that
        # a step need not wait for its loss.
        return torch.zeros((), dtype=torch.float64, device=self.process.device)

    @cached_property
    def _evaluation_batch(self) -> int:
        return choose_batch(self.train, self.process, self.watch.tally.step_bytes)

    def _save(self, progress: MemberProgress) -> None:
        self.checkpoints.save(self.strategy, self.schedule, self._loss_sum, progress)

    def _is_due_after(self, progress: MemberProgress) -> bool:
        """Say whether to save after an epoch; its weights are kept until then if they are best."""
        if progress.epochs_since_best == 0:
            self.checkpoints.keep_best(self.strategy)
        # Always at the end. In between by rank 0's clock, and so asked of it by all.
        due = self.checkpoints.is_due(after_epoch=True)
        return is_finished(progress, self.train) or distributed.agree(due)

    def _epoch(self, progress: MemberProgress) -> MemberProgress:
        """Train one epoch, or what is left of it, and measure."""
        epoch, num_steps = progress.epochs_done, self.data.training.num_steps
        begun = progress.begun or PartialEpoch(lr=self.schedule.lr)
        pace = Pace(begun, num_steps)

        def save(steps: int) -> None:
            begun = progress.model_copy(update={"begun": pace.place(steps)})
            self._save(begun)
            self.on_progress(begun)

        train_loss = self._train_epoch(progress, pace, save)
        trained_s = pace.seconds
        # Collective, before any rank predicts: ranks that validate with statistics of their own
        # would merge rows of different networks. Also before the save, so that the best weights are
        # what was measured.
        average = self.strategy.average
        if average is not None:
            self._update(average, epoch, lambda: save(num_steps))
            distributed.broadcast_buffers(average.module)
        distributed.broadcast_buffers(self.strategy.module)
        # Stopped here, the epoch's steps are all taken: the checkpoint lies within the epoch, at
        # its last step, and resuming takes none and validates again.
        metrics = self._validate(lambda: save(num_steps))
        monitored = metrics[self.monitor[0]]
        if not math.isfinite(monitored):  # nothing is better or worse than that; all ranks see it
            raise LensHpcError(
                f"the validation {self.monitor[0]} became {monitored} in epoch {epoch}; "
                "lower train.lr, set train.clip_norm=1, or look at the data with lenshpc info"
            )
        # All ranks have the same loss, and so lower their learning rates together.
        self.schedule.after_epoch(metrics["loss"])
        line = {
            "epoch": epoch,
            "lr": begun.lr,
            "train_loss": train_loss,
            **{f"val_{name}": value for name, value in metrics.items()},
            "seconds": pace.seconds,
            "images_per_s": num_steps * self.train.batch_size / trained_s,
            "step_s": trained_s / num_steps,
            "waiting": pace.waited_s / trained_s,
            **self.watch.measure(trained_s / num_steps),
        }
        return _extend(progress, line, *self.monitor)

    def _train_epoch(
        self, progress: MemberProgress, pace: Pace, save: Callable[[int], None]
    ) -> float:
        """Take the steps that are left; return the epoch's mean loss over all ranks."""
        epoch, done = progress.epochs_done, pace.begun.steps
        # Not when resuming within the epoch: `load` has brought back the sum over the steps that
        # were taken.
        if done == 0:
            self._loss_sum.zero_()
        num_steps = self.data.training.num_steps
        left = self.data.training_batches(
            epoch, rank=self.process.rank, world_size=self.process.world_size, done=done
        )
        parts = self._list_progress(epoch)
        for steps, batch in enumerate(self.watch.follow(pace.wait_for(left)), start=done + 1):
            # In place: the checkpoint restores into this tensor. No `.item()`, which would wait for
            # the GPU at every step.
            self._loss_sum.add_(self.strategy.step({**batch, "progress": parts[steps - 1]}))
            self.schedule.after_step()
            # After the step and its schedule, so that a checkpoint here counts whole steps. Every
            # rank calls it once a step; all have equally many.
            self.stop.check(partial(save, steps), self.checkpoints.is_due, at_once=False)
            if self.process.is_main and pace.is_due(steps):
                begun = progress.model_copy(update={"begun": pace.place(steps)})
                self.on_step(begun)
                log.info(describe_step(begun, self.train.epochs, num_steps))
        # The quotient is a new tensor: the mean is reduced in place, and the sum itself may still
        # be saved. The loss is judged after the reduction, for all ranks to raise together.
        loss = distributed.mean_over_ranks(self._loss_sum / num_steps)
        if not math.isfinite(loss):
            raise LensHpcError(
                f"the training loss became {loss} in epoch {epoch}; "
                "lower train.lr, set train.clip_norm=1, or look at the data with lenshpc info"
            )
        return loss

    def _list_progress(self, epoch: int) -> Tensor:
        """Return the part of the training that is done before each step of an epoch."""
        num_steps = self.data.training.num_steps
        parts = [(epoch + step / num_steps) / self.train.length for step in range(num_steps)]
        # Once an epoch: a number that a step sends to the GPU by itself waits for the steps before.
        return torch.tensor(parts, device=self.process.device)

    def _update(self, average: Average, epoch: int, save: Callable[[], None]) -> None:
        """Have the average take in an epoch's weights, and measure what goes with them."""
        average.after_epoch(self.strategy.module, epoch)
        rank, world_size = self.process.rank, self.process.world_size

        def predict(batch: Batch) -> None:
            self.stop.check(save)
            self.strategy.predict(batch)

        average.measure(
            predict,
            partial(self.data.training_batches, epoch, rank=rank, world_size=world_size, done=0),
        )

    def _validate(self, save: Callable[[], None]) -> dict[str, float]:
        def predict(batch: Batch) -> dict[str, Tensor]:
            # Before the batch is predicted, on all ranks equally often: they have equally many
            # batches.
            self.stop.check(save, self.checkpoints.is_due)
            return self.strategy.predict(batch)

        # Once: the last epochs are predicted as the first ones were.
        size, rows = self._evaluation_batch, self.data.val_rows
        columns = predict_rows(predict, self.data, rows, self.process, size)
        labels = self.data.source.labels[columns.pop("row")]
        return self.task.summarise(labels, columns)


def is_finished(progress: MemberProgress, train: Train) -> bool:
    """Say whether a training has its epochs, or has long found nothing better."""
    stale = train.patience is not None and progress.epochs_since_best >= train.patience
    return progress.epochs_done >= train.epochs or (progress.epochs_done > 0 and stale)


def predict_rows(
    predict: Callable[[Batch], dict[str, Tensor]],
    data: FoldData,
    rows: Rows,
    process: Process,
    size: int,
) -> Columns:
    """Return `row` and the predictions of `rows`, on every rank, each row once, ascending.

    A rank predicts `size` of them at once.
    """
    batches = evaluation_batches(rows, size, rank=process.rank, world_size=process.world_size)
    # Every rank predicts and gathers, also where rank 0 alone writes: under ZeRO-3 a forward pass
    # is collective, and so is the gathering.
    parts = [{"row": batch["row"], **predict(batch)} for batch in data.source.batches(batches)]
    return distributed.gather_rows({key: torch.cat([p[key] for p in parts]) for key in parts[0]})


def _extend(
    progress: MemberProgress, line: dict[str, float], monitor: str, sign: int
) -> MemberProgress:
    """Return the progress after one more epoch, with its line and perhaps a new best."""
    metric = line[f"val_{monitor}"]
    best = progress.best_metric
    # Strictly better: of equal epochs the first is kept, whose weights are already on disk. A NaN
    # is never better.
    better = best is None or sign * metric > sign * best
    mark = {"best_epoch": progress.epochs_done, "best_metric": metric} if better else {}
    return progress.model_copy(update={"history": (*progress.history, line), "begun": None, **mark})
