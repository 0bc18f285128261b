"""Checkpoints that a killed run goes on from: whole or absent, a folder each.

There is one after every epoch or every so many minutes, and one where a run was told to stop. Its
state is copied to host memory while training waits; a thread of each rank (`writer`) writes it
under a temporary name, and rank 0's renames it. It holds the model, optimiser, schedule, what
differs by rank (random state, buffers, sum of losses) and the history, which names the best epoch;
that epoch's weights lie beside it. The order of rows and the augmentation need no state: they are
functions of (seed, epoch, row).

`hashes.json`, written last, has the SHA-256 of all these files. They are checked before anything is
loaded, and the last two checkpoints are kept, so that a damaged one costs an epoch.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lenshpc.config import Frozen, validate
from lenshpc.engine import distributed
from lenshpc.engine.lease import Lease
from lenshpc.engine.schedule import Schedule
from lenshpc.engine.snapshot import HostMemory, count_bytes, mark_end
from lenshpc.engine.step import Weights
from lenshpc.engine.strategy import Strategy
from lenshpc.engine.writer import Order, Writer, find_shortage, rank_file, remove_all_but
from lenshpc.errors import ConfigError, DataError, LensHpcError, read_error
from lenshpc.files import link_file, read_json, read_sealed, replacing, sha256
from lenshpc.run.paths import HASHES, list_checkpoints

log = logging.getLogger(__name__)


class PartialEpoch(Frozen):
    """An epoch that was left: its steps taken, its first learning rate, its seconds of training.

    `waited_s` of these seconds were waited for batches.
    """

    steps: int = 0
    lr: float
    seconds: float = 0.0
    waited_s: float = 0.0


class MemberProgress(Frozen):
    """How far a training has come."""

    fingerprint: str
    world_size: int
    history: tuple[dict[str, int | float], ...] = ()  # epochs stay whole numbers
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

    `save`, `finish`, `keep_best`, `load` and `publish_best` are collective. `interval_s` are the
    seconds between two checkpoints; with 0 each epoch has one. `on_save` is told on rank 0, in a
    thread, of each one that is published.
    """

    def __init__(
        self,
        folder: Path,
        lease: Lease,
        interval_s: float = 0.0,
        on_save: Callable[[MemberProgress], None] = lambda _: None,
    ) -> None:
        self._folder, self._lease = folder, lease
        self._interval_s, self._on_save = interval_s, on_save
        self._began_s = time.monotonic()
        self._newest: tuple[Path, ...] = ()  # the newest checkpoint, and its best weights
        self.best_sha256 = ""  # of the best weights as they were written; rank 0 knows it
        self._memory = HostMemory()
        # The best weights wait here for the next checkpoint; of the two memories the other one may
        # be under way to the disk.
        self._best: Weights = {}
        self._best_memory, self._other_memory = HostMemory(), HostMemory()
        self._writer = Writer(lease, distributed.rank(), distributed.num_ranks())

    def is_due(self, *, after_epoch: bool = False) -> bool:
        """Say whether this rank wants all to `save`: it is time, or what was written has failed."""
        if self._writer.has_failed:  # `save` has all ranks raise it together
            return True
        # Rank 0's clock counts for all. None is begun within an epoch while one is under way: it
        # would have to be waited for.
        if distributed.rank() != 0 or not self._interval_s:
            return after_epoch and not self._interval_s
        passed = time.monotonic() - self._began_s >= self._interval_s
        return passed and self._writer.is_idle

    def keep_best(self, strategy: Strategy) -> None:
        """Copy the best weights so far to host memory, until the next checkpoint has them."""
        # Collective under ZeRO-3, which gathers the shares.
        with strategy.weights() as weights:
            self._best = self._best_memory.copy(weights)

    def save(
        self, strategy: Strategy, schedule: Schedule, loss_sum: Tensor, progress: MemberProgress
    ) -> None:
        """Copy the state to host memory, for the thread to write; keep the checkpoint before.

        Waits for what is under way, and raises what went wrong with it.
        """
        # All ranks come here with the same progress, since they measured the same merged rows: so
        # all return below, or none does.
        final = self._folder / _name(progress)
        if final in self._newest:  # nothing was done since
            return
        self.finish()  # it may hold this memory, and would be overtaken
        self._began_s = time.monotonic()
        state = _rank_state(strategy, schedule, loss_sum)
        draft = final.with_name(f".{final.name}.{self._lease.attempt}")
        size = self._prepare(draft, count_bytes([state, self._best]))
        written = (final, self.best(progress))
        order = Order(
            state=self._memory.copy(state),
            arrived=mark_end(loss_sum.device),
            best=self._best,
            best_path=self.best(progress),
            best_sha256=self.best_sha256,
            progress=progress.model_dump(mode="json"),
            draft=draft,
            final=final,
            kept=frozenset({*written, *self._newest}),
            size=size,
            published=partial(self._on_save, progress),
        )
        self._writer.start(order)
        self._newest, self._best = written, {}
        self._best_memory, self._other_memory = self._other_memory, self._best_memory

    def _prepare(self, draft: Path, size: int) -> int:
        """Make the folder of a checkpoint that fits; return the bytes of all ranks."""
        total = int(distributed.sum_over_ranks(torch.tensor(size)))
        shortage = ""
        if distributed.rank() == 0:
            self._lease.check()
            shutil.rmtree(draft, ignore_errors=True)
            # Pickles lie here, and nothing that others would want to read.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            shortage = find_shortage(self._folder, total)
            if not shortage:
                draft.mkdir()
        # No rank may write before this is done, hence also before rank 0 has told.
        shortage = distributed.broadcast_text(shortage)
        if shortage:
            raise LensHpcError(shortage)
        return total

    def finish(self) -> None:
        """Wait until what is under way is published; raise on every rank where it could not be."""
        for part in self._writer.parts:
            error = part.exception()
            # Every rank's own file first: rank 0 waits for all of them before it publishes.
            if int(distributed.sum_over_ranks(torch.tensor(int(error is not None)))):
                self._writer.give_up()
                self._writer.clear()
                raise error or LensHpcError(
                    f"another process could not write its part of a checkpoint in {self._folder}; "
                    "its log says why"
                )
            self.best_sha256 = part.result()
        self._writer.clear()

    def abandon(self) -> None:
        """Have nothing under way: on one rank's own, where training fails; no collective call."""
        self._writer.give_up()

    def load(
        self, strategy: Strategy, schedule: Schedule, loss_sum: Tensor, start: MemberProgress
    ) -> MemberProgress:
        """Return the progress of the newest whole checkpoint, restored; `start` without one."""
        latest = self._find_whole()
        if latest is None:
            return start
        # Read by every rank, and compared before any state is loaded: ranks of another number have
        # other shares of the optimiser and of each batch.
        progress = validate(MemberProgress, read_json(latest / "progress.json"), str(latest))
        if progress.fingerprint != start.fingerprint:
            raise ConfigError(
                f"{latest} belongs to training {progress.fingerprint[:8]}, not "
                f"{start.fingerprint[:8]}; move it away"
            )
        if progress.world_size != start.world_size:
            strategy.check_resharding(progress.world_size, start.world_size)
        self._newest = (latest, self.best(progress))
        read = partial(_read_rank_state, latest)
        strategy.load(read(rank)["training"] for rank in range(progress.world_size))
        # After the optimiser, whose state brings learning rates of its own.
        schedule.load_state_dict(read(0)["schedule"])
        # The random state last: what is built or loaded before may draw from it.
        _restore_rank_state(read, strategy, loss_sum, progress.world_size)
        return progress.model_copy(update={"world_size": start.world_size})

    def publish_best(self, progress: MemberProgress, target: Path, *, keep: bool) -> None:
        """Move the best epoch's weights to `target` and remove all checkpoints.

        `keep` leaves the last checkpoint and its best weights, for a training of more epochs. May
        be called again after it was cut short.
        """
        best = self.best(progress)
        if distributed.rank() == 0:
            self._lease.check()
            # Absent where an earlier call was cut short: the weights are at the target by then, and
            # only the checkpoints are left to remove.
            if best.is_file():
                with replacing(target) as temporary:
                    link_file(best, temporary)
            if not keep:
                shutil.rmtree(self._folder, ignore_errors=True)
            elif self._newest:
                remove_all_but(self._folder, frozenset(self._newest))
        distributed.barrier()

    def best(self, progress: MemberProgress) -> Path:
        """Return where the best epoch's weights lie until they are published."""
        return self._folder / f"best-{progress.best_epoch:04d}.safetensors"

    def _find_whole(self) -> Path | None:
        """Return the newest checkpoint all of whose files have their hashes, the same on each rank.

        The log names the first damaged file of each newer one.
        """
        damaged = []
        names = _tell(list_checkpoints(self._folder))
        for name in reversed(names):
            fault = self._find_damage(name)
            if fault is None:
                break
            damaged.append(fault)
        else:
            name, self.best_sha256 = None, ""  # those of a damaged one belong to nothing
        if distributed.rank() == 0:
            for fault in damaged:
                log.warning("%s is damaged; training continues from %s", fault, name or "epoch 0")
        return self._folder / name if name else None

    def _find_damage(self, name: str) -> Path | None:
        """Return the first damaged file of a checkpoint; all ranks look, and agree."""
        noted = self._folder / name / HASHES
        files: dict[str, str] = _tell(_read_hashes(noted) if distributed.rank() == 0 else {})
        if not files:
            return noted
        if distributed.rank() == 0:
            self.best_sha256 = next((files[one] for one in files if one.startswith("best-")), "")
        try:
            found = _hash_dealt(self._folder, list(files))
        except OSError as error:
            raise read_error(error.filename or noted.parent, error) from error
        return next((self._folder / one for one in files if found[one] != files[one]), None)


