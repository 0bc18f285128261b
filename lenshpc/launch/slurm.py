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
from fnmatch import fnmatchcase
from pathlib import Path

from lenshpc.errors import LaunchError, one_line

# What has ended is a list, and not what waits or runs: a word that a later SLURM brings must not
# have a member sent while it runs.
ENDED = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REVOKED",
        "TIMEOUT",
        "UNKNOWN",  # ours, for a job that nobody knows
    ]
)
JOB = r"([0-9]{1,10})"
IDENTITY = re.compile(rf"{JOB}(?:_(?:([0-9]{{1,7}})|\[([0-9,:-]+)(?:%[0-9]+)?\]))?")
SPAN = re.compile(r"([0-9]{1,7})(?:-([0-9]{1,7})(?::([1-9][0-9]{0,6}))?)?")
STATE = re.compile(r"([A-Z][A-Z0-9_]*)(\+?)(?: by [0-9]+\+?)?")
# --duplicates: a line for each attempt of a requeued job
SACCT = ("sacct", "-X", "-n", "-P", "-D", "--format=JobID,State,ExitCode,NodeList,ElapsedRaw")
SQUEUE = ("squeue", "-h", "--states=all", "-o", "%i|%T|%N|%r")
BUSY = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Resource temporarily unavailable"
    r"|Slurm backup controller in standby|Zero Bytes were transmitted|Connection reset",
    re.IGNORECASE,
)
SAYS_NOTHING = re.compile('Unspecified error$|^Try "')
# SLURM's programs are installed, and nothing says which cluster they are of.
NO_CLUSTER = re.compile(r"[Cc]ould not establish a configuration source")
ENDED_JOB = re.compile("Invalid job id specified|already completing or completed")
# What an outer job says of itself, and what would override a script's options or a query's; not
# what names the cluster and lets us in. An inner job would take the outer one's memory and ranks.
HANDED_ON = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
# patterns for names, as `fnmatch` and a shell's `case` read them
WITHHELD = (
    *("SLURM_*", "SLURMD_*", "SBATCH_*", "SRUN_*", "SALLOC_*", "SQUEUE_*", "SACCT_*", "SCANCEL_*"),
    *("SCONTROL_*", "SINFO_*", "SPRIO_*", "PMI_*", "PMIX_*", "PMI2_*", "OMPI_*", "PRTE_*"),
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    *("GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"),
)
OVERRIDING = re.compile("SLURM_|SBATCH_|SRUN_")
QUERY_TIMEOUT_S = 60
QUERY_RETRIES_S = (0.5, 2.0)  # squeue itself tries for some seconds before it gives up
ORDER_RETRIES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
DEFAULT_MAX_ARRAY_SIZE = 1001
LARGEST_ARRAY = 100_000  # that is sent, or believed
EXIT_CODE = re.compile("[0-9]{1,5}:[0-9]{1,5}")


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
        """Return whether the job waits or runs, also by a word that is not known here."""
        return self.state not in ENDED


@dataclass(frozen=True, kw_only=True)
class Known:
    """What SLURM knows of jobs; `silence` says why the controller did not answer, if it did not."""

    jobs: Mapping[str, JobState] = field(default_factory=dict)
    silence: str = ""


def parse_sacct(text: str) -> dict[str, JobState]:
    """Return job id → state of the lines `id|state|exit code|nodes|elapsed seconds`.

    `CANCELLED by 1000` is CANCELLED. A requeued job has a line an attempt: the last one counts,
    and the seconds add up. A line that is no such record, as a banner's, is passed over; so is one
    of a part of a heterogeneous job (`123+0`), of which lenshpc sends none.
    """
    states: dict[str, JobState] = {}
    for job_ids, (word, exit_code, nodes, elapsed) in _read_records(text, 4):
        for job_id in _drop_revoked(job_ids, word, states):
            # Lines of a job come oldest first, an attempt each: the last state stands, the seconds
            # add up.
            before = states[job_id].elapsed_s if job_id in states else 0
            states[job_id] = JobState(
                job_id=job_id,
                state=word,
                exit_code=exit_code if EXIT_CODE.fullmatch(exit_code) else "0:0",
                nodes=_nodes(nodes),
                elapsed_s=before + read_number(elapsed),
            )
    return states


def parse_squeue(text: str) -> dict[str, JobState]:
    """Return job id → state of the lines `id|state|nodes|reason`; others are passed over."""
    states: dict[str, JobState] = {}
    for job_ids, (word, nodes, reason) in _read_records(text, 3):
        told = "" if reason in {"None", "(null)"} else reason.strip("()")
        for job_id in _drop_revoked(job_ids, word, states):
            states[job_id] = JobState(job_id=job_id, state=word, nodes=_nodes(nodes), reason=told)
    return states


def parse_job_id(text: str) -> str:
    """Return the id in what `sbatch --parsable` prints, "" where there is none.

    It is the last line of the form `123` or `123;cluster`: a site's own words come before it.
    """
    found = (re.fullmatch(rf"{JOB}(?:;\S*)?\s*", line) for line in reversed(text.split("\n")))
    return next((match[1] for match in found if match), "")


def parse_max_array_size(text: str) -> int:
    """Return the most elements of an array that begins at 0, from `scontrol show config`.

    The highest index is one less than MaxArraySize.
    """
    match = re.search(r"^MaxArraySize[ \t]*=[ \t]*([0-9]{1,9})\b", text, re.MULTILINE)
    return min(max(int(match[1]), 1), LARGEST_ARRAY) if match else DEFAULT_MAX_ARRAY_SIZE


