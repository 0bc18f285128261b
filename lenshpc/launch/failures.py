"""Name how a job failed and what follows, from its state, its exit code and its logs.

The rules are data. The scheduler's own verdict counts first, then the logs of all tasks, then what
is left: the exit code. Within each, the first rule of `RULES` that fits; hence causes stand before
the consequences that other ranks see of them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Action = Literal["requeue", "exclude node", "stop"]

TAIL_BYTES = 16_000
TAIL_LINES = 10
QUEUE_BEGINS = "lenshpc: a queue begins"
STARTED = re.compile(rf"submitit .*Starting with JobEnvironment|^{QUEUE_BEGINS}$")
RANK = re.compile(r"^(\[rank\d+\]: ?)+")
# What a rank says when another one has gone: the cause stands in the other one's log.
PEER_LOST = (
    r"Connection (closed|reset) by peer|Broken pipe \[|Dist(Backend|Network|Store)Error"
    r"|remote process exited|ncclRemoteError|ncclSystemError|NCCL communicator was aborted"
)
STALLED = (
    r"Watchdog caught collective operation timeout|Timed out waiting \d+ms for (recv|send)"
    r"|Application timeout caused pair closure|Timed out after \d+ seconds waiting for clients"
)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A failure's name, what it means, what follows, and how it is recognised.

    `states` are words of SLURM that suffice, `pattern` fits a line of a log, and `weak_states` and
    `exits` (exit codes) count only where no log tells more. A group `node` names the culprit.
    """

    name: str
    action: Action
    meaning: str
    advice: str
    pattern: str = r"(?!)"
    states: tuple[str, ...] = ()
    weak_states: tuple[str, ...] = ()
    exits: tuple[int, ...] = ()


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


# The order is part of the rules: causes before their consequences. A rank that lost its peer must
# not hide the error that ended the peer.
RULES = (
    Rule(
        name="NODE FAIL",
        action="exclude node",
        meaning="a node was lost: power, network, or SLURM's daemon on it",
        advice="nothing; tell the site if it happens again",
        states=("NODE_FAIL", "BOOT_FAIL"),
        pattern=r"\*\*\* (JOB|STEP) .* ON (?P<node>\S+) CANCELLED AT \S+ DUE TO NODE FAILURE",
    ),
    Rule(
        name="TIMEOUT",
        action="requeue",
        meaning="the time limit was reached",
        advice="raise resources.time_min if it happens to many members",
        states=("TIMEOUT",),
        pattern=r"CANCELLED AT \S+ DUE TO TIME LIMIT|not requeued because: timed-out",
    ),
    Rule(
        name="PREEMPTED",
        action="requeue",
        meaning="a job of higher priority took the nodes, or somebody requeued it",
        advice="nothing; another qos or partition is preempted less often",
        states=("PREEMPTED", "REQUEUED"),
        pattern=r"CANCELLED AT \S+ DUE TO (PREEMPTION|JOB REQUEUE)",
    ),
    Rule(
        name="GPU OUT OF MEMORY",
        action="stop",
        meaning="a GPU has too little memory for the model and its share of the batch",
        advice="lower train.batch_size, use more GPUs a member, or train.precision=bf16",
        pattern=r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED",
    ),
    Rule(
        name="OUT OF MEMORY",
        action="stop",
        meaning="a process used more main memory than the job asked for",
        advice="raise resources.mem_gb_per_gpu, or use data.loading=stream",
        states=("OUT_OF_MEMORY",),
        pattern=r"oom[-_]kill event|exceeded memory limit \(|Exceeded job memory limit"
        r"|task [\d,-]+: Out Of Memory|can't allocate memory|Cannot allocate memory|MemoryError\b",
    ),
    Rule(
        name="DISK FULL",
        action="stop",
        meaning="a file system is full, or your quota on it is used up",
        advice="free space where the run lies (a line on /dev/shm: raise mem_gb_per_gpu), resume",
        pattern=r"No space left on device|Disk quota exceeded|PytorchStreamWriter failed writing"
        r"|enforce fail at inline_container.* unexpected pos",
    ),
    Rule(
        name="GPU FAULT",
        action="exclude node",
        meaning="a node's GPU or driver is broken, or somebody else's process holds it",
        advice="tell the site the node's name",
        pattern=r"uncorrectable ECC error|fallen off the bus|CUDA-capable devices? (are|is) "
        r"(busy|detected)|No CUDA GPUs are available( on node (?P<node>[\w.-]+))?"
        r"|no CUDA-capable device is detected|Driver/library version mismatch"
        r"|CUDA error: (unspecified launch failure|unknown error)",
    ),
    Rule(
        name="NO SHARED FILES",
        action="exclude node",
        meaning="a node does not see the shared file system, or it does not answer there",
        advice="tell the site the node's name; look with: lenshpc doctor",
        pattern=r"couldn't chdir to|Stale file handle|Transport endpoint is not connected"
        r"|\[Errno 5\] Input/output error",
    ),
    Rule(
        name="NAN LOSS",
        action="stop",
        meaning="the training diverged: its loss is no finite number",
        advice="lower train.lr, set train.clip_norm=1, or look at the data with lenshpc info",
        pattern=r"the (training|validation) \w+ became -?(nan|inf)",
    ),
    Rule(
        name="WRONG INPUT",
        action="stop",
        meaning="the recipe, the store or the run is not what it should be",
        advice="do what the line says, then resume",
        pattern=r"^lenshpc\.errors\.\w+Error: ",
    ),
    Rule(
        name="LAUNCH FAILURE",
        action="stop",
        meaning="the job's program did not start: a path, module, container or srun option",
        advice="look at setup, python and srun_args of the site profile; try: lenshpc doctor",
        pattern=r"Unable to create step|[Tt]ask launch for .* failed|Application launch failed"
        r"|slurmstepd.*: error: execve\(\)|module: (command )?not found|Lmod has detected"
        r"|No module named '?(lenshpc|submitit)|slurmstepd.*: error: pyxis: |^FATAL: .*image",
    ),
    Rule(
        name="PYTHON ERROR",
        action="stop",
        meaning="the program raised an error",
        advice="read the log: lenshpc logs; if lenshpc is at fault, report it",
        pattern=rf"^(?!.*({PEER_LOST}|{STALLED}))[A-Za-z_][\w.]*(Error|Exception): ",
    ),
    Rule(
        name="COLLECTIVE TIMEOUT",
        action="requeue",
        meaning="a rank waited in vain for the others (NCCL, gloo): a slow or lost node or network",
        advice="if it happens again: lenshpc doctor --preflight names lame nodes",
        pattern=STALLED,
    ),
    Rule(
        name="RANK LOST",
        action="requeue",
        meaning="a rank died without a word, and the others lost their connection to it",
        advice="if it happens again: lenshpc doctor --preflight names lame nodes",
        pattern=PEER_LOST,
    ),
    Rule(
        name="KILLED",
        action="requeue",
        meaning="a process was killed or crashed; often for memory that SLURM did not see",
        advice="if it happens again, raise resources.mem_gb_per_gpu",
        pattern=r"error: (?P<node>\S+): tasks? [\d,-]+: (Killed|Bus error|Segmentation|Abort)",
        exits=(9, 134, 135, 137, 139),
    ),
    Rule(
        name="CANCELLED",
        action="stop",
        meaning="somebody cancelled it",
        advice="resume when it shall go on",
        pattern=r"\*\*\* JOB \S+ ON \S+ CANCELLED AT \S+ \*\*\*",
        weak_states=("CANCELLED", "REVOKED", "DEADLINE"),
    ),
)
UNKNOWN = Rule(
    name="UNKNOWN",
    action="stop",
    meaning="it ended without being done, and nothing says why",
    advice="read the log: lenshpc logs",
)


