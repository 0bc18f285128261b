"""The one file, beside `controller`, that knows submitit: sbatch text, jobs, local processes."""

import itertools
import math
import os
import re
import shlex
import signal
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lenshpc.errors import ConfigError
from lenshpc.launch import slurm
from lenshpc.launch.asking import (
    Options,
    ask_gpus,
    ask_memory,
    ask_place,
    choose_python,
    format_exports,
)
from lenshpc.launch.failures import BEGINS_AGAIN
from lenshpc.launch.sites import Site
from lenshpc.run.plan import Plan
from lenshpc.run.sections import Resources

Call = Callable[..., None]  # a module-level function of the installed package

# the scripts' argument is the pickle; submitit looks for it under the name of the job
LINK = (
    'ln -sfn "$1" {folder}/"${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}'
    '${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}_submitted.pkl"'
)

# The log goes on: what it has of earlier attempts is no evidence of how this one ends.
AGAIN = f'[ -z "$SLURM_RESTART_COUNT" ] || echo "{BEGINS_AGAIN}"'

# A failed srun asks, in the member's own container, whether its job is sent again, and how. That
# ends this script: hence the trap.
REQUEUE = """\
rc=$?
job=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
with=$(command -v scontrol || echo sbatch)
if [ $rc != 0 ] && {ask} {root} "$job" "${{SLURM_RESTART_COUNT:-0}}" $rc "$with"; then
  trap "" TERM
  sh {root}/slurm/"$job"_next.sh
fi
exit $rc"""

# Without this a line of the site's that fails, or ends the script, leaves a job that did nothing
# and ended well. SIGTERM is no fault of a line.
GUARD = """\
check() {
  [ "$1" = 0 ] || { echo "lenshpc: setup failed (exit code $1): $2"; trap - EXIT; exit 1; }
}
trap 'echo "lenshpc: setup ended the script before srun"; exit 1' EXIT
trap 'trap - EXIT; exit 143' TERM"""

EXPORT = re.compile("export [^;&|]*")

AGGREGATE_TIME_MIN = 60
AGGREGATE_MEM_GB = 4  # at least
BARE_MEM_GB = 1.5  # without a row
ROW_BYTES = 250  # of a manifest in memory: ids, groups and numbers
MORE_LINES = 8  # ensembles and baselines
LINE_COPIES = 2  # of a line's float64 values
CONVERT_TIME_MIN = 240
CONVERT_MEM_GB = 2  # a process
ONE_TASK = {"nodes": 1, "ntasks-per-node": 1}


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What one sbatch call asks for.

    `options` are sbatch's, `step` those of its srun, `parameters` what submitit has names for.
    """

    folder: Path
    python: str
    num_elements: int
    time_min: int
    options: dict[str, Any]
    step: tuple[str, ...]
    parameters: dict[str, Any]

    def script(self) -> str:
        """Return the exact text that sbatch gets. Raises ConfigError where the folder cannot be."""
        from submitit.slurm.slurm import _make_sbatch_string

        taken = re.search("%[jtaA]", str(self.folder))
        if taken:  # it puts them in place of these wherever it meets them, without an escape
            raise ConfigError(
                f"{self.folder} contains {taken[0]}, which SLURM replaces with a job's number; "
                "choose a folder without it"
            )
        # `JobRecord.elements` and `call_element` rest on this: a lone job has no index.
        count = self.num_elements if self.num_elements > 1 else None  # one element is a plain job
        # SLURM puts ids in place of %A; what the path itself has of it stands twice.
        job = str(self.folder).replace("%", "%%") + ("/%A_%a" if count else "/%j")
        srun = ["srun", "--unbuffered", f"--output={job}_%t_log.out", "--export=ALL", *self.step]
        called = f"{self.python} -u -m submitit.core._submit {shlex.quote(str(self.folder))}"
        text: str = _make_sbatch_string(
            command=f"{shlex.join(srun)} {called}",
            use_srun=False,
            folder=self.folder,
            map_count=count,
            time=self.time_min,
            # not submitit's default, which is refused where keys are enforced
            wckey=None,  # type: ignore[arg-type]
            stderr_to_stdout=True,
            additional_parameters={**self.options, "output": f"{job}_0_log.out"},
            **self.parameters,
        )
        return text


@dataclass(frozen=True, kw_only=True)
class Sending:
    """One call of sbatch: its name, by which SLURM can be asked for the job it made.

    The open files `inherited` stay open in sbatch, so that a lock on them outlives us.
    """

    token: str = field(default_factory=lambda: f"lenshpc-{uuid.uuid4().hex}")
    inherited: tuple[int, ...] = ()


def member_request(
    plan: Plan, site: Site, folder: Path, num_elements: int, after: str | None = None
) -> JobRequest:
    """Return the request of an array of members: one srun task a process, a GPU each."""
    size = plan.recipe.resources
    processes, cpus = size.processes_per_node, size.cpus_per_gpu
    options = {
        **ask_place(site),
        **ask_gpus(site, size.gpus_per_node),
        **ask_memory(
            site,
            size.mem_gb_per_gpu * processes,
            cpus=cpus * processes,
            gpus=size.gpus_per_node,
        ),
        "nodes": size.nodes,
        "ntasks-per-node": processes,
        # SLURM requeues after a lost node by itself; that the member may be run again, and from any
        # point, is what the order of writes is for.
        "requeue": True,
    }
    return _request(
        plan.run_name,
        site,
        folder,
        time_min=size.time_min,
        cpus=cpus,
        options=options | _after(after),
        num_elements=num_elements,
        step=("--kill-on-bad-exit=1",),  # a dead rank ends the step
        signal_delay_s=size.signal_delay_s,
        teardown=_teardown(site, folder.parent),
    )


def aggregate_request(
    plan: Plan, site: Site, folder: Path, after: str | None, num_rows: int = 0
) -> JobRequest:
    """Return the request of the aggregation: one process, no GPU, after all members have ended."""
    mem_gb = estimate_memory_gb(plan, num_rows)
    return _cpu_request(f"{plan.run_name}-report", site, folder, mem_gb=mem_gb, after=after)


def estimate_memory_gb(plan: Plan, num_rows: int) -> int:
    """Return what an aggregation may need: its manifest, and all lines' values of each row."""
    # Members are merged range by range: what is held does not grow with their number.
    lines = len(plan.recipe.models) + MORE_LINES
    num_bytes = num_rows * (ROW_BYTES + LINE_COPIES * 8 * lines * max(len(plan.classes), 1))
    return max(AGGREGATE_MEM_GB, math.ceil(BARE_MEM_GB + num_bytes / 1e9))


