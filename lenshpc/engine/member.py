"""One member from start to end: its data, its training, its predictions, its mark.

Completing a member again goes on from where it stopped, and does nothing when it is done.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch

from lenshpc.data.batches import Preparation
from lenshpc.data.fold import FoldData, open_fold
from lenshpc.engine import devices, distributed
from lenshpc.engine.checkpoint import Checkpoints, MemberProgress
from lenshpc.engine.distributed import Process
from lenshpc.engine.ending import end_well
from lenshpc.engine.evaluation import choose_batch
from lenshpc.engine.lease import Lease
from lenshpc.engine.load import build_task
from lenshpc.engine.loop import Loop, Stop, is_finished
from lenshpc.engine.monitor import Tally, watch_usage
from lenshpc.engine.network import place, uses_channels_last
from lenshpc.engine.pace import estimate_left_s
from lenshpc.engine.precision import autocast, describe_precision
from lenshpc.engine.predictions import write_predictions
from lenshpc.engine.pretrained import start_from
from lenshpc.engine.schedule import Schedule
from lenshpc.engine.signals import Signals, Stopped, cause
from lenshpc.engine.step import lay_out
from lenshpc.engine.strategy import choose_strategy
from lenshpc.engine.switches import set_switches
from lenshpc.engine.tracking import Tracker, TrainingStart, track
from lenshpc.engine.watch import make_watch
from lenshpc.errors import DataError, LensHpcError
from lenshpc.files import (
    read_checked,
    read_sealed,
    remove_drafts,
    sha256,
    write_json,
    write_sealed,
    write_text,
)
from lenshpc.registry import Batch, Task
from lenshpc.run.attempts import Attempts, What
from lenshpc.run.completion import hash_outputs, is_done, mark_done
from lenshpc.run.manifest import NUMBERS
from lenshpc.run.paths import MemberPaths, RunPaths
from lenshpc.run.plan import (
    Member,
    Plan,
    check_plugins,
    load_plan,
    load_splits,
    open_planned_store,
)
from lenshpc.run.recipe import Recipe

GiveUp = Callable[[MemberProgress], bool]
Trackers = Mapping[str, Callable[[], Tracker]]
MAX_TRAININGS = 3  # whose best weights are found damaged when training has ended
log = logging.getLogger(__name__)


@distributed.restore_environment()
def run_member(
    run: RunPaths,
    index: int,
    signals: Signals,
    give_up: GiveUp | None = None,
    trackers: Trackers = MappingProxyType({}),
) -> None:
    """Train, predict and mark as done the member `index` of a run, as the rank that this is.

    With `give_up` it is a trial: trained to be measured, never predicting a row of test, and ended
    by GivenUp once rank 0 says so of its progress after an epoch. `trackers` follow the training;
    what becomes of them changes nothing in it. Raises Stopped, with all that was
    done saved, where a signal asks for it.
    """
    plan = load_plan(run)
    process = distributed.from_environment()
    devices.restrict(os.environ, process.local_rank, plan.recipe.resources)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("submitit").propagate = False  # it writes to the log by itself
    logging.getLogger("lenshpc").setLevel(logging.INFO if process.is_main else logging.WARNING)
    work = MemberWork(run, plan, plan.members[index], process, signals, give_up, trackers)
    with end_well(process):
        distributed.start(
            process,
            plan.recipe.resources.world_size,
            run.rendezvous,
            timeout=timedelta(minutes=work.recipe.train.timeout_min),
            needs_group=work.recipe.strategy not in {"single", "ddp"},
        )
        # Rank 0 decides for all, here and in what follows: a rank that saw another state of the
        # file system would enter collective calls alone, and wait for ever.
        done = process.is_main and is_done(run, plan, work.member, verify=True)
        if not distributed.agree(done):
            work.paths.root.mkdir(parents=True, exist_ok=True)
            # `noted` is the outer one: what `taken` turns into Superseded must not be noted as a
            # failure, after which the job would never be requeued.
            usage = run.usage(process.attempt, process.rank)
            switches = set_switches(work.recipe.train, process.device)
            watched = watch_usage(usage, process, work.tally)
            with watched, work.record_attempt(), work.lease.hold(), switches:
                work.complete()
        # All ranks meet here, done or not, so that none takes the group down while rank 0 still
        # writes the mark.
        distributed.barrier()
    # Not after an error: ranks that still run would wait for a store that is gone.
    distributed.leave(process, run.rendezvous)


@dataclass(frozen=True)
class MemberWork:
    """One member, as one of its ranks sees it."""

    run: RunPaths
    plan: Plan
    member: Member
    process: Process
    signals: Signals
    give_up: GiveUp | None
    trackers: Trackers
    tally: Tally = field(default_factory=Tally)

    @property
    def paths(self) -> MemberPaths:
        """Return the member's files."""
        return self.run.member(self.member.name)

    @property
    def recipe(self) -> Recipe:
        """Return the recipe as it is for this member."""
        return self.plan.recipe_of(self.member)

    @property
    def lease(self) -> Lease:
        """Return this attempt's right to write them."""
        return Lease(self.paths.owner, self.process.attempt)

    @contextmanager
    def record_attempt(self) -> Iterator[None]:
        """Record the beginning of this attempt, and its end unless it is sudden."""
        self._note("started", member=self.member.index)
        try:
            yield
        except Stopped as stopped:
            running_s, resources = self.signals.running_s, self.recipe.resources
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
        check_plugins(self.plan)  # one that was installed since may have taken a network's name
        if self.process.is_main:
            # After the claim is taken: until then the drafts may be those of an attempt that still
            # writes.
            remove_drafts(self.paths.root)
            # It is not done: a mark that stays would call files whole that are written anew.
            self.paths.done.unlink(missing_ok=True)
        # Read, never cut here: the members of an array would race, and folds belong to the
        # fingerprint.
        splits = load_splits(self.run, self.plan, NUMBERS)
        store, device = open_planned_store(self.plan), self.process.device
        with open_fold(self.plan, self.member, splits, store, device) as data:
            task = build_task(self.run, self.plan, self.member, store, data)
            progress = self._train(task, data)
            if self.give_up is not None:
                return
            self._predict(task, data, progress)
            preparation = data.source.preparation
        # Last of all, and after a look at the owner: whatever `done.json` lists must be in its
        # final place, since nobody looks again.
        if self.process.is_main:
            self.lease.check()
            self._mark_done(progress, preparation)

    def _train(self, task: Task, data: FoldData) -> MemberProgress:
        """Train to the end and leave the best epoch's weights; at once where that was done."""
        interval_s = 60 * self.recipe.train.checkpoint_min
        checkpoints = Checkpoints(self.paths.checkpoint, self.lease, interval_s, self._note_saved)
        for _ in range(MAX_TRAININGS):
            if self._is_trained(checkpoints):
                break
            self._train_to_end(task, data, checkpoints)
        else:
            raise LensHpcError(
                f"{self.paths.checkpoint}: the best weights were damaged {MAX_TRAININGS} times "
                "after they were written; have the file system checked, then resume the run"
            )
        # From the file and on every rank, so that a member whose training ended in an earlier
        # attempt goes on from the same facts. The barrier before has rank 0 finish writing it.
        progress = self._read_progress()
        checkpoints.publish_best(progress, self.paths.weights, keep=self.recipe.can_grow)
        return progress

    def _train_to_end(self, task: Task, data: FoldData, checkpoints: Checkpoints) -> None:
        """Train from the newest whole checkpoint, and note that training has ended."""
        if self.process.is_main:
            self.lease.check()
            # An earlier training's: killed in this one, the member would be taken for trained.
            self.paths.progress.unlink(missing_ok=True)
        start = TrainingStart.of(self.run, self.plan, self.member, data.training.num_steps)
        with track(self.trackers if self.process.is_main else {}, start) as hear:
            loop = self._loop(task, data, checkpoints, hear)
            with closing(loop.watch):
                progress = loop.run(self._start())
        if self.process.is_main:
            self.lease.check()
            # Written after `metrics.jsonl` and before the weights move: from here on training is
            # not repeated, and the hash is what tells the weights on either side of the rename. It
            # is that of the weights as they were written, and not as they are by now.
            ended = progress.model_copy(update={"weights_sha256": checkpoints.best_sha256})
            write_sealed(self.paths.progress, ended.model_dump(mode="json"))
        distributed.barrier()

    def _read_progress(self) -> MemberProgress:
        return MemberProgress.model_validate(read_sealed(self.paths.progress))

    def _is_trained(self, checkpoints: Checkpoints) -> bool:
        """Say whether training has ended and its weights are there, unaltered; rank 0 looks."""
        return distributed.agree(self.process.is_main and self._has_weights(checkpoints))

    def _has_weights(self, checkpoints: Checkpoints) -> bool:
        if not self.paths.progress.is_file():
            return False
        try:
            ended = self._read_progress()
        except DataError as error:
            log.warning("%s; the member is trained again", error)
            return False
        begun = self._start()
        # The same trajectory with fewer epochs has not come to its end yet.
        if ended.fingerprint != begun.fingerprint or not is_finished(ended, self.recipe.train):
            return False
        # By content: weights that were altered since come again from a checkpoint, or from epoch 0
        # where these are gone.
        found = [path for path in (checkpoints.best(ended), self.paths.weights) if path.exists()]
        whole = bool(found) and sha256(found[0]) == ended.weights_sha256
        if not whole:
            where = found[0] if found else self.paths.weights
            log.warning("%s is damaged or gone; it is made again", where)
        return whole

    def _start(self) -> MemberProgress:
        return MemberProgress(
            fingerprint=self.plan.trajectory(self.member),
            world_size=self.process.world_size,
        )

    def _loop(
        self,
        task: Task,
        data: FoldData,
        checkpoints: Checkpoints,
        hear: Callable[[MemberProgress], None],
    ) -> Loop:
        train, num_steps = self.recipe.train, data.training.num_steps
        # The same seed on all ranks while the network is made: under ZeRO the moving average copies
        # each rank's own weights, before those of rank 0 are dealt out.
        torch.manual_seed(self.member.seed)
        model = task.build_model(self.member.network)
        # After the network is made, whose draws are then the same with and without pre-training;
        # before the strategy, since the optimiser and the average copy the weights.
        start_from(model, self.recipe, self.member)
        # Again, and by rank: with one seed all ranks would drop the same units and mix the same
        # images.
        torch.manual_seed(self.member.seed * 1000 + self.process.rank)  # dropout differs by rank
        watch = make_watch(task, model, train, self.process, self.paths, self.tally)
        strategy = choose_strategy(self.recipe, task, model, self.process)
        return Loop(
            task=task,
            train=train,
            monitor=self.recipe.monitor,
            strategy=strategy,
            schedule=Schedule(strategy.optimizer, train, num_steps),
            data=data,
            process=self.process,
            checkpoints=checkpoints,
            stop=Stop(signals=self.signals),
            watch=watch,
            on_progress=partial(self._record, hear, num_steps),
            on_save=self._note_saved,
            on_step=partial(self._tell, num_steps),
            give_up=self.give_up,
        )

    def _record(
        self, hear: Callable[[MemberProgress], None], num_steps: int, progress: MemberProgress
    ) -> None:
        """Write what `status` and the report read: the history, and where the member stands."""
        if not self.process.is_main:
            return
        # A superseded attempt must not overwrite the history of the one that trains now.
        self.lease.check()
        lines = [json.dumps(line) for line in progress.history]
        write_text(self.paths.metrics, "".join(f"{line}\n" for line in lines))
        self._write_state(num_steps, progress)
        hear(progress)

    def _note_saved(self, progress: MemberProgress) -> None:
        # Whether a restart has made progress is told by this line, so what it tells of is on disk.
        self._note("saved", place=progress.place)

    def _tell(self, num_steps: int, progress: MemberProgress) -> None:
        """Write for `status` how far an epoch has come; no training ends where that fails."""
        with suppress(OSError):
            self.lease.check()
            self._write_state(num_steps, progress)

    def _write_state(self, num_steps: int, progress: MemberProgress) -> None:
        epochs = self.recipe.train.epochs
        state = {
            "epoch": progress.epochs_done,
            "step": progress.place[1],
            "steps": num_steps,
            "epochs": epochs,
            "left_s": estimate_left_s(progress, epochs, num_steps),
            "best_metric": progress.best_metric,
            "best_epoch": progress.best_epoch,
            "host": distributed.hostname(),
            "job": self.process.job,
            "updated": time.time(),
        }
        write_json(self.paths.state, state)

    def _predict(self, task: Task, data: FoldData, progress: MemberProgress) -> None:
        """Predict with the best weights in a plain model, whatever strategy trained them."""
        model = task.build_model(self.member.network)
        # From the file and not from memory: an attempt that only predicts must give the same rows
        # as one that has just trained.
        weights = read_checked(self.paths.weights, progress.weights_sha256)
        model.load_state_dict(safetensors.torch.load(weights))
        train, device = self.recipe.train, self.process.device
        place(model, train, device).eval()
        # A new agreement: the one of training may still hold an answer that belongs to it.
        stop = Stop(signals=self.signals)

        def infer(batch: Batch) -> dict[str, torch.Tensor]:
            # Nothing to save: predictions are made again from the weights. Collective, so before
            # every batch on every rank.
            stop.check()
            laid = lay_out(batch, channels_last=uses_channels_last(train, device))
            with torch.no_grad(), autocast(train, device):
                return task.infer(model, laid)

        size = choose_batch(self.recipe.train, self.process, self.tally.step_bytes)
        write_predictions(self.paths, infer, data, self.process, self.lease, size)

    def _mark_done(self, progress: MemberProgress, preparation: Preparation) -> None:
        facts = {
            "mean": preparation.mean.tolist(),
            "std": preparation.std.tolist(),
            "best_epoch": progress.best_epoch,
            "best_metric": progress.best_metric,
            "epochs": progress.epochs_done,
            "seconds": sum(line["seconds"] for line in progress.history),
            "num_processes": self.process.world_size,
            "host": distributed.hostname(),
            "device": distributed.device_name(self.process.device),
            "strategy": self.recipe.strategy,
            **describe_precision(self.recipe.train, self.process.device),
        }
        # Of the weights as they were written: by now they may be others.
        hashes = hash_outputs(self.paths) | {self.paths.weights: progress.weights_sha256}
        mark_done(self.run, self.plan, self.member, hashes, facts)
