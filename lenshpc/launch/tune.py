"""Send the trials of a study: arrays on a cluster, or processes of this machine one by one."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from lenshpc.errors import LaunchError
from lenshpc.files import write_json
from lenshpc.launch import exclusion, executor, provenance, slurm, snapshot
from lenshpc.launch.executor import JobRequest, Sending
from lenshpc.launch.jobs import records
from lenshpc.launch.local import POLL_S, SAVE_S
from lenshpc.launch.reconcile import submission_lock
from lenshpc.launch.sites import Site
from lenshpc.launch.slots import Slot, local_slots, take_slots, visibility
from lenshpc.launch.submit import send_noted, shares
from lenshpc.run.ownership import require_own
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan


@dataclass(frozen=True)
class TuneCalls:
    """The functions that the jobs run; they live above this floor and are handed down."""

    trial: Callable[[str, int], None]
    ask: Callable[[str], None]
    finish: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Elements that run side by side, each a trial; `asks` where a job asks for points before."""

    elements: tuple[int, ...]
    asks: bool = False


def note_submission(base: RunPaths, site: Site) -> None:
    """Keep the code that jobs run, and note where the study goes to and from which command."""
    require_own(base)
    write_json(base.site, site.model_dump(mode="json"))
    code = snapshot.read(base.code)
    provenance.append(base, sys.argv, code)
    code.keep()


def find_active(base: RunPaths) -> list[str]:
    """Return the jobs of a study that wait or run. Raises LaunchError if SLURM does not answer."""
    known = slurm.query(job.job_id for job in records(base) if job.scheduler == "slurm")
    if known.silence:
        raise LaunchError(f"nothing was submitted: {known.silence}; try again")
    return sorted(name for name, state in known.jobs.items() if state.is_active)


def send_study(
    base: RunPaths, plan: Plan, site: Site, calls: TuneCalls, stages: Iterable[Stage]
) -> dict[str, Any]:
    """Send stages that follow each other, then the job that writes the report; return their ids.

    Where one of them is refused, or Ctrl-C stops the command, those sent before are cancelled.
    """
    note_submission(base, site)
    with submission_lock(base) as lock:
        active = find_active(base)
        if active:
            raise LaunchError(
                f"jobs of {base.root.parent} wait or run: {', '.join(active[:5])}; repeat the "
                "command once they have ended or were cancelled with scancel"
            )
        sender = StudySender(base, plan, site, calls, lock)
        try:
            return sender.send(list(stages))
        except (LaunchError, KeyboardInterrupt):
            if sender.job_ids:
                slurm.order(["scancel", *sender.job_ids])
            raise


class StudySender:
    """Sends the jobs of a study; holds the lock of its base."""

    def __init__(self, base: RunPaths, plan: Plan, site: Site, calls: TuneCalls, lock: int) -> None:
        self._base, self._plan, self._calls, self._lock = base, plan, calls, lock
        self._site = exclusion.before(snapshot.read(base.code).before(site), base)
        self.job_ids: list[str] = []

    def send(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """Send all stages and the report; return what is told of them."""
        after, asked, arrays = "", [], []
        for stage in stages:
            if stage.asks:
                after = self._send_single("ask", self._calls.ask, after)
                asked.append(after)
            sent = self._send_array(stage.elements, after)
            arrays += sent
            after = ":".join(sent) or after
        report = self._send_single("report", self._calls.finish, after)
        return {"arrays": arrays, "asked": asked, "report": report, "logs": str(self._base.slurm)}

    def _send_array(self, elements: tuple[int, ...], after: str) -> list[str]:
        """Send the trials of a stage, all of which wait for the same job."""
        base, call, sent = self._base, self._calls.trial, list[str]()
        awaited = [after] if after else []
        for part in shares(elements, self._site):
            request = part.request(self._plan, self._site, base.slurm, sent, awaited)
            submit = partial(_submit_array, request, call, base, part.members)
            sent.append(self._send(part.members, submit))
        return sent

    def _send_single(self, what: str, call: Callable[[str], None], after: str) -> str:
        base, name = self._base, f"{self._base.root.parent.name}-{what}"
        request = executor.single_request(name, self._site, base.slurm, after or None)
        return self._send((), lambda sent: executor.submit_single(request, sent, call, base.root))

    def _send(self, elements: tuple[int, ...], submit: Callable[[Sending], str]) -> str:
        job_id = send_noted(self._base, self._site, elements, self._lock, submit)
        self.job_ids.append(job_id)
        return job_id


def _submit_array(
    request: JobRequest,
    call: Callable[[str, int], None],
    base: RunPaths,
    elements: tuple[int, ...],
    sending: Sending,
) -> str:
    return executor.submit_array(request, sending, call, base.root, elements)


def run_here(
    base: RunPaths,
    plan: Plan,
    site: Site,
    call: Callable[[str, int], None],
    elements: Iterable[int],
) -> None:
    """Run elements as processes of this machine, one at a time; Ctrl-C has the one save."""
    size = plan.recipe.resources
    for element in elements:
        slots = _wait_for_slots(site, size.processes_per_node, on_gpus=bool(size.gpus_per_node))
        with _hide_interrupts():
            given = site.exports | visibility(slots)
            job = executor.start_local(
                base.slurm, given, size.processes_per_node, call, str(base.root), element
            )
        try:
            while not job.done():
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            executor.terminate_local(job)
            _wait_for_end(job)
            raise
        finally:
            for lock in slots.values():
                lock.close()


def _wait_for_slots(site: Site, count: int, *, on_gpus: bool) -> dict[Slot, IO[bytes]]:
    while not (slots := take_slots(local_slots(site.slots, on_gpus=on_gpus), count)):
        time.sleep(POLL_S)
    return slots


def _wait_for_end(job: Any) -> None:
    deadline = time.monotonic() + SAVE_S
    while not job.done() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    job.cancel()


@contextmanager
def _hide_interrupts() -> Iterator[None]:
    """Have processes that are started here not see Ctrl-C, which a shell sends to all of them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
