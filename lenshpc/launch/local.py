"""This machine's queue: members wait for free slots, then the report is written.

The queue is a process of its own that outlives the shell. A slot is one GPU, or one processor core
for members on CPUs; a lock file a slot keeps the queues of several runs apart.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import Field

from lenshpc.config import Frozen
from lenshpc.errors import LaunchError
from lenshpc.files import write_json
from lenshpc.launch import executor
from lenshpc.launch.failures import QUEUE_BEGINS, Failure, classify, read_tails
from lenshpc.launch.sites import Site, read_site
from lenshpc.launch.slots import Slot, local_slots, note_holder, take_slots, visibility
from lenshpc.launch.snapshot import Snapshot
from lenshpc.run.completion import is_done
from lenshpc.run.origin import origin_of
from lenshpc.run.ownership import require_own
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, load_plan
from lenshpc.run.records import read_record

POLL_S = 0.2
SAVE_S = 10.0  # for members that are told to end
STOP_S = 15.0  # for the queue to cancel its members and note it


class Queue(Frozen):
    """What the queue does and has done; `pid` is its process, 0 once it has ended.

    `states` has PENDING, RUNNING, COMPLETED, FAILED, CANCELLED or LOST (the queue ended before it)
    a member, `jobs` the process of each that was started. `host` is where it is.
    """

    pid: int = 0
    host: str = ""
    states: dict[int, str] = Field(default={})
    jobs: dict[int, str] = Field(default={})
    report: str = ""

    @property
    def is_elsewhere(self) -> bool:
        """Return whether it was started on another machine, where alone its process is seen."""
        return bool(self.pid) and self.host not in {"", socket.gethostname()}


Running = tuple[Any, list[IO[bytes]]]  # submitit's job, and the locks of its slots


def queue_path(run: RunPaths) -> Path:
    """Return where the queue keeps its state."""
    return run.slurm / "queue.json"


def read_queue(run: RunPaths) -> Queue:
    """Return the queue's state; an empty one where none was started.

    Where its process is gone, or cannot be seen from here, what waited or ran is LOST or UNKNOWN.
    """
    if run.hides_jobs or not queue_path(run).exists():
        return Queue()
    queue = read_record(Queue, queue_path(run))
    if queue.is_elsewhere:
        return _rename_unended(queue, "UNKNOWN")
    if queue.pid and not _is_queue(queue.pid, run):
        # By its process, since a queue that was killed cannot say so. What it had started may live
        # on: the member's `owner` keeps that from writing beside the next attempt.
        return _rename_unended(queue, "LOST").model_copy(update={"pid": 0})
    return queue


def _rename_unended(queue: Queue, word: str) -> Queue:
    states = {
        member: word if state in {"PENDING", "RUNNING"} else state
        for member, state in queue.states.items()
    }
    report = word if queue.report == "RUNNING" else queue.report
    return queue.model_copy(update={"states": states, "report": report})


def describe_absence(run: RunPaths, queue: Queue) -> str:
    """Return why nothing is known of a queue that is elsewhere, and what to do."""
    return (
        f"its queue, process {queue.pid}, is on {queue.host}; ask there, or if that machine is "
        f"gone, remove {queue_path(run)}"
    )


def log_path(run: RunPaths) -> Path:
    """Return the log of a run's queues."""
    return run.slurm / "queue.log"


def read_failure(run: RunPaths) -> Failure:
    """Return how the latest queue of a run ended that did not come to its end."""
    # Without a word in its log it was killed.
    return classify("", "0:9", logs=read_tails([log_path(run)]))


