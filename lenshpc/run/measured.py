"""What each rank of an attempt was seen to use: one small file a rank, replaced while it runs.

A rank writes its own alone. The job's events, by which it is requeued, are left to one writer:
lines that several nodes append to one file of a network file system may overwrite each other.
"""

from collections.abc import Mapping, Sequence

from lenshpc.config import Frozen
from lenshpc.errors import DataError
from lenshpc.run.paths import RunPaths
from lenshpc.run.records import read_record


class Measured(Frozen):
    """What a rank has used in the `seconds` since its process began; None was not measured.

    `cpu_s` and `memory_bytes` are of the process and its children; `updated` is in seconds since
    1970. `gpu_busy` is the mean part of the time in which its GPU computed. Memory is the most
    that was held at a time, on the GPU by whoever computes there. `tflops` is what the steps of the
    last epoch computed in a second, `peak_tflops` what its kind of GPU does at most; rank 0 knows.
    """

    job: str
    restart: int
    rank: int
    node: str
    updated: float
    seconds: float
    cpu_s: float
    memory_bytes: int
    gpu_busy: float | None = None
    gpu_busy_peak: float | None = None
    gpu_memory_bytes: int | None = None
    gpu_memory_total_bytes: int | None = None
    tflops: float | None = None
    peak_tflops: float | None = None


def read_measured(run: RunPaths) -> Mapping[str, Sequence[Measured]]:
    """Return job → what the ranks of its attempts have measured.

    A file that is damaged measures nothing.
    """
    found: dict[str, list[Measured]] = {}
    for path in run.list_measured():
        try:
            one = read_record(Measured, path)
        except (DataError, FileNotFoundError):
            continue
        found.setdefault(one.job, []).append(one)
    return found