def read_number(text: str) -> int:
    """Return a count as SLURM prints it, such as seconds; 0 of all that is no such number."""
    return int(text) if re.fullmatch("[0-9]{1,12}", text) else 0


def _read_records(text: str, num: int) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the jobs of each line and the `num` fields after them, the state first."""
    # Not `splitlines`, which also cuts at characters that may stand in a reason.
    for line in text.split("\n"):
        identity, *fields = line.rstrip("\r").split("|", num)
        word = read_state(fields[0]) if len(fields) == num else ""
        if word:
            yield _elements(identity), [word, *fields[1:]]


def _drop_revoked(job_ids: list[str], word: str, states: Mapping[str, JobState]) -> list[str]:
    """Return the jobs of a line, but for those that it revokes and another line tells of.

    A federation sends a job to several clusters and revokes it on all but the one where it runs.
    """
    return [one for one in job_ids if word != "REVOKED" or one not in states]


def read_state(text: str) -> str:
    """Return a state in full, as `OUT_OF_ME+` is what a narrow column leaves; "" of other text."""
    match = STATE.fullmatch(text)
    if match is None:
        return ""
    word, plus = match.groups()
    return next((one for one in sorted(ENDED) if plus and one.startswith(word)), word)


def _nodes(text: str) -> str:
    return "" if text in {"None assigned", "(null)", "n/a"} else text


def _elements(identity: str) -> list[str]:
    """Return the ids in `123`, `123_4` or `123_[4-6,9,10-20:5%2]`; none of another text.

    Waiting elements of an array come as one line.
    """
    match = IDENTITY.fullmatch(identity)
    if match is None:
        return []
    job, _, waiting = match.groups()
    if waiting is None:
        return [identity]
    spans = [SPAN.fullmatch(part) for part in waiting.split(",")]
    ranges = [
        range(int(span[1]), int(span[2] or span[1]) + 1, int(span[3] or 1))
        for span in spans
        if span
    ]
    # A range that no array of ours can have is no record, and would fill the memory.
    if None in spans or sum(map(len, ranges)) > LARGEST_ARRAY:
        return []
    return [f"{job}_{element}" for elements in ranges for element in elements]


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
    lines = ask(["squeue", "-h", "--states=all", "-u", user, "-o", "%F|%o"]).split("\n")
    # SubmitLine stands in the accounting of every site, a job's comment only where it is stored
    since = ["-S", "now-30days", "--format=JobID,SubmitLine"]
    lines += _accounting(["sacct", "-X", "-n", "-P", "-u", user, *since]).split("\n")
    found = ((re.match(rf"{JOB}(?:_[^|]*)?\|", line), line) for line in lines)
    return {token: match[1] for match, line in found for token in tokens if match and token in line}


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
        raise LaunchError(
            f"{program} is not installed here; run this on a login node of the cluster"
        )
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=QUERY_TIMEOUT_S,
            env=environment(),
            # The run's lock stays locked in sbatch: if we are killed, nobody settles the submission
            # before sbatch has ended.
            pass_fds=tuple(inherited),
        )
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"{program}: Socket timed out after {QUERY_TIMEOUT_S} s") from error
    except OSError as error:
        raise LaunchError(f"{program} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        line = _telling_line(done.stderr)
        where = "; run this on a login node of the cluster" if NO_CLUSTER.search(line) else ""
        raise LaunchError(f"{program} failed: {line}{where}")
    return done.stdout


def _telling_line(text: str) -> str:
    """Return the line of an error by which it is judged, or the last: some say it four times.

    Before one that says nothing come the words of the site's own rules.
    """
    lines = [one_line(line) for line in text.splitlines() if line.strip()] or [""]
    lines = [line for line in lines if not SAYS_NOTHING.search(line)] or lines
    told = (line for line in lines if BUSY.search(line) or ENDED_JOB.search(line))
    return next(told, lines[-1])


def sbatch(script: Path, *arguments: str, inherited: Sequence[int] = ()) -> str:
    """Submit a script with its arguments; return the job's id. Raises LaunchError.

    No two submissions may use a name of a script: by it a job is found whose id got lost.
    """
    command = ["sbatch", "--parsable", str(script), *arguments]
    for delay_s in (*ORDER_RETRIES_S, 0.0):
        try:
            printed = _run(command, inherited)
            # Taken, but how it is called got lost: it is found by its name.
            return parse_job_id(printed) or find_jobs([script.stem])[script.stem]
        except KeyError as error:
            raise LaunchError(
                f"sbatch printed {printed[-80:]!r} instead of the id of a job; look at {script}"
            ) from error
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
    """Return the environment for SLURM's commands, and so for the jobs that they send.

    Array ranges are told in full, which are cut off after 64 characters otherwise.
    """
    kept = {name: value for name, value in os.environ.items() if not _is_withheld(name)}
    return {**kept, "SLURM_BITSTR_LEN": "0"}


def withheld_variables() -> tuple[str, ...]:
    """Return the variables that SLURM would heed, and does not get, for people to know."""
    told = filter(_is_withheld, os.environ)
    return tuple(sorted(name for name in told if OVERRIDING.match(name)))


def _is_withheld(name: str) -> bool:
    return name not in HANDED_ON and any(fnmatchcase(name, pattern) for pattern in WITHHELD)
