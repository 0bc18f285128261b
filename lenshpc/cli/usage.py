"""Write what a run has cost, asked for and used, for people: no line is longer than 80 letters."""

from itertools import groupby

from lenshpc.cli.show import fold
from lenshpc.launch.efficiency import Use, format_use
from lenshpc.launch.usage import Attempt, Cost, Usage


def format_usage(usage: Usage) -> str:
    """Return some lines a member, and for all together what it cost, asked for and used."""
    costs, lines = usage.by("member"), []
    for member, attempts in groupby(usage.attempts, key=lambda one: one.member):
        lines += _format_member(usage.unit, costs[member], list(attempts))
    total = usage.total
    lines += fold(
        f"all: {total.hours:.2f} {usage.unit}-hours, {total.wasted_hours:.2f} wasted, of at "
        f"most {usage.estimate_hours:.2f}; from {usage.source}"
    )
    lines += _format_use("  ", total.use) if total.use else []
    for warning in usage.warnings:
        lines += fold(f"warning: {warning}")
    return "\n".join(lines)


def _format_member(unit: str, cost: Cost, attempts: list[Attempt]) -> list[str]:
    noun = "attempt" if cost.attempts == 1 else "attempts"
    lines = fold(
        f"member {attempts[0].member}: {cost.attempts} {noun}, {cost.hours:.2f} {unit}-hours, "
        f"{cost.wasted_hours:.2f} wasted"
    )
    if len(attempts) == 1:
        return lines + _format_use("  ", attempts[0].use)
    return lines + [line for one in attempts for line in _format_attempt(one)]


def _format_attempt(one: Attempt) -> list[str]:
    return [f"  {one.number}. job {one.job}, {one.state}:", *_format_use("     ", one.use)]


def _format_use(indent: str, use: Use) -> list[str]:
    # At the semicolons alone: a figure and its unit stay together.
    parts = "; ".join(part.replace(" ", "\xa0") for part in format_use(use).split("; "))
    return [line.replace("\xa0", " ") for line in fold(parts, indent, indent)]