def single_request(name: str, site: Site, folder: Path, after: str | None) -> JobRequest:
    """Return the request of one process without a GPU, after other jobs have ended."""
    return _cpu_request(name, site, folder, after=after)


def conversion_request(
    name: str, site: Site, folder: Path, array_size: int, cpus: int, after: str | None = None
) -> JobRequest:
    """Return the request of an array that converts images: an element a node, no GPU."""
    return _cpu_request(
        name,
        site,
        folder,
        array_size,
        cpus=cpus,
        mem_gb=CONVERT_MEM_GB,
        time_min=CONVERT_TIME_MIN,
        after=after,
    )


def joining_request(name: str, site: Site, folder: Path, after: str) -> JobRequest:
    """Return the request of the job that joins what an array has made."""
    return single_request(f"{name}-join", site, folder, after)


def inference_request(
    name: str, size: Resources, site: Site, folder: Path, array_size: int
) -> JobRequest:
    """Return the request of an array that uses what was trained: a GPU an element, if any."""
    gpus = min(1, size.gpus_per_node)
    cpus = site.cpus_per_gpu or size.cpus_per_gpu
    mem_gb = site.mem_gb_per_gpu or size.mem_gb_per_gpu
    return _request(
        name,
        site,
        folder,
        time_min=site.time_min or size.time_min,
        cpus=cpus,
        options=ask_place(site)
        | ask_gpus(site, gpus)
        | ask_memory(site, mem_gb, cpus=cpus, gpus=gpus)
        | ONE_TASK,
        num_elements=array_size,
    )


def _cpu_request(
    name: str,
    site: Site,
    folder: Path,
    num_elements: int = 1,
    *,
    cpus: int = 1,
    mem_gb: float = AGGREGATE_MEM_GB,
    time_min: int = AGGREGATE_TIME_MIN,
    after: str | None = None,
) -> JobRequest:
    """Return the request of jobs that need no GPU, where the site wants them; memory a process."""
    block, place = site.cpu_jobs, site.without_gpu()
    options = {
        **ask_place(place),
        **ask_gpus(place, block.gpus),
        **ask_memory(place, (block.mem_gb or mem_gb) * cpus, cpus=cpus, gpus=block.gpus),
        **ONE_TASK,
    }
    return _request(
        name,
        place,
        folder,
        time_min=block.time_min or time_min,
        cpus=cpus,
        options=options | _after(after),
        num_elements=num_elements,
    )


def _request(
    name: str,
    site: Site,
    folder: Path,
    *,
    time_min: int,
    cpus: int,
    options: Options,
    num_elements: int,
    step: tuple[str, ...] = (),
    **parameters: Any,
) -> JobRequest:
    return JobRequest(
        folder=folder,
        python=choose_python(site),
        num_elements=num_elements,
        time_min=time_min,
        options={
            **options,
            "comment": f"lenshpc {name}",
            "cpus-per-task": cpus,
        },
        # srun of SLURM 22.05-23.02 does not inherit --cpus-per-task
        step=(*step, f"--cpus-per-task={cpus}", *site.step_args),
        parameters={
            "job_name": name,
            "setup": _setup(site, folder),
            "array_parallelism": site.max_parallel,
            **parameters,
        },
    )


