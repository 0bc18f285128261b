"""The one file that knows submitit: sbatch text, job arrays, single jobs, local processes."""

import itertools
import os
import shlex
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lenshpc.launch import slurm
from lenshpc.launch.sites import Site
from lenshpc.run.plan import Plan

Call = Callable[..., None]  # a module-level function of the installed package

# the scripts' argument is the pickle; submitit looks for it under the name of the job
LINK = (
    'ln -sfn "$1" {folder}/"${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}'
    '${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}_submitted.pkl"'
)

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

AGGREGATE_TIME_MIN = 60
AGGREGATE_MEM_GB = 4
CONVERT_TIME_MIN = 240
CONVERT_MEM_GB = 2  # a process


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What one sbatch call asks for: `parameters` are submitit's names of sbatch options."""

    folder: Path
    python: str
    num_elements: int
    parameters: dict[str, Any]

    def script(self) -> str:
        """Return the exact text that sbatch gets."""
        from submitit.slurm.slurm import _make_sbatch_string

        folder = shlex.quote(str(self.folder))
        command = f"{self.python} -u -m submitit.core._submit {folder}"
        # `JobRecord.elements` and `call_element` rest on this: a lone job has no index.
        count = self.num_elements if self.num_elements > 1 else None  # one element is a plain job
        text: str = _make_sbatch_string(
            command=command, folder=self.folder, map_count=count, **self.parameters
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
    """Return the request of an array of members: one srun task a GPU."""
    size = plan.recipe.resources
    cpus = site.cpus_per_gpu or size.cpus_per_gpu
    mem_gb = (site.mem_gb_per_gpu or size.mem_gb_per_gpu) * size.gpus_per_node
    common = _common(plan.run_name, site, mem_gb, size.time_min)
    parameters = common | {
        "nodes": size.nodes,
        "ntasks_per_node": size.gpus_per_node,
        "gpus_per_node": size.gpus_per_node,
        "cpus_per_task": cpus,
        "array_parallelism": site.max_parallel,
        # a dead rank ends the step; srun of SLURM 22.05-23.02 does not inherit --cpus-per-task
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}", *site.step_args],
        "signal_delay_s": size.signal_delay_s,
        # SLURM requeues after a lost node by itself; that the member may be run again, and from any
        # point, is what the order of writes is for.
        "additional_parameters": {**common["additional_parameters"], "requeue": True},
        "teardown": _teardown(site, folder.parent),
    }
    return _request(site, folder, num_elements, parameters | _after(after))


def aggregate_request(plan: Plan, site: Site, folder: Path, after: str | None) -> JobRequest:
    """Return the request of the aggregation: one process, no GPU, after all members have ended."""
    parameters = _common(
        f"{plan.run_name}-report", site, AGGREGATE_MEM_GB, AGGREGATE_TIME_MIN
    ) | _one_task(site, cpus=1)
    return _request(site, folder, 1, parameters | _after(after))


def conversion_request(
    name: str, site: Site, folder: Path, array_size: int, cpus: int
) -> JobRequest:
    """Return the request of an array that converts images: an element a node, no GPU."""
    parameters = _common(name, site, CONVERT_MEM_GB * cpus, CONVERT_TIME_MIN)
    parallel = {"array_parallelism": site.max_parallel}
    return _request(site, folder, array_size, parameters | _one_task(site, cpus) | parallel)


def sampling_request(plan: Plan, site: Site, folder: Path, array_size: int) -> JobRequest:
    """Return the request of an array that draws images: one GPU an element."""
    size = plan.recipe.resources
    cpus = site.cpus_per_gpu or size.cpus_per_gpu
    mem_gb = site.mem_gb_per_gpu or size.mem_gb_per_gpu
    parameters = _common(f"{plan.run_name}-sample", site, mem_gb, size.time_min)
    more = {"gpus_per_node": 1, "array_parallelism": site.max_parallel}
    return _request(site, folder, array_size, parameters | _one_task(site, cpus) | more)