def _read_hashes(path: Path) -> dict[str, str]:
    """Return name → hash of all files that a checkpoint needs; nothing where that is damaged."""
    try:
        files: dict[str, str] = read_sealed(path)["files"]
    except (DataError, FileNotFoundError):
        return {}
    except OSError as error:
        raise read_error(path, error) from error
    return files


def _hash_dealt(folder: Path, names: list[str]) -> dict[str, str]:
    """Return name → SHA-256 of files, zeros for one that is not there; each rank hashes its share.

    All ranks call this with the same names.
    """
    digests = torch.zeros((len(names), 32), dtype=torch.uint8)
    for at in range(distributed.rank(), len(names), distributed.num_ranks()):
        path = folder / names[at]
        if path.is_file():
            digests[at] = torch.tensor(list(bytes.fromhex(sha256(path))), dtype=torch.uint8)
    # A sum, as each row is one rank's and zeros elsewhere.
    rows = distributed.sum_over_ranks(digests).tolist()
    return {name: bytes(row).hex() for name, row in zip(names, rows, strict=True)}


def _tell(value: Any) -> Any:
    """Return rank 0's value on every rank.

    A network file system may show ranks on other nodes an older list of files, or none.
    """
    return json.loads(distributed.broadcast_text(json.dumps(value)))


