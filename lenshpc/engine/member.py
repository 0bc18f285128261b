"""One member from start to end: its data, its training, its predictions, its mark.

Completing a member again goes on from where it stopped, and does nothing when it is done.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import load_file

from lenshpc.attempts import Attempts, What
from lenshpc.completion import is_done, mark_done
from lenshpc.data.augment import Augmenter
from lenshpc.data.batches import Batch, Source
from lenshpc.data.decoded import Decoded
from lenshpc.data.order import Labels, Rows, TrainingOrder, window_rows
from lenshpc.data.readers import opened
from lenshpc.engine import distributed, strategy
from lenshpc.engine.checkpoint import Checkpoints, Progress
from lenshpc.engine.distributed import Process
from lenshpc.engine.loop import Columns, FoldData, Loop, Stop, predict_rows
from lenshpc.engine.schedule import Schedule
from lenshpc.engine.signals import Signals, Stopped, cause
from lenshpc.errors import DataError, LensHpcError
from lenshpc.files import read_json, remove_drafts, replacing, sha256, write_json, write_text
from lenshpc.paths import MemberPaths, RunPaths
from lenshpc.plan import Member, Plan, load_plan, load_splits
from lenshpc.store import Store, channel_statistics, open_store
from lenshpc.tasks.base import Task, TaskSpec
from lenshpc.tasks.table import TASKS

Floats = npt.NDArray[np.float32]


def run_member(run: RunPaths, index: int, signals: Signals) -> None:
    """Train, predict and mark as done the member `index` of a run, as the rank that this is.

    Raises Stopped, with all that was done saved, where a signal asks for it.
    """
    plan = load_plan(run)
    process = distributed.from_environment()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("lenshpc").setLevel(logging.INFO if process.is_main else logging.WARNING)
    distributed.start(process, plan.recipe.resources.world_size)
    try:
        work = MemberWork(run, plan, plan.members[index], process, signals)
        if not is_done(work.paths, plan.fingerprint(), verify=True):
            with work.noted():
                work.complete()
        distributed.barrier()
    finally:
        distributed.stop()


@dataclass(frozen=True)
class MemberWork:
    """One member, as one of its ranks sees it."""

    run: RunPaths
    plan: Plan
    member: Member
    process: Process
    signals: Signals

    @property
    def paths(self) -> MemberPaths:
        """Return the member's files."""
        return self.run.member(self.member.name)

    @property
    def _attempt(self) -> str:
        """Return the name that no other attempt at the member has."""
        return f"{self.process.job}.{self.process.restart}"

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Record the beginning of this attempt, and its end unless it is sudden."""
        self._note("started")
        try:
            yield
        except Stopped as stopped:
            running_s, resources = self.signals.running_s, self.plan.recipe.resources
            why = cause(stopped.number, running_s, resources)
            self._note("stopped", cause=why, reason=str(stopped))
            raise
        except LensHpcError as error:
            self._note("failed", cause="error", reason=str(error))
            raise

    def _note(self, what: What, **facts: Any) -> None:
        if self.process.is_main:
            path = self.run.attempts(self.process.job)
            Attempts(path, self.process.restart).append(what, **facts)

    def complete(self) -> None:
        """Train, predict and, last, write the mark of completeness."""
        self.paths.root.mkdir(parents=True, exist_ok=True)
        if self.process.is_main:
            remove_drafts(self.paths.root)
        splits = load_splits(self.run, self.plan)
        decoded = Decoded(self._store(), self.plan.recipe.data)
        with self._data(decoded, splits) as data:
            task = self._task(data.training.labels[data.training.rows], decoded)
            progress = self._trained(task, data)
            rows = {
                "oof": data.val_rows,
                "test": splits.loc[splits["split"] == "test", "row"].to_numpy(),
            }
            predictions = self._predictions(task, data, rows)
        if self.process.is_main:
            _write_predictions(self.paths, splits, predictions)
            self._mark_done(progress)

    def _store(self) -> Store:
        store, wanted = open_store(self.plan.store), self.plan.store_hash
        if store.content_hash != wanted:
            raise DataError(
                f"{store.path} has changed since the run was submitted "
                f"({store.content_hash[:8]}, not {wanted[:8]}); submit the recipe again"
            )
        return store

    def _task(self, training_labels: Labels, decoded: Decoded) -> Task:
        recipe = self.plan.recipe
        counts = np.bincount(training_labels, minlength=len(self.plan.classes))
        spec = TaskSpec(
            train=recipe.train,
            classes=self.plan.classes,
            class_counts=tuple(counts.tolist()),
            image_shape=decoded.shape,
        )
        return TASKS[recipe.task](spec)

    @contextmanager
    def _data(self, decoded: Decoded, splits: pd.DataFrame) -> Iterator[FoldData]:
        """Yield the rows of the member's fold; the node's copy of the images is held meanwhile."""
        dev, settings = splits[splits["split"] == "dev"], self.plan.recipe.data
        training = TrainingOrder(
            rows=dev.loc[dev["fold"] != self.member.fold, "row"].to_numpy(),
            labels=decoded.store.rows["label"].to_numpy(np.int64),
            batch_size=self.plan.recipe.train.batch_size,
            seed=self.member.seed,
            sampling=settings.sampling,
            window=window_rows(decoded.image_bytes) if settings.loading == "stream" else None,
        )
        mean, deviation = _normalisation(decoded.store, training.rows, settings.normalise)
        with opened(decoded, self.process.device) as reader:
            source = Source(
                reader=reader,
                scale=decoded.scale,
                labels=training.labels,
                mean=mean,
                deviation=deviation,
                device=self.process.device,
            )
            yield FoldData(
                source=source,
                training=training,
                val_rows=dev.loc[dev["fold"] == self.member.fold, "row"].to_numpy(),
                augmenter=Augmenter(settings.augment, self.member.seed),
            )

    def _trained(self, task: Task, data: FoldData) -> Progress:
        """Train to the end and leave the best epoch's weights; at once where that was done."""
        checkpoints = Checkpoints(self.paths.checkpoint, self._attempt)
        if not self._is_trained(checkpoints):
            checkpoints.claim()
            progress = self._loop(task, data, checkpoints).run(self._start())
            checkpoints.check()
            if self.process.is_main:
                digest = sha256(checkpoints.best(progress))
                ended = progress.model_copy(update={"weights_sha256": digest})
                write_json(self.paths.progress, ended.model_dump(mode="json"))
            distributed.barrier()
        progress = self._ended()
        checkpoints.publish_best(progress, self.paths.weights)
        return progress

    def _ended(self) -> Progress:
        return Progress.model_validate(read_json(self.paths.progress))

    def _is_trained(self, checkpoints: Checkpoints) -> bool:
        """Say whether training has ended and its weights are there, unaltered; rank 0 looks."""
        trained = False
        if self.process.is_main and self.paths.progress.is_file():
            ended = self._ended()
            there = [
                path for path in (checkpoints.best(ended), self.paths.weights) if path.exists()
            ]
            trained = bool(there) and sha256(there[0]) == ended.weights_sha256
        return distributed.broadcast_text(str(trained)) == "True"

    def _start(self) -> Progress:
        return Progress(fingerprint=self.plan.fingerprint(), world_size=self.process.world_size)

    def _loop(self, task: Task, data: FoldData, checkpoints: Checkpoints) -> Loop:
        train = self.plan.recipe.train
        torch.manual_seed(self.member.seed)
        model = task.build_model(self.member.model)
        torch.manual_seed(self.member.seed * 1000 + self.process.rank)  # dropout differs by rank
        chosen = strategy.choose(self.plan.recipe, task, model, self.process)
        return Loop(
            task=task,
            train=train,
            strategy=chosen,
            schedule=Schedule(chosen.optimizer, train, data.training.num_steps),
            data=data,
            process=self.process,
            checkpoints=checkpoints,
            stop=Stop(signals=self.signals),
            on_save=self._record,
        )

    def _record(self, progress: Progress) -> None:
        """Write what `status` and the report read: the history, and where the member stands."""
        if not self.process.is_main:
            return
        lines = [json.dumps(line) for line in progress.history]
        write_text(self.paths.metrics, "".join(f"{line}\n" for line in lines))
        state = {
            "epoch": progress.epochs_done,
            "step": progress.place[1],
            "epochs": self.plan.recipe.train.epochs,
            "best_metric": progress.best_metric,
            "best_epoch": progress.best_epoch,
            "host": distributed.hostname(),
            "job": self.process.job,
            "updated": time.time(),
        }
        write_json(self.paths.state, state)
        self._note("saved", place=progress.place)

    def _predictions(self, task: Task, data: FoldData, rows: dict[str, Rows]) -> dict[str, Columns]:
        """Predict with the best weights in a plain model, whatever strategy trained them."""
        model = task.build_model(self.member.model)
        model.load_state_dict(load_file(self.paths.weights))
        model.to(self.process.device).eval()

        stop = Stop(signals=self.signals)

        def predict(batch: Batch) -> dict[str, torch.Tensor]:
            stop.check()
            on_device = strategy.on_device(batch, self.process.device)
            with torch.no_grad(), strategy.autocast(self.plan.recipe.train, self.process.device):
                return task.predict(model, on_device)

        return {
            split: predict_rows(predict, data, some, self.process) for split, some in rows.items()
        }

    def _mark_done(self, progress: Progress) -> None:
        facts = {
            "best_epoch": progress.best_epoch,
            "best_metric": progress.best_metric,
            "epochs": progress.epochs_done,
            "seconds": sum(line["seconds"] for line in progress.history),
            "num_processes": self.process.world_size,
            "device": distributed.device_name(self.process.device),
            "strategy": self.plan.recipe.strategy,
        }
        outputs = (self.paths.predictions, self.paths.weights, self.paths.metrics)
        mark_done(self.paths, self.plan.fingerprint(), outputs, facts)


def _normalisation(store: Store, training_rows: Rows, kind: str) -> tuple[Floats, Floats]:
    """Return what is subtracted and divided by, a channel each."""
    num_channels = store.image_shape[0]
    if kind == "none":
        return np.zeros(num_channels, np.float32), np.ones(num_channels, np.float32)
    mean, deviation = channel_statistics(store.moments[training_rows])
    safe = np.where(deviation > 0, deviation, 1.0)  # a constant channel stays constant
    return mean.astype(np.float32), safe.astype(np.float32)


def _write_predictions(
    paths: MemberPaths, splits: pd.DataFrame, predictions: dict[str, Columns]
) -> None:
    ids = splits.set_index("row")["id"]
    parts = []
    for split, columns in predictions.items():
        frame = pd.DataFrame(columns)
        frame.insert(1, "id", ids.loc[frame["row"]].to_numpy())
        frame.insert(2, "split", split)
        parts.append(frame)
    with replacing(paths.predictions) as temporary:
        pd.concat(parts, ignore_index=True).to_parquet(temporary, index=False)
