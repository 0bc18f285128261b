"""Say where a run stands: a line a member, how many are in which state, what a failure asks for."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from lenshpc.errors import one_line
from lenshpc.launch.failures import Failure
from lenshpc.launch.states import MemberStatus, RunStatus
from lenshpc.run.gate import compact

MOST_LINES = 100  # of members in one state
MOST_REASONS = 3  # that a line for many members tells
USUAL = ("DONE", "RUNNING", "PENDING")  # states, in the order in which they are counted up
COLUMNS = ("member", "state", "epoch", "best", "hours", "job", "node", "ends")


@dataclass(frozen=True, kw_only=True)
class StatusLine:
    """A member, many members in one state, or the report: a word a column, and what is to say.

    `curve` has the monitored metric of a member, an epoch each.
    """

    words: tuple[str, ...]
    note: str = ""
    curve: tuple[float, ...] = ()

    @property
    def state(self) -> str:
        """Return the word of the column `state`."""
        return self.words[COLUMNS.index("state")]


@dataclass(frozen=True, kw_only=True)
class FailureText:
    """A kind of failure: who failed so and what it means, what to do, the end of a log."""

    name: str
    meaning: str
    advice: str
    tail: tuple[str, ...]


def list_titles(status: RunStatus) -> list[str]:
    """Return a title a column; hours are of what the status counts."""
    return [f"{status.unit}-h" if word == "hours" else word for word in COLUMNS]


def summarise_states(status: RunStatus) -> str:
    """Return in a line how many members are in which state, the report's, and why all wait."""
    states = Counter(line.state for line in status.members)
    reasons = [line.reason for line in status.members if line.state == "PENDING"]
    # One that runs is news enough; of several reasons, the most frequent.
    waiting = [] if "RUNNING" in states else Counter(reasons).most_common(1)
    told = [status.silence, *(reason for reason, _ in waiting)]
    more = "".join(f"; {one}" for one in told if one)
    return f"{count_states(states)}; report {status.report}{more}"


def count_states(counts: Mapping[str, int]) -> str:
    """Say how many members are in which state: `3 DONE 2 FAILED`."""
    first = [state for state in USUAL if state in counts]
    others = [state for state in counts if state not in USUAL]
    return " ".join(f"{counts[state]} {state}" for state in [*first, *others])


def count_epochs(status: RunStatus) -> tuple[int, int]:
    """Return how many epochs of all members are done, those that early stopping spared too."""
    done = (line.epochs if line.state == "DONE" else line.epoch for line in status.members)
    return sum(done), sum(line.epochs for line in status.members)


def list_lines(status: RunStatus) -> list[StatusLine]:
    """Return a line a member, but one for all members of a state that has very many; the report."""
    num_lines = Counter(line.state for line in status.members)
    crowds = [state for state, number in num_lines.items() if number > MOST_LINES]
    alone = [_line(line, status.silence) for line in status.members if line.state not in crowds]
    together = [
        _crowd([line for line in status.members if line.state == state], status.silence)
        for state in crowds
    ]
    report = StatusLine(
        words=("report", status.report, "", "", "", status.report_job, "", ""),
        note=status.report_reason,
    )
    return [*alone, *together, report]


def list_failures(status: RunStatus) -> Iterator[FailureText]:
    """Yield each kind of failure once."""
    kinds: dict[str, dict[int, Failure]] = {}
    for line in status.members:
        if line.failure:
            kinds.setdefault(line.failure.name, {})[line.index] = line.failure
    for failures in kinds.values():
        first = next(iter(failures.values()))
        who = f"{'member' if len(failures) == 1 else 'members'} {compact(list(failures))}"
        nodes = {one.node for one in failures.values()} - {""}
        is_blamed = nodes and first.action == "exclude node"
        blamed = f" on {', '.join(sorted(nodes))}" if is_blamed else ""
        yield FailureText(
            name=first.name,
            meaning=one_line(f"{first.name}{blamed}, {who}: {first.meaning}"),
            advice=one_line(f"do: {first.advice}"),
            tail=first.tail,
        )


def _crowd(members: Sequence[MemberStatus], silence: str) -> StatusLine:
    """Return what a line can say of many members in one state."""
    state, spent = members[0].state, f"{sum(line.gpu_hours for line in members):.2f}"
    ends = _local_time(max(line.estimated_end for line in members))
    reasons = Counter(line.reason for line in members if line.reason not in {"", silence})
    told = [
        reason if number == len(members) else f"{number}: {reason}"
        for reason, number in reasons.most_common()
    ]
    return StatusLine(
        words=(f"{len(members)} members", state, "", "", spent, "", "", ends),
        note="; ".join(told) if len(told) <= MOST_REASONS else "",
    )


def _line(line: MemberStatus, silence: str) -> StatusLine:
    best = "" if line.best_metric is None else f"{line.best_metric:.4f}"
    # A tenth is told once it is done: 12.9 is no 13, nor is a whole epoch that is not saved yet.
    tenths = min(9, int(line.fraction * 10))
    epoch = f"{line.epoch}{f'.{tenths}' if tenths else ''}/{line.epochs}"
    spent = f"{line.gpu_hours:.2f}"
    ends = _local_time(line.estimated_end)
    return StatusLine(
        words=(line.name, line.state, epoch, best, spent, line.job, line.node, ends),
        note="" if line.reason == silence else line.reason,
        curve=line.curve,
    )


def _local_time(text: str) -> str:
    """Return a moment as people here say it: `Tue 14:05`."""
    return datetime.fromisoformat(text).astimezone().strftime("%a %H:%M") if text else ""
