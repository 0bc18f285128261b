"""Send predictions to a cluster: an array that shares out the parts, then a job that joins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenshpc.launch import executor
from lenshpc.launch.shards import jobs_folder, send_join, send_shares
from lenshpc.launch.sites import Site
from lenshpc.run.sections import Resources


@dataclass(frozen=True)
class PredictCalls:
    """The functions that the jobs run; they live above this floor and are handed down."""

    predict: Callable[[str, int, int], None]
    join: Callable[[str], None]


def send_predictions(
    root: Path,
    name: str,
    size: Resources,
    missing: Sequence[int],
    site: Site,
    *,
    array_size: int,
    calls: PredictCalls,
) -> dict[str, Any]:
    """Send the parts that an output folder lacks, one GPU an element; safe to repeat.

    Returns the elements sent, the id of their job and that of the joining job.
    """
    folder = root / ".slurm"
    site = jobs_folder(folder, site)
    title = f"predict-{name}"
    elements, job = send_shares(
        missing,
        array_size,
        lambda num: executor.inference_request(title, size, site, folder, num),
        calls.predict,
        root,
    )
    return {
        "elements": elements,
        "job": job,
        "join": send_join(title, site, folder, job, calls.join, root),
        "predictions": str(root),
        "logs": str(folder),
    }
