"""A training of a few numbers with everything that a checkpoint holds, in this process."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from ranks import recipe
from torch import Tensor, nn

from lenshpc.engine.checkpoint import Checkpoints, MemberProgress
from lenshpc.engine.distributed import Process
from lenshpc.engine.lease import Lease
from lenshpc.engine.plain import Plain
from lenshpc.engine.schedule import Schedule

START = MemberProgress(fingerprint="f" * 64, world_size=1)


class Doubling:
    """A task that learns to double its input."""

    num_phases = 1

    def training_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return the mean squared error."""
        return {"loss": (model(batch["image"])[:, 0] - 2 * batch["image"][:, 0]).square().mean()}


class SmallTraining:
    """Strategy, schedule and checkpoints in a folder, as a member's loop has them."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        torch.manual_seed(seed)
        train = recipe(train__ema_decay=0.9, train__epochs=8).train
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 1))
        task: Any = Doubling()
        self.strategy = Plain(task, model, train, Process())
        self.schedule = Schedule(self.strategy.optimizer, train, steps_per_epoch=2)
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        owner = folder / "owner"
        folder.mkdir(exist_ok=True)
        owner.write_text("one", encoding="utf-8")
        self.checkpoints = Checkpoints(folder / "checkpoint", Lease(owner, "one"))

    def epoch(self, progress: MemberProgress, *, is_best: bool) -> MemberProgress:
        """Train an epoch of two steps and save it."""
        for _ in range(2):
            batch: Any = {"image": torch.rand(8, 3)}
            self.loss_sum.add_(self.strategy.step(batch))
            self.schedule.after_step()
        best = {"best_epoch": progress.epochs_done} if is_best else {}
        after = progress.model_copy(update={"history": (*progress.history, {"epoch": 1.0}), **best})
        if is_best:
            self.checkpoints.keep_best(self.strategy)
        self.save(after)
        return after

    def epochs(self, progress: MemberProgress, bests: Iterable[bool]) -> MemberProgress:
        """Train an epoch for each word on whether it is the best."""
        for is_best in bests:
            progress = self.epoch(progress, is_best=is_best)
        return progress

    def save(self, progress: MemberProgress) -> None:
        """Save as the loop does, and wait until that is on disk."""
        self.checkpoints.save(self.strategy, self.schedule, self.loss_sum, progress)
        self.checkpoints.finish()

    def load(self) -> MemberProgress:
        """Load as the loop does."""
        return self.checkpoints.load(self.strategy, self.schedule, self.loss_sum, START)

    def digest(self) -> str:
        """Return a hash of all that the next step depends on."""
        assert self.strategy.average is not None
        optimizer = self.strategy.optimizer.state_dict()
        tensors = [
            *self.strategy.module.state_dict().values(),
            *self.strategy.average.state_dict().values(),
            *(value for state in optimizer["state"].values() for value in state.values()),
            torch.get_rng_state(),
            self.loss_sum,
        ]
        told = repr([optimizer["param_groups"], self.schedule.state_dict()])
        parts = [told.encode(), *(tensor.numpy().tobytes() for tensor in tensors)]
        return hashlib.sha256(b"|".join(parts)).hexdigest()
