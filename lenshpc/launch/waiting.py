"""Why a job waits, in words: SLURM's reasons, and what this machine's queue waits for."""

from pathlib import Path

from lenshpc.launch.finding import format_names
from lenshpc.launch.local import read_queue
from lenshpc.launch.slots import list_holders, local_slots
from lenshpc.run.origin import origin_of
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan

# Beginnings of SLURM's reasons; the first that fits counts, so a longer one stands before its like.
REASONS = {
    "Priority": "jobs of higher priority go first",
    "Resources": "waits for free nodes",
    "JobArrayTaskLimit": "max_parallel of the site profile: as many members are running already",
    "DependencyNeverSatisfied": "what it waits for failed, so it never starts; cancel it, then "
    "resume",
    "Dependency": "waits for other jobs to end",
    "BeginTime": "starts at a later time, as a requeued job does",
    "ReqNodeNotAvail": "a node that it needs is down, drained or reserved",
    "Reservation": "waits for its reservation to start",
    "JobHeldUser": "held by you; release it with: scontrol release JOB",
    "JobHeldAdmin": "held by the site's administrators; ask them",
    "launch failed requeued held": "failed to start and is held; release: scontrol release JOB",
    "PartitionTimeLimit": "its time limit is above the partition's; lower resources.time_min",
    "PartitionNodeLimit": "it asks for more nodes than the partition allows",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "QOSMax": "a limit of the QOS on your jobs is reached",
    "QOSGrp": "a limit of the QOS on all its jobs is reached",
    "QOS": "a limit of the QOS is reached",
    "AssocMax": "a limit of your account on your jobs is reached",
    "Assoc": "a limit of your account on all its jobs is reached",
    "MaxGRESPerAccount": "your account uses as many GPUs as it may",
    "Licenses": "waits for a license",
}


def explain(reason: str) -> str:
    """Return SLURM's reason of a job that waits in words, with its own word after them.

    A reason that is not known here is returned as it is.
    """
    words = next((told for word, told in REASONS.items() if reason.startswith(word)), "")
    return f"{words} ({reason})" if words else reason


def explain_local(run: RunPaths, plan: Plan) -> str:
    """Return what a member waits for in the queue of this machine, which all runs share."""
    origin = origin_of(plan.recipe)
    if origin is not None and read_queue(origin).pid:
        return f"waits for run {origin.name}, from whose weights it starts"
    on_gpus = bool(plan.recipe.resources.gpus_per_node)
    slot = local_slots(1, on_gpus=on_gpus)[0].kind
    kind = {"gpu": "GPU", "core": "core"}[slot]
    others = [folder.parent for folder in list_holders(slot) if folder.parent != run.root]
    if not others:
        return f"waits for a free {kind} of this machine"
    told = format_names([_format_run(root, run) for root in others])
    return f"waits: the {kind}s of this machine are in use by {told}"


def _format_run(root: Path, run: RunPaths) -> str:
    """Return the name of a run's folder, and where it lies if not beside `run`."""
    where = "" if root.parent == run.root.parent else f" in {root.parent}"
    return f"run {root.name}{where}"