def _is_queue(pid: int, run: RunPaths) -> bool:
    """Return whether that process is this run's queue and not a later one with its number."""
    try:
        # Process ids come again: the command line must name this run.
        return str(run.root).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def start_queue(run: RunPaths, members: Sequence[int], code: Snapshot) -> int:
    """Start the queue of a run as a process of its own; return its number once it works.

    It and its members run the copy of the code.
    """
    before = read_queue(run)
    # With what earlier queues have done: `logs` and `status` find those members' jobs here.
    states = before.states | dict.fromkeys(members, "PENDING")
    waiting = Queue(states=states, jobs=before.jobs)
    # Before the process starts: it reads its members from here.
    write_json(queue_path(run), waiting.model_dump(mode="json"))
    with log_path(run).open("ab") as log:
        log.write(f"{QUEUE_BEGINS}\n".encode())
        log.flush()
        started = subprocess.Popen(
            [sys.executable, "-m", "lenshpc.worker", str(run.root)],
            env=code.environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A session of its own: the queue outlives the shell, and `stop_queue` can end it with
            # all it started. Descriptors are closed in it, so it does not keep the submission's
            # lock.
            start_new_session=True,
        )
    while read_queue(run).pid != started.pid:
        if started.poll() is not None:
            line = read_failure(run).line
            raise LaunchError(f"the local queue did not start: {line}; see {log_path(run)}")
        time.sleep(POLL_S / 10)
    # Python that lives on, as in a notebook, has to collect its child, or keeps a dead process.
    threading.Thread(target=started.wait, daemon=True).start()
    return started.pid


def stop_queue(run: RunPaths) -> None:
    """Stop the queue of a run and all that it has started: its session's process group.

    ConfigError where others may have written its number, LaunchError where it is elsewhere.
    """
    queue = read_queue(run)
    pid = queue.pid
    if not pid:
        return
    require_own(run)
    if queue.is_elsewhere:
        raise LaunchError(f"nothing was stopped: {describe_absence(run, queue)}")
    with contextlib.suppress(ProcessLookupError):
        # The queue first and alone: it has its members save. The whole group is killed only once it
        # has ended, or does not answer.
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while _is_queue(pid, run) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def stop_members(run: RunPaths, members: Sequence[int]) -> None:
    """Have the queue of a run cancel members that wait or run; return when it has."""
    marks = [_cancel_mark(run, member) for member in members]
    for mark in marks:
        # A file, since only the queue may end its members: it holds submitit's handles and the
        # locks of the slots.
        mark.touch()
    deadline = time.monotonic() + STOP_S
    while any(mark.exists() for mark in marks) and read_queue(run).pid:
        if time.monotonic() > deadline:
            raise LaunchError(f"the local queue does not answer; see {log_path(run)}")
        time.sleep(POLL_S)
    for mark in marks:
        mark.unlink(missing_ok=True)


def _cancel_mark(run: RunPaths, member: int) -> Path:
    """Return the file that asks the queue to cancel a member; it removes it when that is done."""
    return run.slurm / f"cancel-{member}"


def run_queue(run: RunPaths, calls: Any) -> None:
    """Run the waiting members over the slots, then the aggregation; SIGTERM stops all."""
    plan, site = load_plan(run), read_site(run)
    waiting = read_queue(run)
    queue = LocalQueue(run, plan, site, calls, dict(waiting.states), dict(waiting.jobs))
    # Before `drain` writes the process id, at which `start_queue` returns and others may signal.
    signal.signal(signal.SIGTERM, queue.stop)
    # submitit cancels by SIGINT, which a shell's background jobs ignore, and their children too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    queue.drain()


