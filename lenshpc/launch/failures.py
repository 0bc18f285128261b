"""Name how a job failed and what follows, from its state, its exit code and its logs.

The scheduler's own verdict counts first, then the logs of all tasks, then what is left: the exit
code, and what was said in passing. Within each, the first rule of `RULES` that fits.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lenshpc.launch.rules import NEVER, RULES, UNKNOWN, Action, Rule

TAIL_BYTES = 16_000
TAIL_LINES = 10
QUEUE_BEGINS = "lenshpc: a queue begins"
BEGINS_AGAIN = "lenshpc: job begins again"  # in rank 0's log, by the script of a job that came back
STARTED = re.compile(rf"submitit .*Starting with JobEnvironment|^({QUEUE_BEGINS}|{BEGINS_AGAIN})$")
RANK = re.compile(r"^(\[rank\d+\]: ?)+")
# Lines of ours that are no evidence; the last one repeats a reason.
OURS = ("submitit INFO", QUEUE_BEGINS, "lenshpc: job ")
EXIT_CODE = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")
NO_LOG = "0:53"  # SLURM's exit code of a job whose log its node could not open: nothing has run

Evidence = tuple[list[str], re.Match[str]]  # a log, and the match of the line that tells


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How a job failed.

    `line` is the evidence in its log, if any, `tail` the last lines of the log that holds it, and
    `node` the one that is to blame, if one is known.
    """

    name: str
    action: Action
    meaning: str
    advice: str
    line: str = ""
    tail: tuple[str, ...] = ()
    node: str = ""


def classify(
    state: str,
    exit_code: str = "0:0",
    logs: Sequence[str] = (),
    nodes: str = "",
    folder: Path | None = None,
) -> Failure:
    """Return how a job that ended without being done failed.

    `exit_code` is SLURM's `code:signal`, `logs` has the end of each task's log, which lie in
    `folder`; `nodes` are the job's: a lone one is the culprit where a rule blames a node and the
    log names none.
    """
    if exit_code == NO_LOG:
        # what is there was written by attempts before
        logs = [_describe_blindness(nodes, folder)]
    told = [_lines_since_start(text) for text in _drop_stale(logs)]
    exits = _exits(exit_code)
    # One pass over all rules for each kind of sign, not one for all: SLURM's verdict on any rule
    # counts before a log's line, and a log before a weak sign.
    signs: tuple[Callable[[Rule], object], ...] = (
        lambda rule: state in rule.states,
        lambda rule: _evidence(rule.pattern, told, rule.unless),
        lambda rule: state in rule.weak_states or exits & set(rule.exits),
        lambda rule: _evidence(rule.hint, told),
    )
    named = (rule for shows in signs for rule in RULES if shows(rule))
    return _failure(next(named, UNKNOWN), told, nodes)


def _describe_blindness(nodes: str, folder: Path | None) -> str:
    """Return the line that a node would have written that could not open a job's log."""
    lone = re.fullmatch(r"[\w.-]+", nodes)
    where = f"node {nodes}" if lone else f"one of {nodes or 'the nodes'}"
    return f"{where} does not see {folder or 'the run'}, or may not write there: no log was begun"


def _exits(exit_code: str) -> set[int]:
    """Return the exit codes that SLURM's `code:signal` stands for, as a shell would tell them."""
    found = EXIT_CODE.fullmatch(exit_code)
    return {int(found[1]), 128 + int(found[2])} - {0, 128} if found else set()


def find_failure(name: str) -> Failure:
    """Return the failure of that name, without evidence."""
    rule = next((rule for rule in RULES if rule.name == name), UNKNOWN)
    return _failure(rule, [], "")


def _drop_stale(logs: Sequence[str]) -> Sequence[str]:
    """Return rank 0's log alone where the job came back and no rank began: theirs are older."""
    _, again, since = logs[0].rpartition(BEGINS_AGAIN) if logs else ("", "", "")
    return logs[:1] if again and not STARTED.search(since) else logs


def _lines_since_start(log: str) -> list[str]:
    """Return the lines of a log since its last start, without ranks' prefixes and empty lines."""
    lines = log.splitlines()
    starts = [number for number, line in enumerate(lines) if STARTED.search(line)]
    # Since the last start: logs of requeued attempts are appended, and an old error would be blamed
    # again.
    latest = lines[starts[-1] :] if starts else lines
    told = [RANK.sub("", line).rstrip() for line in latest]
    return [line for line in told if line and not line.startswith(OURS)]


def _evidence(pattern: str, told: Iterable[list[str]], unless: str = NEVER) -> Evidence | None:
    """Return the log and the match of the last line that the pattern fits, and `unless` not."""
    compiled = re.compile(pattern, re.MULTILINE)
    for lines in told:
        if compiled.search("\n".join(lines)):  # most patterns fit no line: one search tells
            for line in reversed(lines):
                match = compiled.search(line)
                if match and not re.search(unless, line):
                    return lines, match
    return None


def _failure(rule: Rule, told: list[list[str]], nodes: str) -> Failure:
    found = _evidence(rule.pattern, told, rule.unless) or _evidence(rule.hint, told)
    lines = found[0] if found else next(iter(told), [])
    line = found[1].string if found else (lines or [""])[-1]
    named = found[1].groupdict().get("node") if found else None
    # Of several nodes none may be excluded on suspicion.
    alone = nodes if re.fullmatch(r"[^\[\],]+", nodes) else ""
    return Failure(
        name=rule.name,
        action=rule.action,
        meaning=rule.meaning,
        advice=rule.advice,
        line=line[:300],
        tail=tuple(lines[-TAIL_LINES:]),
        node=named or alone,
    )


def read_tails(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the end of each log."""
    return tuple(_tail(path) for path in paths if path.is_file())


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:  # of another user, who keeps it to himself
        return ""
