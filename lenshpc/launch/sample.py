"""Send the drawing of samples to a cluster: an array of jobs that share out the shards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lenshpc.launch import executor, snapshot
from lenshpc.launch.executor import Sending
from lenshpc.launch.sites import Site
from lenshpc.paths import RunPaths
from lenshpc.plan import Member, Plan
from lenshpc.samples import Samples

Draw = Callable[[str, int, int, int, int], None]


def send_samples(
    run: RunPaths,
    plan: Plan,
    member: Member,
    samples: Samples,
    site: Site,
    *,
    seed: int,
    num_tasks: int,
    draw: Draw,
) -> dict[str, Any]:
    """Send what is not drawn yet, one GPU a task; safe to repeat.

    Task t of T draws the shards t, t + T, …. Returns the tasks sent and the id of their job.
    """
    folder = run.root / ".samples.slurm"  # beside the members', whose jobs `status` reads
    folder.mkdir(mode=0o700, exist_ok=True)
    code = snapshot.read(folder / "code")
    code.keep()
    tasks = sorted({shard % num_tasks for shard in samples.missing()})
    job = ""
    if tasks:
        request = executor.sampling_request(plan, code.before(site), folder, len(tasks))
        job = executor.submit_array(
            request, Sending(), draw, run.root, tasks, num_tasks, member.index, seed
        )
    return {"tasks": tasks, "job": job, "samples": str(samples.path), "logs": str(folder)}
