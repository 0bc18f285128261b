"""Ask SLURM: one query for many jobs; the parsers are text in, values out."""

import getpass
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from lenshpc.errors import LaunchError

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
# --duplicates: a line for each attempt of a requeued job
SACCT = ("sacct", "-X", "-n", "-P", "-D", "--format=JobID,State,ExitCode,NodeList,ElapsedRaw")
SQUEUE = ("squeue", "-h", "--states=all", "-o", "%i|%T|%N|%r")
BUSY = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Resource temporarily unavailable"
    r"|Slurm backup controller in standby|Zero Bytes were transmitted|Connection reset",
    re.IGNORECASE,
)
ENDED_JOB = re.compile("Invalid job id specified|already completing or completed")
QUERY_TIMEOUT_S = 60
QUERY_RETRIES_S = (0.5, 2.0)  # squeue itself tries for some seconds before it gives up
ORDER_RETRIES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
DEFAULT_MAX_ARRAY_SIZE = 1001


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What SLURM says of one job or array element; `elapsed_s` is the sum over its attempts."""

    job_id: str
    state: str
    exit_code: str = "0:0"
    nodes: str = ""
    reason: str = ""
    elapsed_s: int = 0

    @property
    def is_active(self) -> bool:
        """Return whether the job waits or runs."""
        return self.state in ACTIVE


@dataclass(frozen=True, kw_only=True)
class Known:
    """What SLURM knows of jobs; `silence` says why the controller did not answer, if it did not."""

    jobs: Mapping[str, JobState] = field(default_factory=dict)
    silence: str = ""


def parse_sacct(text: str) -> dict[str, JobState]:
    """Return job id → state of the lines `id|state|exit code|nodes|elapsed seconds`.

    `CANCELLED by 1000` is CANCELLED. A requeued job has a line an attempt: the last one counts,
    and the seconds add up.
    """
    states: dict[str, JobState] = {}
    for line in text.splitlines():
        identity, word, exit_code, nodes, elapsed = line.split("|")[:5]
        for job_id in _elements(identity):
            # Lines of a job come oldest first, an attempt each: the last state stands, the seconds
            # add up.
            before = states[job_id].elapsed_s if job_id in states else 0
            states[job_id] = JobState(
                job_id=job_id,
                state=word.split()[0].rstrip("+"),
                exit_code=exit_code,
                nodes=_nodes(nodes),
                elapsed_s=before + int(elapsed or 0),
            )
    return states


def parse_squeue(text: str) -> dict[str, JobState]:
    """Return job id → state of the lines `id|state|nodes|reason`."""
    states = {}
    for line in text.splitlines():
        identity, word, nodes, reason = line.split("|")[:4]
        told = "" if reason in {"None", "(null)"} else reason.strip("()")
        for job_id in _elements(identity):
            states[job_id] = JobState(job_id=job_id, state=word, nodes=_nodes(nodes), reason=told)
    return states


def parse_max_array_size(text: str) -> int:
    """Return the most elements of an array that begins at 0, from `scontrol show config`.

    The highest index is one less than MaxArraySize.
    """
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else DEFAULT_MAX_ARRAY_SIZE


def _nodes(text: str) -> str:
    return "" if text in {"None assigned", "(null)", "n/a"} else text


def _elements(identity: str) -> Iterator[str]:
    """Yield the ids in `123`, `123_4` or `123_[4-6,9,10-20:5%2]`.

    Waiting elements of an array come as one line.
    """
    match = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", identity)
    if match is None:
        yield identity
        return
    for part in match[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        for element in range(int(first), int(last or first) + 1, int(step or 1)):
            yield f"{match[1]}_{element}"


def query(job_ids: Iterable[str]) -> Known:
    """Return what SLURM knows of jobs and their elements: sacct's word, squeue's where it is newer.

    sacct lags behind a submission by seconds, and some sites have none; squeue forgets jobs
    minutes after their end. What neither knows is left to the run directory's own marks.
    """
    wanted = ",".join(sorted(set(job_ids)))
    if not wanted:
        return Known()
    with ThreadPoolExecutor() as pool:
        accounts = pool.submit(_accounting, [*SACCT, "-j", wanted])
        try:
            queued, silence = parse_squeue(ask([*SQUEUE, "-j", wanted])), ""
        except LaunchError as error:
            queued, silence = {}, str(error)
    told = parse_sacct(accounts.result())
    return Known(jobs=_merge_states(told, queued), silence=silence)


def _merge_states(told: dict[str, JobState], queued: dict[str, JobState]) -> dict[str, JobState]:
    """Return accounting's word, but the state that the controller, which is never late, tells."""
    joined = dict(told)
    for job_id, state in queued.items():
        known = told.get(job_id, state)
        joined[job_id] = replace(state, exit_code=known.exit_code, elapsed_s=known.elapsed_s)
    return joined


