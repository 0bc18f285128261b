"""Which GPU a rank has, by its UUID; and that no two ranks have the same one."""

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch._C._distributed_c10d import Store

from lenshpc.errors import LaunchError, printable

NO_FAULT = "none"


def find_gpu(device: torch.device) -> str:
    """Return the UUID by which NVML knows a device; "" of the CPU.

    Never a number: NVML counts all GPUs of the node by bus, CUDA those that it may see by speed.
    """
    if device.type != "cuda":
        return ""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    name = visible[device.index or 0].strip() if (device.index or 0) < len(visible) else ""
    # CUDA tells the UUID of a whole GPU, and not that of the slice which it uses.
    return name if name.startswith("MIG-") else f"GPU-{_properties(device).uuid}"


def _properties(device: torch.device) -> Any:
    return torch.cuda.get_device_properties(device)


def refuse_shared_gpus(store: Store, rank: int, world_size: int, gpu: str) -> None:
    """Raise LaunchError on every rank where two have the same GPU; "" is none.

    Before NCCL begins, which stops then in words of its own, and not on all ranks.
    """
    store.set(f"gpu/{rank}", gpu or f"none of {rank}")
    if rank == 0:  # alone: each asking for all would be a million questions of a thousand ranks
        gpus = [store.get(f"gpu/{other}").decode() for other in range(world_size)]
        store.set("gpu/fault", describe_shared(gpus) or NO_FAULT)
    fault = store.get("gpu/fault").decode()
    if fault != NO_FAULT:
        raise LaunchError(printable(fault))


def describe_shared(gpus: Sequence[str]) -> str:
    """Return what is wrong with the ranks' GPUs; nothing where each has its own."""
    ranks = defaultdict(list)
    for rank, gpu in enumerate(gpus):
        ranks[gpu].append(str(rank))
    shared = {gpu: found for gpu, found in ranks.items() if len(found) > 1}
    if not shared:
        return ""
    gpu, found = next(iter(shared.items()))
    return (
        f"ranks {' and '.join(found)} have the same GPU, {gpu}, and NCCL wants one for each of "
        f"the {len(gpus)}; there are {len(ranks)}: submit again with --gpus-per-node no larger "
        "than a node has"
    )
