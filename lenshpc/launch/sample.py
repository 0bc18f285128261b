"""Send the drawing of samples to a cluster: an array of jobs that share out the shards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lenshpc.launch import executor
from lenshpc.launch.shards import jobs_folder, send_shares
from lenshpc.launch.sites import Site
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.samples import Samples

Draw = Callable[[str, int, int, int, int], None]


def send_samples(
    run: RunPaths,
    plan: Plan,
    member: Member,
    samples: Samples,
    site: Site,
    *,
    seed: int,
    array_size: int,
    draw: Draw,
) -> dict[str, Any]:
    """Send what is not drawn yet, one GPU an element; safe to repeat. Return elements and job."""
    folder = run.root / ".samples.slurm"  # beside the members', whose jobs `status` reads
    site = jobs_folder(folder, site)
    elements, job = send_shares(
        samples.missing(),
        array_size,
        lambda num: executor.inference_request(
            f"{plan.run_name}-sample", plan.recipe.resources, site, folder, num
        ),
        draw,
        run.root,
        member.index,
        seed,
    )
    return {"elements": elements, "job": job, "samples": str(samples.path), "logs": str(folder)}
