"""The one file that knows submitit: sbatch text, job arrays, single jobs, local processes."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenshpc.errors import LaunchError
from lenshpc.launch.sites import Site
from lenshpc.plan import Plan

Call = Callable[..., None]  # a module-level function of the installed package

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
        count = self.num_elements if self.num_elements > 1 else None  # one element is a plain job
        text: str = _make_sbatch_string(
            command=command, folder=self.folder, map_count=count, **self.parameters
        )
        return text


def member_request(plan: Plan, site: Site, folder: Path, num_elements: int) -> JobRequest:
    """Return the request of the members' array: one srun task a GPU."""
    size = plan.recipe.resources
    cpus = site.cpus_per_gpu or size.cpus_per_gpu
    mem_gb = (site.mem_gb_per_gpu or size.mem_gb_per_gpu) * size.gpus_per_node
    parameters = _common(plan.run_name, site, mem_gb, size.time_min) | {
        "nodes": size.nodes,
        "ntasks_per_node": size.gpus_per_node,
        "gpus_per_node": size.gpus_per_node,
        "cpus_per_task": cpus,
        "array_parallelism": site.max_parallel,
        # a dead rank ends the step; srun of SLURM 22.05-23.02 does not inherit --cpus-per-task
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}", *site.srun_args],
    }
    return _request(site, folder, num_elements, parameters)


def aggregate_request(plan: Plan, site: Site, folder: Path, after: str | None) -> JobRequest:
    """Return the request of the aggregation: one process, no GPU, after all members have ended."""
    parameters = _common(
        f"{plan.run_name}-report", site, AGGREGATE_MEM_GB, AGGREGATE_TIME_MIN
    ) | _one_task(site, cpus=1)
    return _request(site, folder, 1, parameters | _after(after))


def conversion_request(
    name: str, site: Site, folder: Path, num_tasks: int, cpus: int
) -> JobRequest:
    """Return the request of an array that converts images: a task a node, no GPU."""
    parameters = _common(name, site, CONVERT_MEM_GB * cpus, CONVERT_TIME_MIN)
    parallel = {"array_parallelism": site.max_parallel}
    return _request(site, folder, num_tasks, parameters | _one_task(site, cpus) | parallel)


def joining_request(name: str, site: Site, folder: Path, after: str) -> JobRequest:
    """Return the request of the job that joins what an array has converted."""
    parameters = _common(f"{name}-join", site, AGGREGATE_MEM_GB, AGGREGATE_TIME_MIN)
    return _request(site, folder, 1, parameters | _one_task(site, cpus=1) | _after(after))


def _one_task(site: Site, cpus: int) -> dict[str, Any]:
    return {
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        "srun_args": [f"--cpus-per-task={cpus}", *site.srun_args],
    }


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
        "setup": list(site.setup) or None,
        "comment": f"lenshpc {name}",
        "additional_parameters": {"mem": f"{round(mem_gb * 1024)}M", **site.sbatch},
    }


def _request(site: Site, folder: Path, num_elements: int, parameters: dict[str, Any]) -> JobRequest:
    given = {key: value for key, value in parameters.items() if value is not None}
    return JobRequest(
        folder=folder,
        python=site.python or shlex.quote(sys.executable),
        num_elements=num_elements,
        parameters={**given, "wckey": None},
    )


def submit_array(
    request: JobRequest, call: Call, root: Path, indices: Sequence[int], *more: int
) -> str:
    """Submit `call(root, index, *more)` for every index as one array; return its job id."""
    executor = _slurm_executor(request)
    same = ([value] * len(indices) for value in more)
    jobs = _submitted(executor.map_array, call, [str(root)] * len(indices), indices, *same)
    return str(jobs[0].job_id).partition("_")[0]


def submit_single(request: JobRequest, call: Call, root: Path) -> str:
    """Submit `call(root)`; return its job id."""
    return str(_submitted(_slurm_executor(request).submit, call, str(root)).job_id)


def _submitted(submit: Any, *arguments: Any) -> Any:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return submit(*arguments)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        reason = " ".join(str(error).split())
        raise LaunchError(f"sbatch refused: {reason}; look at the script with --dry-run") from error


def _slurm_executor(request: JobRequest) -> Any:
    from submitit.slurm.slurm import SlurmExecutor

    try:
        executor = SlurmExecutor(request.folder, python=request.python)
    except RuntimeError as error:
        raise LaunchError(
            "there is no srun here; submit from a login node of the cluster, or use --site local"
        ) from error
    executor.update_parameters(**request.parameters)
    return executor


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


def log_paths(folder: Path, job_id: str) -> list[Path]:
    """Return the logs of a job (`123`, `123_4` or a local process), one a task."""
    return sorted(folder.glob(f"{job_id}_*_log.out"))