def classify(
    state: str, exit_code: str = "0:0", logs: Sequence[str] = (), nodes: str = ""
) -> Failure:
    """Return how a job that ended without being done failed.

    `exit_code` is SLURM's `code:signal`, `logs` has the end of each task's log, `nodes` are the
    job's: a lone one is the culprit where a rule blames a node and the log names none.
    """
    told = [_lines_since_start(text) for text in logs]
    code, _, signal = exit_code.partition(":")
    exits = {int(code or 0), 128 + int(signal or 0)} - {0, 128}
    # Three passes over all rules, not one: SLURM's verdict on any rule counts before a log's line,
    # and a log before a weak sign.
    for rule in RULES:
        if state in rule.states:
            return _failure(rule, told, nodes)
    for rule in RULES:
        if _evidence(rule, told):
            return _failure(rule, told, nodes)
    for rule in RULES:
        if state in rule.weak_states or exits & set(rule.exits):
            return _failure(rule, told, nodes)
    return _failure(UNKNOWN, told, nodes)


def find_failure(name: str) -> Failure:
    """Return the failure of that name, without evidence."""
    rule = next((rule for rule in RULES if rule.name == name), UNKNOWN)
    return _failure(rule, [], "")


def _lines_since_start(log: str) -> list[str]:
    """Return the lines of a log since its last start, without ranks' prefixes and empty lines."""
    lines = log.splitlines()
    starts = [number for number, line in enumerate(lines) if STARTED.search(line)]
    # Since the last start: logs of requeued attempts are appended, and an old error would be blamed
    # again.
    latest = lines[starts[-1] :] if starts else lines
    told = [RANK.sub("", line).rstrip() for line in latest]
    ours = ("submitit INFO", QUEUE_BEGINS)
    return [line for line in told if line and not line.startswith(ours)]


def _evidence(rule: Rule, told: Iterable[list[str]]) -> tuple[list[str], re.Match[str]] | None:
    """Return the log and the match of the last line that the rule fits."""
    pattern = re.compile(rule.pattern, re.MULTILINE)
    for lines in told:
        if pattern.search("\n".join(lines)):  # most rules fit no line: one search tells
            for line in reversed(lines):
                match = pattern.search(line)
                if match:
                    return lines, match
    return None


def _failure(rule: Rule, told: list[list[str]], nodes: str) -> Failure:
    found = _evidence(rule, told)
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