def _accounting(command: list[str]) -> str:
    """Return what sacct says; nothing where there is no accounting or it is down."""
    try:
        return _run(command)
    except LaunchError:
        return ""


def find_jobs(tokens: Sequence[str]) -> dict[str, str]:
    """Return token → id of the job whose batch script is named after it, from either source.

    Raises LaunchError where the controller does not answer: then nobody can say.
    """
    # squeue first, and raising: without the controller's word a job may be taken for lost and sent
    # twice. sacct only adds what squeue has forgotten.
    user = getpass.getuser()
    lines = ask(["squeue", "-h", "--states=all", "-u", user, "-o", "%F|%o"]).splitlines()
    # SubmitLine stands in the accounting of every site, a job's comment only where it is stored
    since = ["-S", "now-30days", "--format=JobID,SubmitLine"]
    lines += _accounting(["sacct", "-X", "-n", "-P", "-u", user, *since]).splitlines()
    return {
        token: line.partition("|")[0].partition("_")[0]
        for line in lines
        for token in tokens
        if token in line
    }


def max_array_size() -> int:
    """Return the most elements that this cluster's arrays have; SLURM's default if it is silent."""
    try:
        return parse_max_array_size(ask(["scontrol", "show", "config"]))
    except LaunchError:
        return DEFAULT_MAX_ARRAY_SIZE


def ask(command: Sequence[str], retries_s: Sequence[float] = QUERY_RETRIES_S) -> str:
    """Return what a command prints, run again while the controller is busy; "" of ended jobs.

    Raises LaunchError.
    """
    try:
        return _patiently(command, retries_s)
    except LaunchError as error:
        if ENDED_JOB.search(str(error)):
            return ""
        raise


def order(command: Sequence[str]) -> None:
    """Run scancel or scontrol, longer patient than a query. Raises LaunchError."""
    ask(command, ORDER_RETRIES_S)


def _patiently(command: Sequence[str], delays_s: Sequence[float]) -> str:
    for delay_s in delays_s:
        try:
            return _run(command)
        except LaunchError as error:
            if not is_busy(error):
                raise
            time.sleep(delay_s)
    return _run(command)


def is_busy(error: LaunchError) -> bool:
    """Return whether the same command may succeed in a while."""
    return BUSY.search(str(error)) is not None


def _run(command: Sequence[str], inherited: Sequence[int] = ()) -> str:
    """Return what a command prints. Raises LaunchError where it is absent, fails or is silent."""
    program = command[0]
    if shutil.which(program) is None:
        raise LaunchError(f"there is no {program} here; run this on a login node of the cluster")
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=QUERY_TIMEOUT_S,
            env=environment(),
            # The run's lock stays locked in sbatch: if we are killed, nobody settles the submission
            # before sbatch has ended.
            pass_fds=tuple(inherited),
        )
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"{program}: Socket timed out after {QUERY_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise LaunchError(f"{program} failed: {' '.join(done.stderr.split())}")
    return done.stdout


def sbatch(script: Path, *arguments: str, inherited: Sequence[int] = ()) -> str:
    """Submit a script with its arguments; return the job's id. Raises LaunchError.

    No two submissions may use a name of a script: by it a job is found whose id got lost.
    """
    command = ["sbatch", "--parsable", str(script), *arguments]
    for delay_s in (*ORDER_RETRIES_S, 0.0):
        try:
            return _run(command, inherited).strip().partition(";")[0]
        except LaunchError as error:
            if not is_busy(error):
                raise LaunchError(f"{error}; look at {script}") from error
            refused = error
        # Asked after the wait and before the next try: a controller that took the job and failed to
        # say so would get it twice.
        time.sleep(delay_s)
        taken = find_jobs([script.stem])  # a busy controller may have taken it all the same
        if taken:
            return taken[script.stem]
    raise refused


def environment() -> dict[str, str]:
    """Return the environment for SLURM's commands.

    Without the variables of a job that we may be in, which its jobs would inherit; with array
    ranges in full, which are cut off after 64 characters otherwise.
    """
    own = ("SLURM_ARRAY_", "SLURM_JOB")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return {**kept, "SLURM_BITSTR_LEN": "0"}