@dataclass
class LocalQueue:
    """The members that wait and run."""

    run: RunPaths
    plan: Plan
    site: Site
    calls: Any
    states: dict[int, str]
    jobs: dict[int, str] = field(default_factory=dict)
    running: dict[int, Running] = field(default_factory=dict)
    report: str = ""
    stopping: bool = False

    def stop(self, _signal: int, _frame: object) -> None:
        """Note that the queue has to end; an exception here might be lost in a destructor."""
        self.stopping = True

    def drain(self) -> None:
        """Run everything to its end, or until it has to stop."""
        self._write()
        word = "LOST"
        try:
            while (self._waiting() or self.running) and not self.stopping:
                # Before members are cancelled or started: it frees slots, and one that has just
                # ended is not to be CANCELLED.
                self._collect()
                self._cancel_marked()
                self._start_next()
                time.sleep(POLL_S)
            self._aggregate()
            word = "CANCELLED"
        finally:
            # Also after an error: members must not run on without a queue that holds their slots.
            self._end(self.running)
            self.states |= dict.fromkeys([*self.running, *self._waiting()], word)
            # Last: whoever reads 0 may start another queue.
            self._write(pid=0)

    def _end(self, members: Iterable[int]) -> None:
        """Have running members save and end."""
        jobs = [self.running[member][0] for member in members]
        for job in jobs:
            executor.terminate_local(job)
        deadline = time.monotonic() + SAVE_S
        while not all(job.done() for job in jobs) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for job in jobs:
            job.cancel()

    def _waiting(self) -> list[int]:
        return [member for member, state in self.states.items() if state == "PENDING"]

    def _cancel_marked(self) -> None:
        marks = self.run.slurm.glob("cancel-*")
        marked = {int(mark.name.removeprefix("cancel-")): mark for mark in marks}
        self._end(marked.keys() & self.running.keys())
        for member, mark in marked.items():
            self._free(member)
            if self.states.get(member) in {"PENDING", "RUNNING"}:
                self._note(member, "CANCELLED")
            # Last: `stop_members` takes the absence of the mark for the end of the member.
            mark.unlink()

    def _free(self, member: int) -> None:
        _, slots = self.running.pop(member, (None, []))
        for slot in slots:
            slot.close()

    def _collect(self) -> None:
        for member, (job, _) in list(self.running.items()):
            if job.done():
                # Only once the job has ended: a slot that is let go is taken at once, by this queue
                # or another run's.
                self._free(member)
                # By the member's own mark and not by its exit code: a superseded attempt exits with
                # 0.
                done = is_done(self.run, self.plan, self.plan.members[member])
                self._note(member, "COMPLETED" if done else "FAILED")

    def _start_next(self) -> None:
        origin = origin_of(self.plan.recipe)
        if origin is not None and read_queue(origin).pid:  # the weights to start from are not there
            return
        size = self.plan.recipe.resources
        on_gpus, count = bool(size.gpus_per_node), size.processes_per_node
        for member in self._waiting():
            slots = take_slots(local_slots(self.site.slots, on_gpus=on_gpus), count)
            # All slots of a member or none: two queues that each hold a part of what they need
            # would wait for ever.
            if not slots:
                return
            job = self._start(slots, count, self.calls.member, member)
            for lock in slots.values():
                note_holder(lock, str(job.job_id))
            self.running[member] = (job, list(slots.values()))
            self.jobs[member] = str(job.job_id)
            self._note(member, "RUNNING")

    def _start(self, slots: Iterable[Slot], count: int, call: executor.Call, *more: int) -> Any:
        """Start a call with the profile's variables, as processes that see these slots alone."""
        # For jobs and not for the queue: a TMPDIR of the profile would move its slots away.
        given, root = self.site.exports | visibility(slots), str(self.run.root)
        return executor.start_local(self.run.slurm, given, count, call, root, *more)

    def _aggregate(self) -> None:
        if self.stopping:
            self.report = "CANCELLED"
            return
        self.report = "RUNNING"
        self._write()
        job = self._start((), 1, self.calls.aggregate)
        while not job.done() and not self.stopping:
            time.sleep(POLL_S)
        if self.stopping:
            job.cancel()
            self.report = "CANCELLED"
        else:
            self.report = "FAILED" if job.exception() else "COMPLETED"

    def _note(self, member: int, state: str) -> None:
        self.states[member] = state
        self._write()

    def _write(self, pid: int | None = None) -> None:
        queue = Queue(
            pid=os.getpid() if pid is None else pid,
            host=socket.gethostname(),
            states=self.states,
            jobs=self.jobs,
            report=self.report,
        )
        write_json(queue_path(self.run), queue.model_dump(mode="json"))
