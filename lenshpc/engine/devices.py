"""Which GPUs a rank sees: settled before torch looks, since CUDA reads it once a process."""

from collections.abc import MutableMapping

from lenshpc.run.sections import Resources

CUDA, HIP = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"


def restrict(environment: MutableMapping[str, str], local_rank: int, resources: Resources) -> None:
    """Have a rank see no GPU if its member asks for none, and of MIG slices its own alone.

    To be called before anything asks torch for a GPU; other GPUs stay as they are.
    """
    if not resources.gpus_per_node:
        environment.update({CUDA: "-1", HIP: "-1"})
    elif CUDA in environment:
        environment[CUDA] = own_slice(environment[CUDA], local_rank)


def own_slice(visible: str, local_rank: int) -> str:
    """Return what a rank's CUDA_VISIBLE_DEVICES has to be for it to use its share of `visible`.

    CUDA shows a process one MIG slice, the first, and no GPU beside it; whole GPUs it shows all,
    and NCCL wants to see its neighbours'.
    """
    entries = [entry.strip() for entry in visible.split(",")]
    if not any(entry.startswith("MIG-") for entry in entries):
        return visible
    return entries[local_rank % len(entries)]