def _setup(site: Site, folder: Path) -> list[str]:
    """Return the lines before srun; the site's own are checked one by one."""
    own = itertools.chain.from_iterable(
        # an export alone ends well whatever is in it
        [line] if EXPORT.fullmatch(line) else [line, f"check $? {shlex.quote(line)}"]
        for line in site.setup
    )
    return [
        # First: it is what tells a job that began from one never sent.
        LINK.format(folder=shlex.quote(str(folder))),
        AGAIN,
        *([f"umask {site.umask}"] if site.umask else []),
        *format_exports(site),
        *GUARD.splitlines(),
        *own,
        # A line's own `set -e` or trap would end the script where srun fails, before it asks.
        "trap - EXIT TERM ERR",
        "set +e",
    ]


def _teardown(site: Site, root: Path) -> list[str]:
    one = ["--overlap", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--cpus-per-task=1"]
    srun = shlex.join(["srun", "--export=ALL", *one, *site.step_args])
    ask = f"{srun} {choose_python(site)} -m lenshpc.launch.requeue"
    return REQUEUE.format(ask=ask, root=shlex.quote(str(root))).splitlines()


def _after(job_ids: str | None) -> Options:
    # not afterok: that never fires once an element has failed, even if it succeeds later
    return {"dependency": f"afterany:{job_ids}"} if job_ids else {}


def submit_array(
    request: JobRequest,
    sending: Sending,
    call: Call,
    root: Path,
    indices: Sequence[int],
    *more: int,
) -> str:
    """Submit `call(root, index, *more)` for every index as one array; return its job id."""
    return _submit(request, sending, call_element, call, str(root), tuple(indices), *more)


def submit_single(request: JobRequest, sending: Sending, call: Call, root: Path) -> str:
    """Submit `call(root)`; return its job id."""
    return _submit(request, sending, call, str(root))


def call_element(call: Call, root: str, indices: tuple[int, ...], *more: int) -> None:
    """Run a call for the element of the array that this process belongs to."""
    # By place in the tuple that was pickled: a follow-up of one element keeps the array's index,
    # and so finds its member.
    place = int(os.environ["SLURM_ARRAY_TASK_ID"]) if len(indices) > 1 else 0
    call(root, indices[place], *more)


def _submit(request: JobRequest, sending: Sending, call: Call, *arguments: Any) -> str:
    """Submit a script and one pickle for all its elements, which the script links to their names.

    Nothing remains to be done once sbatch has taken the job: if we are stopped then, it still runs.
    """
    from submitit.core.utils import DelayedSubmission

    script, pickled = (request.folder / f"{sending.token}.{end}" for end in ("sh", "pkl"))
    # A module-level function, a path and numbers: a pickle of anything more would break when the
    # code changes.
    submission = DelayedSubmission(call, *arguments)
    submission.set_timeout(request.time_min, max_num_timeout=3)
    submission.dump(pickled)
    # Named after the token until sbatch has given an id: SLURM shows this name, and `settle` looks
    # for it.
    script.write_text(request.script(), encoding="utf-8")
    job_id = slurm.sbatch(script, pickled.name, inherited=sending.inherited)
    # Only a nicety for people, and for follow-ups: the job runs the copy that SLURM took.
    script.rename(request.folder / f"{job_id}_submission.sh")
    return job_id


def start_local(
    folder: Path, variables: Mapping[str, str], num_tasks: int, call: Call, *arguments: Any
) -> Any:
    """Start a call as `num_tasks` processes of this machine with these variables; return the job.

    submitit's local executor has no queue: the caller decides when.
    """
    from lenshpc.launch.controller import Executor

    # By the command: submitit's own way of naming GPUs takes numbers alone, no GPU-... or MIG-...
    given = ["env", *(f"{name}={value}" for name, value in variables.items())]
    executor = Executor(folder, python=shlex.join([*given, sys.executable]))
    executor.update_parameters(tasks_per_node=num_tasks)
    return executor.submit(call, *arguments)


def terminate_local(job: Any) -> None:
    """Have a local job's processes save and end; submitit's `cancel` kills them after a second."""
    job._process.send_signal(signal.SIGTERM)  # its controller passes it on


def log_paths(folder: Path, job_id: str) -> list[Path]:
    """Return the logs of a job (`123`, `123_4` or a local process), one a task, by rank."""
    # no glob: a folder holds the files of thousands of members
    ranks = (folder / f"{job_id}_{rank}_log.out" for rank in itertools.count())
    return list(itertools.takewhile(Path.is_file, ranks))
