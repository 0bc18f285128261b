"""The completeness gate: no report of a run that lacks a member, and a word on which and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from lenshpc.errors import IncompleteError
from lenshpc.run.completion import (
    STRANGER,
    describe,
    missing_members,
    reference,
    resume_command,
)
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan

Step = Literal["resume", "correct", "wait", "ask"]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a member that is not done stands: its state, why, and what follows from that.

    `resume` what has ended, `correct` first what would fail so again, `wait` for what waits or
    runs, `ask` again where nobody can tell.
    """

    state: str
    reason: str
    step: Step


def check_complete(run: RunPaths, plan: Plan, standings: Mapping[int, Standing]) -> None:
    """Raise `IncompleteError` unless every member is done; `standings` is what SLURM knows."""
    missing = missing_members(run, plan)
    if missing:
        raise IncompleteError(format_incomplete(run, missing, standings))


def format_incomplete(
    run: RunPaths, missing: Mapping[Member, str], standings: Mapping[int, Standing]
) -> str:
    """Word the complaint: the first member in full, the others by number, and the command."""
    (first, lack), *others = missing.items()
    rest = ""
    if others:
        numbers = compact([member.index for member, _ in others])
        noun = "member is" if len(others) == 1 else "members are"
        rest = f", and {len(others)} more {noun} not done ({numbers})"
    told = f"{describe(run, first)} {describe_lack(lack, standings.get(first.index))}{rest}"
    if lack.startswith(STRANGER):
        return f"{told}; put the folders in members/ back under their names"
    return f"{told}; {_advise(run, [member.index for member in missing], standings)}"


def describe_lack(lack: str, standing: Standing | None) -> str:
    """Return what a member lacks and why, as the rest of a sentence about it."""
    if standing is None:
        return lack
    reason = f" ({standing.reason})" if standing.reason not in {"", lack} else ""
    if standing.step == "wait":
        return f"is {standing.state}{reason}"
    unknown = f" and is {standing.state}" if standing.step == "ask" else ""
    return f"{lack}{unknown}{reason}"


def _advise(run: RunPaths, missing: Sequence[int], standings: Mapping[int, Standing]) -> str:
    """Return what helps a run that lacks members, by where they stand."""
    steps = {index: standings[index].step for index in missing if index in standings}
    if "ask" in steps.values():
        return f"try again, or look with: lenshpc status {reference(run)}"
    # First of all to wait: a queue of this machine takes no members while it is at work.
    waiting = [index for index in missing if steps.get(index) == "wait"]
    broken = [index for index in missing if steps.get(index) == "correct"]
    ended = [index for index in missing if index not in {*waiting, *broken}]
    orders = (
        ("wait for", waiting, f"lenshpc status {reference(run)} --watch"),
        ("look into", broken, f"lenshpc status {reference(run)}"),
        ("rerun", ended, resume_command(run)),
    )
    told = (f"{verb} {_refer(some, missing)} with: {how}" for verb, some, how in orders if some)
    return "; then ".join(told)


def _refer(some: Sequence[int], missing: Sequence[int]) -> str:
    """Return how a sentence refers to some of the members that it has named."""
    if len(some) == len(missing):
        return "it" if len(some) == 1 else "them"
    return f"{'member' if len(some) == 1 else 'members'} {compact(some)}"


def compact(numbers: Sequence[int]) -> str:
    """Return ascending numbers with runs joined: `1, 4-6, 9`."""
    breaks = [at + 1 for at, (a, b) in enumerate(pairwise(numbers)) if b != a + 1]
    edges = [0, *breaks, len(numbers)]
    runs = [numbers[start:stop] for start, stop in pairwise(edges)]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
