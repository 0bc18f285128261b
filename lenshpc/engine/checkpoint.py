"""Checkpoints that a killed run goes on from: whole or absent, a folder each.

There is one after every epoch, and one where a run was told to stop. It is written under a
temporary name by all ranks, flushed, and renamed by rank 0. It holds the model, optimiser,
schedule, what differs by rank (random state, buffers, sum of losses) and the history, which names
the best epoch; that epoch's weights lie beside it. The order of rows and the augmentation need no
state: they are functions of (seed, epoch, row).

`hashes.json`, written last, has the SHA-256 of all these files. They are checked before anything is
loaded, and the last two checkpoints are kept, so that a damaged one costs an epoch.
"""

import json
import logging
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
from lenshpc.errors import ConfigError, DataError, read_error
from lenshpc.files import (
    flush,
    flush_tree,
    link_file,
    read_json,
    read_sealed,
    read_umask,
    replacing,
    sha256,
    write_json,
    write_sealed,
)
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

    `save`, `load` and `publish_best` are collective.
    """

    def __init__(self, folder: Path, lease: Lease) -> None:
        self._folder, self._lease = folder, lease
        self._newest: tuple[Path, ...] = ()  # the newest checkpoint, and its best weights
        self.best_sha256 = ""  # of the best weights as they were written; rank 0 knows it

    def save(
        self, strategy: Strategy, schedule: Schedule, loss_sum: Tensor, progress: MemberProgress
    ) -> None:
        """Write the state, and the weights after an epoch that is the best; keep the one before."""
        # All ranks come here with the same progress, since they measured the same merged rows: so
        # all return below, or none does.
        final = self._folder / _name(progress)
        if final in self._newest:  # nothing was done since
            return
        draft = final.with_name(f".{final.name}.{self._lease.attempt}")
        if distributed.rank() == 0:
            self._lease.check()
            # No rank may write before this is done, nor rank 0 publish before all have written:
            # hence the barriers on both sides of `strategy.save`.
            shutil.rmtree(draft, ignore_errors=True)
            # Pickles lie here, and nothing that others would want to read.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.mkdir()
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
                self.best_sha256 = _save_weights(weights, self.best(progress))
            torch.save(schedule.state_dict(), draft / "schedule.pt")
            write_json(draft / "progress.json", progress.model_dump(mode="json"))
        hashes = _hash_files(draft)
        written = (final, self.best(progress))
        if distributed.rank() == 0:
            self._lease.check()
            files = {f"{final.name}/{name}": digest for name, digest in hashes.items()}
            if self.best_sha256:
                files[self.best(progress).name] = self.best_sha256
            write_sealed(draft / HASHES, {"files": files})
            _publish(draft, final)
            # Only now: until the rename is on disk the older checkpoint is all that a killed run
            # has. And never the one before, which is gone on from should this one be damaged.
            self._remove_all_but(*written, *self._newest)
        self._newest = written
        distributed.barrier()

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
                f"{latest} is of training {progress.fingerprint[:8]}, not of "
                f"{start.fingerprint[:8]}; move it away"
            )
        if progress.world_size != start.world_size:
            strategy.check_resharding(progress.world_size, start.world_size)
        self._newest = (latest, self.best(progress))
        strategy.load(latest)
        # After the optimiser, whose state brings learning rates of its own.
        schedule.load_state_dict(torch.load(latest / "schedule.pt", weights_only=True))
        # The random state last: what is built or loaded before may draw from it.
        _restore_rank_state(latest, strategy, loss_sum, progress.world_size)
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
                self._remove_all_but(*self._newest)
        distributed.barrier()

    def best(self, progress: MemberProgress) -> Path:
        """Return where the best epoch's weights lie until they are published."""
        return self._folder / f"best-{progress.best_epoch:04d}.safetensors"

    def _remove_all_but(self, *kept: Path) -> None:
        for path in set(self._folder.iterdir()) - set(kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

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
                log.warning("%s is damaged; training goes on from %s", fault, name or "epoch 0")
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


def _hash_files(folder: Path) -> dict[str, str]:
    """Return name → hash of all files that the ranks wrote into a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return _hash_dealt(folder, _tell(sorted(str(path.relative_to(folder)) for path in found)))


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


def _save_weights(weights: dict[str, Tensor], path: Path) -> str:
    """Write weights; return their SHA-256, taken before anybody else could alter them."""
    with replacing(path) as temporary:
        save_file(weights, temporary)
        temporary.chmod(0o666 & ~read_umask())  # 0600 by safetensors, whatever the umask says
        return sha256(temporary)


def _publish(draft: Path, final: Path) -> None:
    # All bytes on disk before the name that makes them count.
    flush_tree(draft)
    # One of that name is damaged: training went on from an older one.
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    flush(final.parent)


def _name(progress: MemberProgress) -> str:
    """Return the folder's name; names sort as training goes."""
    epoch, step = progress.place
    return f"epoch-{epoch:04d}" + (f"-step-{step:08d}" if step else "")


def _rank_file(rank: int | None = None) -> str:
    return f"rank-{distributed.rank() if rank is None else rank:04d}.pt"


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


def _restore_rank_state(
    folder: Path, strategy: Strategy, loss_sum: Tensor, world_size: int
) -> None:
    """Restore what differs by rank, of a checkpoint that so many ranks have written."""
    rank = distributed.rank()
    state = _read_rank_state(folder, min(rank, world_size - 1))
    torch.set_rng_state(state["cpu"])
    if rank >= world_size:  # with its fellow's state both would draw alike
        torch.manual_seed(int(torch.randint(2**62, ())) + rank)
    for name, buffer in strategy.module.named_buffers():
        # In place: the module, DDP and DeepSpeed hold these very tensors.
        buffer.copy_(state["buffers"][name])
    sums = [state["loss_sum"]]
    if world_size != distributed.num_ranks():
        sums = [_read_rank_state(folder, one)["loss_sum"] for one in range(world_size)]
    # Of other ranks' sums the mean, since the mean over the ranks is what an epoch's loss is.
    loss_sum.copy_(torch.stack(sums).mean(0))
    if "cuda" in state and torch.cuda.is_available() and rank < world_size:
        torch.cuda.set_rng_state(state["cuda"])


def _read_rank_state(folder: Path, rank: int) -> dict[str, Any]:
    # weights_only: a checkpoint is data, and a pickle could run code. On the CPU, since random
    # states are refused elsewhere.
    path = folder / _rank_file(rank)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
