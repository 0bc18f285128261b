"""Which process this is, and the few collective calls that training needs."""

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from lenshpc.engine import rendezvous
from lenshpc.engine.cards import find_gpu, refuse_shared_gpus
from lenshpc.errors import ConfigError, LaunchError, one_line

ASK_US = 500_000  # between two questions to all ranks: asked and answered within a second


@dataclass(frozen=True, kw_only=True)
class Process:
    """One rank's place among the ranks of a member."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    on_one_node: bool = True
    job: str = "none"
    restart: int = 0

    @property
    def is_main(self) -> bool:
        """Return whether this rank writes the files."""
        return self.rank == 0

    @property
    def attempt(self) -> str:
        """Return a name that no other attempt at the member has."""
        return f"{self.job}.{self.restart}"

    @property
    def device(self) -> torch.device:
        """Return this rank's GPU, or the CPU where there is none.

        SLURM shows a task either all GPUs of its node or just its own, as it is bound. Raises
        LaunchError where the node has some, and CUDA does not see them.
        """
        if not torch.cuda.is_available():
            if torch.version.cuda:
                refuse_dead_gpus(Path("/dev").glob("nvidia[0-9]*"), os.environ, ask_cuda())
            return torch.device("cpu")
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())


def ask_cuda() -> str:
    """Return why CUDA cannot be used, in its own words; nothing where it can."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:
        return one_line(error)
    return ""


def refuse_dead_gpus(devices: Iterable[Path], environment: Mapping[str, str], reason: str) -> None:
    """Raise LaunchError if this process may use one of the devices: it would train on the CPU."""
    found = ", ".join(sorted(path.name for path in devices))
    if found and environment.get("CUDA_VISIBLE_DEVICES", "0") not in {"", "-1", "NoDevFiles"}:
        node = environment.get("SLURMD_NODENAME") or hostname()
        raise LaunchError(
            f"No CUDA GPUs are available on node {node}, which has {found}. CUDA says: {reason}; "
            "tell the site the node's name, or set CUDA_VISIBLE_DEVICES= for the CPU"
        )


def from_environment(environment: Mapping[str, str] = os.environ) -> Process:
    """Return the process that submitit started; a lone one outside of it."""
    launcher = environment.get("SUBMITIT_EXECUTOR")
    if launcher == "slurm":
        return _from_slurm(environment)
    if launcher == "local":
        return _from_local(environment)
    return Process()