def _name(progress: MemberProgress) -> str:
    """Return the folder's name; names sort as training goes."""
    epoch, step = progress.place
    return f"epoch-{epoch:04d}" + (f"-step-{step:08d}" if step else "")


def _rank_state(strategy: Strategy, schedule: Schedule, loss_sum: Tensor) -> dict[str, Any]:
    """Return all that this rank goes on from; its tensors are those that training changes."""
    # batch-norm statistics differ by rank within an epoch
    state = {
        "training": strategy.state(),
        "schedule": schedule.state_dict(),
        # All that training draws from while it runs; numpy and `random` are not here, since nothing
        # draws from their global state.
        "cpu": torch.get_rng_state(),
        "buffers": dict(strategy.module.named_buffers()),
        "loss_sum": loss_sum,
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_rank_state(
    read: Callable[[int], dict[str, Any]], strategy: Strategy, loss_sum: Tensor, world_size: int
) -> None:
    """Restore what differs by rank, of a checkpoint that so many ranks have written."""
    rank = distributed.rank()
    state = read(min(rank, world_size - 1))
    torch.set_rng_state(state["cpu"])
    if rank >= world_size:  # with its fellow's state both would draw alike
        torch.manual_seed(int(torch.randint(2**62, ())) + rank)
    for name, buffer in strategy.module.named_buffers():
        # In place: the module, DDP and DeepSpeed hold these very tensors.
        buffer.copy_(state["buffers"][name])
    sums = [state["loss_sum"]]
    if world_size != distributed.num_ranks():
        sums = [read(one)["loss_sum"] for one in range(world_size)]
    # Of other ranks' sums the mean, since the mean over the ranks is what an epoch's loss is.
    loss_sum.copy_(torch.stack(sums).mean(0))
    if "cuda" in state and torch.cuda.is_available() and rank < world_size:
        torch.cuda.set_rng_state(state["cuda"])


def _read_rank_state(folder: Path, rank: int) -> dict[str, Any]:
    # weights_only: a checkpoint is data, and a pickle could run code. On the CPU, since random
    # states are refused elsewhere. Mapped: what is not looked at is not read; whoever keeps a part
    # copies it, as the file is soon removed.
    path = folder / rank_file(rank)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state
