"""Checkpoints that a killed run goes on from: whole or absent, a folder each.

There is one after every epoch, and one where a run was told to stop. It is written under a
temporary name by all ranks, flushed, and renamed by rank 0. It holds the model, optimiser,
schedule, what differs by rank (random state, buffers, sum of losses) and the history, which names
the best epoch; that epoch's weights lie beside it. The order of rows and the augmentation need no
state: they are functions of (seed, epoch, row).
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from lenshpc.config import Frozen, validate
from lenshpc.engine import distributed
from lenshpc.engine.lease import Lease
from lenshpc.engine.schedule import Schedule
from lenshpc.engine.strategy import Strategy
from lenshpc.errors import ConfigError
from lenshpc.files import flush, flush_tree, read_json, replacing, write_json


class PartialEpoch(Frozen):
    """An epoch that was left: its steps taken, its first learning rate, its seconds of training."""

    steps: int = 0
    lr: float
    seconds: float = 0.0


class MemberProgress(Frozen):
    """How far a training has come."""

    fingerprint: str
    world_size: int
    history: tuple[dict[str, float], ...] = ()
    best_epoch: int = -1
    best_metric: float | None = None
    begun: PartialEpoch | None = None
    weights_sha256: str = Field(default="", description="of the best weights, once training ended")

    @property
    def epochs_done(self) -> int:
        """Return the number of finished epochs."""
        return len(self.history)

    @property
    def place(self) -> tuple[int, int]:
        """Return the number of finished epochs, and of steps after them."""
        return self.epochs_done, self.begun.steps if self.begun else 0

    @property
    def epochs_since_best(self) -> int:
        """Return the number of epochs without an improvement."""
        return self.epochs_done - 1 - self.best_epoch


class Checkpoints:
    """The checkpoint folder of one member, written by the attempt that holds the member.

    `save`, `load` and `publish_best` are collective.
    """

    def __init__(self, folder: Path, lease: Lease) -> None:
        self._folder, self._lease = folder, lease
        self._newest: Path | None = None

    def save(
        self, strategy: Strategy, schedule: Schedule, loss_sum: Tensor, progress: MemberProgress
    ) -> None:
        """Write the state, and the weights after an epoch that is the best; remove older ones."""
        # All ranks come here with the same progress, since they measured the same merged rows: so
        # all return below, or none does.
        final = self._folder / _name(progress)
        if final == self._newest:  # nothing was done since
            return
        draft = final.with_name(f".{final.name}.{self._lease.attempt}")
        if distributed.rank() == 0:
            self._lease.check()
            # No rank may write before this is done, nor rank 0 publish before all have written:
            # hence the barriers on both sides of `strategy.save`.
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        distributed.barrier()
        # Every rank, never rank 0 alone: DeepSpeed writes a part a rank, and has barriers inside.
        strategy.save(draft)
        torch.save(_rank_state(strategy, loss_sum), draft / _rank_file())
        is_best = progress.epochs_since_best == 0 and progress.begun is None
        # Collective under ZeRO-3, which gathers the shares; so it stands outside of the branch for
        # rank 0. `is_best` is equal on all ranks.
        weights = strategy.weights() if is_best else {}
        distributed.barrier()
        if distributed.rank() == 0:
            self._lease.check()
            # Before the checkpoint that names this epoch as the best is published: killed between
            # the two, the epoch is repeated and the weights are written over. In the other order a
            # checkpoint would name weights that are not there.
            if weights:
                _save_weights(weights, self.best(progress))
            torch.save(schedule.state_dict(), draft / "schedule.pt")
            write_json(draft / "progress.json", progress.model_dump(mode="json"))
            _publish(draft, final)
            # Only now: until the rename is on disk the older checkpoint is all that a killed run
            # has.
            self._remove_all_but(final, self.best(progress))
        self._newest = final
        distributed.barrier()

    def load(
        self, strategy: Strategy, schedule: Schedule, loss_sum: Tensor, start: MemberProgress
    ) -> MemberProgress:
        """Return the progress of the newest checkpoint, restored; `start` where there is none."""
        latest = self._latest()
        if latest is None:
            return start
        # Read by every rank, and compared before any state is loaded: ranks of another number have
        # other shares of the optimiser and of each batch.
        progress = validate(MemberProgress, read_json(latest / "progress.json"), str(latest))
        found = (progress.fingerprint, progress.world_size)
        if found != (start.fingerprint, start.world_size):
            raise ConfigError(
                f"{latest} belongs to Plan {progress.fingerprint[:8]} on {progress.world_size} "
                f"processes, not to {start.fingerprint[:8]} on {start.world_size}; remove it"
            )
        self._newest = latest
        strategy.load(latest)
        # After the optimiser, whose state brings learning rates of its own.
        schedule.load_state_dict(torch.load(latest / "schedule.pt", weights_only=True))
        # The random state last: what is built or loaded before may draw from it.
        _restore_rank_state(latest / _rank_file(), strategy, loss_sum)
        return progress

    def publish_best(self, progress: MemberProgress, target: Path) -> None:
        """Move the best epoch's weights to `target` and remove all checkpoints.

        May be called again after it was cut short.
        """
        if distributed.rank() == 0:
            self._lease.check()
            # Absent where an earlier call was cut short after the rename: the weights are at the
            # target by then, and only the checkpoints are left to remove.
            if self.best(progress).is_file():
                self.best(progress).replace(target)
                flush(target.parent)
            shutil.rmtree(self._folder, ignore_errors=True)
        distributed.barrier()

    def best(self, progress: MemberProgress) -> Path:
        """Return where the best epoch's weights lie until they are published."""
        return self._folder / f"best-{progress.best_epoch:04d}.safetensors"

    def _remove_all_but(self, *kept: Path) -> None:
        for path in set(self._folder.iterdir()) - set(kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _latest(self) -> Path | None:
        """Return the newest whole checkpoint; rank 0 looks, for all to agree."""
        found = ""
        if distributed.rank() == 0:
            # Drafts begin with a dot, so the pattern never finds one. Only rank 0 looks: a network
            # file system may show ranks on other nodes an older list, and they would resume
            # elsewhere.
            found = max((str(path) for path in self._folder.glob("epoch-*")), default="")
        agreed = distributed.broadcast_text(found)
        return Path(agreed) if agreed else None


def _save_weights(weights: dict[str, Tensor], path: Path) -> None:
    with replacing(path) as temporary:
        save_file(weights, temporary)


def _publish(draft: Path, final: Path) -> None:
    # All bytes on disk before the name that makes them count.
    flush_tree(draft)
    draft.rename(final)
    flush(final.parent)


def _name(progress: MemberProgress) -> str:
    """Return the folder's name; names sort as training goes."""
    epoch, step = progress.place
    return f"epoch-{epoch:04d}" + (f"-step-{step:08d}" if step else "")


def _rank_file() -> str:
    return f"rank-{distributed.rank():04d}.pt"


def _rank_state(strategy: Strategy, loss_sum: Tensor) -> dict[str, Any]:
    # batch-norm statistics differ by rank within an epoch
    state = {
        # All that training draws from while it runs; numpy and `random` are not here, since nothing
        # draws from their global state.
        "cpu": torch.get_rng_state(),
        "buffers": dict(strategy.module.named_buffers()),
        "loss_sum": loss_sum,
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_rank_state(path: Path, strategy: Strategy, loss_sum: Tensor) -> None:
    # weights_only: a checkpoint is data, and a pickle could run code. On the CPU, since random
    # states are refused elsewhere.
    state = torch.load(path, map_location="cpu", weights_only=True)
    torch.set_rng_state(state["cpu"])
    for name, buffer in strategy.module.named_buffers():
        # In place: the module, DDP and DeepSpeed hold these very tensors.
        buffer.copy_(state["buffers"][name])
    loss_sum.copy_(state["loss_sum"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