def joining_request(name: str, site: Site, folder: Path, after: str) -> JobRequest:
    """Return the request of the job that joins what an array has converted."""
    parameters = _common(f"{name}-join", site, AGGREGATE_MEM_GB, AGGREGATE_TIME_MIN)
    return _request(site, folder, 1, parameters | _one_task(site, cpus=1) | _after(after))


def _one_task(site: Site, cpus: int) -> dict[str, Any]:
    return {
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        "srun_args": [f"--cpus-per-task={cpus}", *site.step_args],
    }


def _teardown(site: Site, root: Path) -> list[str]:
    one = ["--overlap", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--cpus-per-task=1"]
    srun = shlex.join(["srun", *one, *site.step_args])
    ask = f"{srun} {_python(site)} -m lenshpc.launch.requeue"
    return REQUEUE.format(ask=ask, root=shlex.quote(str(root))).splitlines()


def _python(site: Site) -> str:
    return site.interpreter or shlex.quote(sys.executable)


def _after(job_ids: str | None) -> dict[str, Any]:
    # not afterok: that never fires once an element has failed, even if it succeeds later
    return {"dependency": f"afterany:{job_ids}"} if job_ids else {}


def _common(name: str, site: Site, mem_gb: float, time_min: int) -> dict[str, Any]:
    return {
        "job_name": name,
        "time": time_min,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "wckey": None,  # submitit's default key is refused where keys are enforced
        "stderr_to_stdout": True,
        "comment": f"lenshpc {name}",
        "additional_parameters": {"mem": f"{round(mem_gb * 1024)}M", **site.options},
    }


def _request(site: Site, folder: Path, num_elements: int, parameters: dict[str, Any]) -> JobRequest:
    # The link first: it is what tells a job that began from one never sent, and a site's own lines
    # may fail.
    setup = [LINK.format(folder=shlex.quote(str(folder))), *site.setup]
    given = {key: value for key, value in parameters.items() if value is not None}
    return JobRequest(
        folder=folder,
        python=_python(site),
        num_elements=num_elements,
        # wckey again, since the filter drops None: submitit must be told None, or it sets a key of
        # its own.
        parameters={**given, "setup": setup, "wckey": None},
    )


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
    submission.set_timeout(request.parameters["time"], max_num_timeout=3)
    submission.dump(pickled)
    # Named after the token until sbatch has given an id: SLURM shows this name, and `settle` looks
    # for it.
    script.write_text(request.script(), encoding="utf-8")
    job_id = slurm.sbatch(script, pickled.name, inherited=sending.inherited)
    # Only a nicety for people, and for follow-ups: the job runs the copy that SLURM took.
    script.rename(request.folder / f"{job_id}_submission.sh")
    return job_id


def start_local(
    folder: Path, gpus: Sequence[int], num_tasks: int, call: Call, *arguments: Any
) -> Any:
    """Start a call as `num_tasks` processes of this machine that see only `gpus`; return the job.

    submitit's local executor has no queue: the caller decides when.
    """
    from submitit.local.local import LocalExecutor

    executor = LocalExecutor(folder)
    executor.update_parameters(
        tasks_per_node=num_tasks,
        gpus_per_node=len(gpus),
        visible_gpus=tuple(gpus),
        timeout_min=60 * 24 * 365,  # the default is two minutes
        stderr_to_stdout=True,
    )
    return executor.submit(call, *arguments)


def terminate_local(job: Any) -> None:
    """Have a local job's processes save and end; submitit's `cancel` kills them after a second."""
    job._process.send_signal(signal.SIGTERM)  # its controller passes it on


def log_paths(folder: Path, job_id: str) -> list[Path]:
    """Return the logs of a job (`123`, `123_4` or a local process), one a task, by rank."""
    # no glob: a folder holds the files of thousands of members
    ranks = (folder / f"{job_id}_{rank}_log.out" for rank in itertools.count())
    return list(itertools.takewhile(Path.is_file, ranks))
