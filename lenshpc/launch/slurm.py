"""Ask SLURM for the states of jobs: one query a run; the parsers are text in, values out."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ACTIVE = frozenset(
    [
        "PENDING",
        "RUNNING",
        "CONFIGURING",
        "COMPLETING",
        "SUSPENDED",
        "STOPPED",
        "RESIZING",
        "SIGNALING",
        "STAGE_OUT",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "SPECIAL_EXIT",
        "RESV_DEL_HOLD",
    ]
)
SACCT = ("sacct", "-X", "-n", "-P", "--format=JobID%64,State%32,ExitCode,NodeList%128")
SQUEUE = ("squeue", "-h", "-o", "%i|%T|0:0|%N")
QUERY_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What SLURM says of one job or array element."""

    job_id: str
    state: str
    exit_code: str = "0:0"
    nodes: str = ""

    @property
    def is_active(self) -> bool:
        """Return whether the job waits or runs."""
        return self.state in ACTIVE


def parse_states(text: str) -> dict[str, JobState]:
    """Return job id → state of the lines `id|state|exit code|nodes`.

    Waiting elements of an array come as one line, `123_[4-6,9%2]`, and become one entry each.
    `CANCELLED by 1000` is CANCELLED. A requeued job has several lines; the last one counts.
    """
    states = {}
    for line in text.splitlines():
        identity, state, exit_code, nodes = line.split("|")[:4]
        for job_id in _elements(identity):
            states[job_id] = JobState(
                job_id=job_id,
                state=state.split()[0].rstrip("+"),
                exit_code=exit_code,
                nodes="" if nodes == "None assigned" else nodes,
            )
    return states


def _elements(identity: str) -> Iterator[str]:
    """Yield the ids in `123`, `123_4` or `123_[4-6,9,10-20:5%2]`."""
    match = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", identity)
    if match is None:
        yield identity
        return
    for part in match[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        for element in range(int(first), int(last or first) + 1, int(step or 1)):
            yield f"{match[1]}_{element}"


def query(job_ids: Iterable[str]) -> dict[str, JobState]:
    """Return the states of jobs and their elements: from sacct, else from squeue, else nothing.

    sacct lags behind a submission by seconds, and some sites have none; squeue forgets jobs
    minutes after their end. What neither knows is left to the run directory's own marks.
    """
    wanted = ",".join(sorted(set(job_ids)))
    if not wanted:
        return {}
    queued = parse_states(_output([*SQUEUE, "-r", "-j", wanted]))
    return queued | parse_states(_output([*SACCT, "-j", wanted])) | _active(queued)


def _active(states: dict[str, JobState]) -> dict[str, JobState]:
    """Return the states in which the controller, which is never late, knows the job as alive."""
    return {job_id: state for job_id, state in states.items() if state.is_active}


def _output(command: list[str]) -> str:
    """Return what a command prints; nothing where it is absent, fails or does not answer."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout if done.returncode == 0 else ""
