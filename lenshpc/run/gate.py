"""The completeness gate: no report of a run that lacks a member, and a word on which and why."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from lenshpc.errors import IncompleteError
from lenshpc.run.completion import STRANGER, describe, missing_members, resume_command
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan


def check_complete(run: RunPaths, plan: Plan, reasons: Mapping[int, str]) -> None:
    """Raise `IncompleteError` unless every member is done; `reasons` has what SLURM knows."""
    missing = missing_members(run, plan)
    if missing:
        raise IncompleteError(format_incomplete(run, missing, reasons))


def format_incomplete(
    run: RunPaths, missing: Mapping[Member, str], reasons: Mapping[int, str]
) -> str:
    """Word the complaint: the first member in full, the others by number, and the command."""
    (first, lack), *others = missing.items()
    told = reasons.get(first.index, lack)
    reason = f" ({told})" if told != lack else ""
    rest, them = "", "it"
    if others:
        numbers = compact([member.index for member, _ in others])
        noun = "member is" if len(others) == 1 else "members are"
        rest, them = f", and {len(others)} more {noun} not done ({numbers})", "them"
    told = f"{describe(run, first)} {lack}{reason}{rest}"
    if lack.startswith(STRANGER):
        return f"{told}; put the folders in members/ back under their names"
    return f"{told}; rerun {them} with: {resume_command(run)}"


def compact(numbers: Sequence[int]) -> str:
    """Return ascending numbers with runs joined: `1, 4-6, 9`."""
    breaks = [at + 1 for at, (a, b) in enumerate(pairwise(numbers)) if b != a + 1]
    edges = [0, *breaks, len(numbers)]
    runs = [numbers[start:stop] for start, stop in pairwise(edges)]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
