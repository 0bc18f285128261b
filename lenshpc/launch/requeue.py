"""Whether a member's job that ended is sent again: budgets by cause, never twice without progress.

The batch script asks once srun has failed, through srun, so inside the member's own container:
`python -m lenshpc.launch.requeue RUN JOB RESTART EXIT_CODE COMMAND`. Exit 0 says yes, 1 no; the
reason goes to the log and into the job's attempts, and how it comes back into a script of its own.
A cancelled job does not come here: its batch script is ended too.
"""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenshpc.config import validate
from lenshpc.errors import one_line
from lenshpc.files import read_json, write_text
from lenshpc.launch import exclusion
from lenshpc.launch.executor import log_paths
from lenshpc.launch.failures import classify, read_tails
from lenshpc.launch.followup import earlier_events, follow_up_lines, requeue_lines
from lenshpc.launch.sites import read_site
from lenshpc.run.attempts import Attempts, Cause, Event
from lenshpc.run.paths import RunPaths
from lenshpc.run.sections import Requeues, Resources

STATES = {"timeout": "TIMEOUT", "preemption": "PREEMPTED"}  # SLURM's words for what it will say


@dataclass(frozen=True, kw_only=True)
class RequeueDecision:
    """Whether to requeue, what ended the attempt, and why so."""

    requeue: bool
    cause: Cause
    reason: str


def decide(
    events: Sequence[Event],
    *,
    restart: int,
    exit_code: int,
    budgets: Requeues,
    logs: Sequence[str] = (),
) -> RequeueDecision:
    """Decide about the job whose attempt `restart` (0 is the first) ended with an exit code.

    `logs` are the ends of its tasks' logs.
    """
    # First of all: SLURM has requeued by itself, and our word would end or double the attempt that
    # runs.
    if any(event.restart > restart for event in events):
        reason = "a later attempt is under way: this one's node was given up for lost"
        return RequeueDecision(requeue=False, cause="crash", reason=reason)
    attempt = [event for event in events if event.restart == restart]
    failed = [event.reason for event in attempt if event.what == "failed"]
    failure = classify("", f"{exit_code}:0", logs)
    # An error of ours would come again, whatever the budgets say, but one that is a node's.
    if failed and failure.action != "exclude node":
        return RequeueDecision(requeue=False, cause="error", reason=failed[-1])
    cause, budget = _cause(attempt, exit_code), budgets.model_dump()
    if cause == "crash" and failure.action == "stop":
        reason = f"{failure.name}: {failure.line or failure.meaning}; {failure.advice}"
        return RequeueDecision(requeue=False, cause="error", reason=reason)
    used = sum(event.what == "requeued" and event.cause == cause for event in events)
    places = [event.place for event in attempt if event.what == "saved"]
    # The first `saved` of an attempt is what it goes on from. A restart that did not get beyond
    # that is the last: budgets alone would burn the time of twenty jobs.
    if restart and (not places or places[-1] == places[0]):
        epoch, step = places[-1] if places else (0, 0)
        reason = f"{cause}, and no progress since the restart at epoch {epoch} step {step}"
        return RequeueDecision(requeue=False, cause=cause, reason=reason)
    if used >= budget[cause]:
        reason = f"{cause} for the {used + 1}. time; resources.max_requeues.{cause} is {used}"
        return RequeueDecision(requeue=False, cause=cause, reason=reason)
    reason = f"{cause}, requeue {used + 1} of at most {budget[cause]}"
    return RequeueDecision(requeue=True, cause=cause, reason=reason)


def _cause(attempt: Sequence[Event], exit_code: int) -> Cause:
    stopped = [event.cause for event in attempt if event.what == "stopped" and event.cause]
    if stopped:
        return stopped[-1]
    # a process that is signalled before Python's handlers are set dies of it
    told = exit_code - 128 in {signal.SIGUSR2, signal.SIGTERM}
    return "preemption" if told else "crash"


def budgets_of(run: RunPaths) -> Requeues:
    """Return the budgets in a run's Plan; reading all of it would take seconds."""
    # No expansion and no store: this runs on a node whose job is about to be ended.
    plan: Any = read_json(run.plan)
    return validate(Resources, plan["recipe"]["resources"], str(run.plan)).max_requeues


def nodes_to_avoid(run: RunPaths) -> str:
    """Return all nodes that the job must avoid when it comes back, if one was found since."""
    if not exclusion.nodes(run):
        return ""
    site = read_site(run)
    return str(exclusion.before(site, run).sbatch["exclude"])


def main(root: str, job: str, restart: str, exit_code: str, command: str) -> int:
    """Decide, record and tell; write how the job comes back, with scontrol or with sbatch."""
    run = RunPaths(Path(root))
    attempts = Attempts(run.attempts(job), int(restart))
    logs = read_tails(log_paths(run.slurm, job))
    earlier = earlier_events(run, job)
    # A follow-up counts its restarts from 0 again; counted on, the budgets of the first job hold.
    offset = earlier[-1].restart + 1 if earlier else 0
    events = [
        event.model_copy(update={"restart": offset + event.restart}) for event in attempts.events()
    ]
    decision = decide(
        [*earlier, *events],
        restart=offset + attempts.restart,
        exit_code=int(exit_code),
        budgets=budgets_of(run),
        logs=logs,
    )
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    failure = classify(STATES.get(decision.cause, ""), f"{exit_code}:0", logs, nodes)
    attempts.append(
        "requeued" if decision.requeue else "ended",
        cause=decision.cause,
        reason=decision.reason,
        failure=failure.name,
        line=failure.line,
        tail=failure.tail,
        node=failure.node,
    )
    exclusion.note(run, job, failure)
    if decision.requeue:
        lines = follow_up_lines if command == "sbatch" else requeue_lines
        # Written whole before exit 0, at which the batch script runs it. The decision is on record
        # before.
        write_text(run.next(job), lines(run, job, nodes_to_avoid(run)))
    verdict = "requeued" if decision.requeue else "not requeued"
    sys.stderr.write(f"lenshpc: job {job} is {verdict}: {one_line(decision.reason)}\n")
    return 0 if decision.requeue else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
