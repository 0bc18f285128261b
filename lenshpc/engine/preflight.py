"""Measure a node for `lenshpc doctor --preflight`: matrix products, and all-reduce between nodes.

    srun python -m lenshpc.engine.preflight FOLDER SECONDS

A lone process multiplies matrices on each of its GPUs, several reduce over the network; the first
one writes FOLDER/NODES-speed.json.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from lenshpc.engine import distributed
from lenshpc.files import write_json

GPU_SIDE, CPU_SIDE = 8192, 1024
NUM_FLOATS = 1 << 22  # 16 MiB, as the gradients of a small network


def product_tflops(device: torch.device, seconds: float) -> float:
    """Return the speed of square matrix products, in 10^12 operations a second."""
    side = GPU_SIDE if device.type == "cuda" else CPU_SIDE
    matrix = torch.rand(side, side, device=device)
    out = torch.empty_like(matrix)

    def multiply() -> None:
        torch.mm(matrix, matrix, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return 2 * side**3 / _seconds_each(multiply, lambda spent: spent > seconds) / 1e12


def all_reduce_gb_per_s(device: torch.device, seconds: float) -> float:
    """Return the bytes of a tensor that the ranks add up in a second; all stop together."""
    tensor = torch.ones(NUM_FLOATS, device=device)

    def add() -> None:
        dist.all_reduce(tensor)
        tensor.fill_(1.0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def have_all_had_enough(spent: float) -> bool:
        # Agreed upon: clocks differ, and a rank that stops alone leaves the others in the next
        # all-reduce.
        return distributed.mean_over_ranks(torch.tensor(float(spent > seconds), device=device)) > 0

    return tensor.nbytes / _seconds_each(add, have_all_had_enough) / 1e9


def _seconds_each(work: Callable[[], None], is_enough: Callable[[float], bool]) -> float:
    """Return the time that a piece of work takes, after a first one that does not count."""
    # The first call does not count: it allocates, opens connections and picks kernels.
    work()
    began, spent, num = time.monotonic(), 0.0, 0
    while not is_enough(spent):
        work()
        num += 1
        spent = time.monotonic() - began
    return spent / num


def main() -> None:
    """Measure and write."""
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    process = distributed.from_environment({**os.environ, "SUBMITIT_EXECUTOR": "slurm"})
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if process.world_size > 1:
        distributed.start(process, process.world_size, folder / "rendezvous")
        speed = all_reduce_gb_per_s(process.device, seconds)
        distributed.stop()
    else:
        torch.set_num_threads(1)
        each = devices or [torch.device("cpu")]
        speed = min(product_tflops(device, seconds / len(each)) for device in each)
    if process.is_main:
        write_json(folder / f"{os.environ['SLURM_JOB_ID']}-speed.json", {"speed": speed})


if __name__ == "__main__":
    main()