def _from_slurm(environment: Mapping[str, str]) -> Process:
    # Of the step where there is one; unknown is not one node.
    nodes = environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_JOB_NUM_NODES")
    array = environment.get("SLURM_ARRAY_JOB_ID")
    own = f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else environment["SLURM_JOB_ID"]
    return Process(
        rank=int(environment["SLURM_PROCID"]),
        world_size=int(environment["SLURM_NTASKS"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        on_one_node=nodes == "1",
        job=own,
        restart=int(environment.get("SLURM_RESTART_COUNT", 0)),
    )


def _from_local(environment: Mapping[str, str]) -> Process:
    return Process(
        rank=int(environment["SUBMITIT_LOCAL_GLOBALID"]),
        world_size=int(environment["SUBMITIT_LOCAL_NTASKS"]),
        local_rank=int(environment["SUBMITIT_LOCAL_LOCALID"]),
        job=environment["SUBMITIT_LOCAL_JOB_ID"],
    )


@contextmanager
def restore_environment() -> Iterator[None]:
    """Have this process's environment variables be as they were, when the block has ended.

    A rank sets some for NCCL, gloo and DeepSpeed. A job that the same process sends afterwards
    would inherit them, and ranks on two nodes would look for each other on the loopback.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def start(
    process: Process,
    expected: int,
    folder: Path,
    *,
    timeout: timedelta = rendezvous.PATIENCE,
    needs_group: bool = False,
) -> None:
    """Join the process group: NCCL on GPUs, gloo on CPUs; without GPUs one thread a process.

    The ranks meet in a private folder of this attempt below `folder`. One that waits for another
    gives up after `timeout`. A lone process has no group unless it `needs_group`.
    """
    # Every rank sees this and stops: with fewer ranks than planned each would train on a larger
    # share of the batch, under the same fingerprint.
    if process.world_size != expected:
        raise ConfigError(
            f"the scheduler started {process.world_size} processes; the Plan says {expected}: ask "
            "for one task per GPU, or resources.tasks_per_node of them on CPUs"
        )
    if process.on_one_node:
        # Both listen at ports of their own; what other hosts cannot reach need not be defended. A
        # site's own choice stands.
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")
    _take_device(process)
    if process.world_size == 1 and not needs_group:
        return
    meeting = rendezvous.meet(folder / process.attempt, process.rank, process.world_size, timeout)
    refuse_shared_gpus(meeting.store, process.rank, process.world_size, find_gpu(process.device))
    _join(process, meeting.store, timeout)
    rendezvous.prove(meeting.secret)
    if process.is_main:
        rendezvous.end_talk(folder / process.attempt)


def _take_device(process: Process) -> None:
    # DeepSpeed takes it for the GPU's number; it takes the group as it is.
    os.environ["LOCAL_RANK"] = str(process.device.index or 0)
    if process.device.type == "cpu":
        # One thread a rank, since the ranks share the cores and sums in another number of threads
        # are other sums.
        torch.set_num_threads(1)
    else:
        # Before the group is made: NCCL binds to the current device, and all ranks would meet on
        # GPU 0.
        torch.cuda.set_device(process.device)


def _join(process: Process, store: Store, timeout: timedelta) -> None:
    on_gpu = process.device.type != "cpu"
    dist.init_process_group(
        # gloo carries what the CPUs agree upon while the GPUs compute
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=store,
        rank=process.rank,
        world_size=process.world_size,
        timeout=timeout,
        device_id=process.device if on_gpu else None,
    )


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def leave(process: Process, folder: Path) -> None:
    """Remove the folder where the ranks of this attempt met; all call this that ended well."""
    if process.world_size > 1:
        rendezvous.leave(folder / process.attempt, process.rank, process.world_size)


def rank() -> int:
    """Return this process's rank; 0 where there is no group."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """Return the number of ranks; 1 where there is no group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def broadcast_text(text: str) -> str:
    """Return rank 0's text on every rank."""
    if not dist.is_initialized():
        return text
    # As bytes, never as an object: `broadcast_object_list` unpickles what it gets.
    told = torch.tensor(list(text.encode()), dtype=torch.uint8)
    length = torch.tensor(len(told))
    dist.broadcast(length, src=0)
    if rank() != 0:
        told = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(told, src=0)
    return told.numpy().tobytes().decode()


def agree(answer: bool) -> bool:
    """Return rank 0's answer on every rank: another may see other files, or older ones."""
    return broadcast_text(str(answer)) == "True"


def broadcast_buffers(module: torch.nn.Module) -> None:
    """Give every rank the buffers of rank 0: batch-norm statistics drift apart in training."""
    if dist.is_initialized():
        # The same number of calls on each rank: the modules are equal, so nothing may be skipped by
        # value.
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


class RankMaximum:
    """The largest of the ranks' numbers, told to all of them at the same call.

    The ranks are asked about twice a second, whatever a call takes, and no rank waits: the answer
    travels until they are asked again. They must call it equally often.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._asked: tuple[dist.Work, torch.Tensor] | None = None
        self._asked_s = now()
        self._calls, self._every = 0, 1

    def largest(self, number: int, *, at_once: bool = False) -> int:
        """Return the largest number of when it was last asked, or 0; this call's on a lone process.

        `at_once` asks on this call, however soon it is.
        """
        if num_ranks() == 1:
            return number
        self._calls += 1
        # By what all ranks know, and never by a clock of this one: a rank that asks alone leaves
        # the others waiting for its number, and they stop after different steps.
        if self._calls < self._every and not at_once:
            return 0
        before, self._asked = self._asked, _reduce_max(number, self._measure_call_us())
        answer, call_us = _answer(before) if before else (0, ASK_US)
        # At most twice as many as before: a GPU's first steps are only queued, and look fast.
        self._every = max(1, min(2 * self._every, ASK_US // call_us))
        if answer:
            # Nothing may be under way when the group ends; and it was asked before all heard this
            # answer, so it would be acted upon twice.
            _answer(self._asked)
            self._asked = None
        return answer

    def _measure_call_us(self) -> int:
        """Return the microseconds from one call to the next, since all were asked last."""
        now = self._now()
        each = (now - self._asked_s) / self._calls
        self._asked_s, self._calls = now, 0
        return max(1, round(each * 1e6))


def _reduce_max(*numbers: int) -> tuple[dist.Work, torch.Tensor]:
    asked = torch.tensor(numbers)  # on the CPU: a GPU would have to be waited for
    return dist.all_reduce(asked, dist.ReduceOp.MAX, async_op=True), asked


def _answer(asked: tuple[dist.Work, torch.Tensor]) -> tuple[int, int]:
    work, numbers = asked
    work.wait()
    largest, call_us = numbers.tolist()
    return largest, call_us


def mean_over_ranks(value: torch.Tensor) -> float:
    """Return the mean of a scalar over the ranks."""
    if not dist.is_initialized():
        return float(value)
    # Overwrites `value` with the sum: give it a tensor that is not needed again.
    dist.all_reduce(value)
    return float(value) / dist.get_world_size()


def minimum_over_ranks(number: int) -> int:
    """Return the smallest of the ranks' numbers."""
    if not dist.is_initialized():
        return number
    smallest = torch.tensor(number)
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return int(smallest)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return a CPU tensor summed over the ranks, in its place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gather_rows(values: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Return all ranks' equally long columns merged by `row`: each row once, ascending."""
    merged = {key: _gather(column).cpu().numpy() for key, column in values.items()}
    # By row, since the ranks' parts come in the order of ranks: only so do metrics not depend on
    # their number. It also drops the rows that pad the last batches.
    _, first = np.unique(merged["row"], return_index=True)
    return {key: column[first] for key, column in merged.items()}


def _gather(column: torch.Tensor) -> torch.Tensor:
    if not dist.is_initialized():
        return column
    # all_gather wants equally long columns and the same order of calls on all ranks;
    # `evaluation_batches` sees to the first, the task's fixed order of keys to the second.
    parts = [torch.empty_like(column) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, column.contiguous())
    return torch.cat(parts)


def hostname() -> str:
    """Return this node's name."""
    return socket.gethostname()


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
