"""What attempts asked for beside what they used: figures, a line of words, and a warning."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lenshpc.launch.accounting import Allocation
from lenshpc.run.gate import compact
from lenshpc.run.measured import Measured
from lenshpc.run.plan import Plan
from lenshpc.run.sections import Resources

GB = 1024**3  # as in resources.mem_gb_per_gpu and to SLURM
LEAST_BUSY = 0.3


@dataclass(frozen=True, kw_only=True)
class Use:
    """What all processes of a member together asked for and used; None was not measured.

    `cpus` is the mean number of busy cores, `memory_gb` the peak. `gpu_busy` is the part of the
    time in which GPUs computed, a mean over them, `gpu_busy_peak` the largest of a sample.
    `gpu_memory_gb` is the peak of the fullest GPU, which has `gpu_memory_total_gb`. `tflops` is
    what one process computed, `peak_share` its part of what its kind of GPU does at most.
    """

    gpus_asked: int
    cpus_asked: int
    memory_gb_asked: float
    cpus: float | None = None
    memory_gb: float | None = None
    gpu_busy: float | None = None
    gpu_busy_peak: float | None = None
    gpu_memory_gb: float | None = None
    gpu_memory_total_gb: float | None = None
    tflops: float | None = None
    peak_share: float | None = None


def judge(one: Allocation, ranks: Sequence[Measured], resources: Resources) -> Use:
    """Return the use of an attempt: CPUs and memory by accounting, else as its ranks measured.

    The GPU's is theirs. What a rank lacks, as one that was killed early, makes a sum unknown.
    """
    size = resources.world_size
    asked_gb = size * resources.mem_gb_per_gpu
    whole = len({rank.rank for rank in ranks}) == size
    seconds = max((rank.seconds for rank in ranks), default=0)
    cpus = sum(rank.cpu_s for rank in ranks) / seconds if whole and seconds else None
    memory = sum(rank.memory_bytes for rank in ranks) if whole else None
    fullest = max(ranks, key=lambda rank: rank.gpu_memory_bytes or 0, default=None)
    return Use(
        gpus_asked=one.num_gpus,
        cpus_asked=one.cpus_asked or size * resources.cpus_per_gpu,
        memory_gb_asked=_gb(one.memory_asked_bytes) or asked_gb,
        cpus=one.cpu_s / one.elapsed_s if one.cpu_s and one.elapsed_s else cpus,
        memory_gb=_gb(one.memory_bytes or memory),
        gpu_busy=_mean([(1.0, rank.gpu_busy) for rank in ranks]),
        gpu_busy_peak=_peak(rank.gpu_busy_peak for rank in ranks),
        gpu_memory_gb=_gb(fullest.gpu_memory_bytes) if fullest else None,
        gpu_memory_total_gb=_gb(fullest.gpu_memory_total_bytes) if fullest else None,
        tflops=_peak(rank.tflops for rank in ranks),
        peak_share=_peak(
            rank.tflops / rank.peak_tflops for rank in ranks if rank.tflops and rank.peak_tflops
        ),
    )


def combine(uses: Sequence[tuple[float, Use]]) -> Use | None:
    """Return the use of several attempts with their seconds; None of none."""
    if not uses:
        return None
    fullest = max((use for _, use in uses), key=lambda use: use.gpu_memory_gb or 0)
    return Use(
        gpus_asked=max(use.gpus_asked for _, use in uses),
        cpus_asked=max(use.cpus_asked for _, use in uses),
        memory_gb_asked=max(use.memory_gb_asked for _, use in uses),
        cpus=_mean([(seconds, use.cpus) for seconds, use in uses]),
        memory_gb=_peak(use.memory_gb for _, use in uses),
        gpu_busy=_mean([(seconds, use.gpu_busy) for seconds, use in uses]),
        gpu_busy_peak=_peak(use.gpu_busy_peak for _, use in uses),
        gpu_memory_gb=fullest.gpu_memory_gb,
        gpu_memory_total_gb=fullest.gpu_memory_total_gb,
        tflops=_mean([(seconds, use.tflops) for seconds, use in uses]),
        peak_share=_mean([(seconds, use.peak_share) for seconds, use in uses]),
    )


def _gb(num_bytes: float | None) -> float | None:
    return None if num_bytes is None else num_bytes / GB


def _mean(values: Sequence[tuple[float, float | None]]) -> float | None:
    """Return the mean by weight of what is known; None where nothing is."""
    known = [(weight, value) for weight, value in values if value is not None]
    total = sum(weight for weight, _ in known)
    return sum(weight * value for weight, value in known) / total if total else None


def _peak(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def format_use(use: Use) -> str:
    """Return `4 CPUs asked, 1.1 used; 16 GB asked, 3.0 used; GPU 92 % busy, 11 of 80 GB`."""
    noun = "CPU" if use.cpus_asked == 1 else "CPUs"
    parts = [
        f"{use.cpus_asked} {noun} asked, {_format_used(use.cpus)}",
        f"{use.memory_gb_asked:.4g} GB asked, {_format_used(use.memory_gb)}",
        *([_format_gpus(use)] if use.gpus_asked else []),
    ]
    return "; ".join(parts)


def _format_used(value: float | None) -> str:
    return "not measured" if value is None else f"{_short(value)} used"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _format_gpus(use: Use) -> str:
    noun = "GPU" if use.gpus_asked == 1 else f"{use.gpus_asked} GPUs"
    told = [] if use.gpu_busy is None else [f"{use.gpu_busy:.0%}".replace("%", " % busy")]
    if use.gpu_memory_gb is not None and use.gpu_memory_total_gb is not None:
        told.append(f"{_short(use.gpu_memory_gb)} of {_short(use.gpu_memory_total_gb)} GB")
    if use.tflops is not None:
        share = "" if use.peak_share is None else f" ({use.peak_share:.0%} of the peak)"
        told.append(f"{_short(use.tflops)} TFLOP/s{share}".replace("%", " %"))
    return f"{noun} {', '.join(told) or 'not measured'}"


def warn(plan: Plan, uses: Mapping[int, Use | None]) -> list[str]:
    """Return what to do about members whose GPUs were busy for less than 30 % of their time."""
    busy = {member: use.gpu_busy for member, use in uses.items() if use}
    idle = {member: part for member, part in busy.items() if part is not None and part < LEAST_BUSY}
    if not idle:
        return []
    low, high = f"{min(idle.values()):.0%}"[:-1], f"{max(idle.values()):.0%}"[:-1]
    span = low if low == high else f"{low} to {high}"
    who = f"{'member' if len(idle) == 1 else 'members'} {compact(sorted(idle))}"
    recipe = plan.recipe
    advice = [
        "a larger train.batch_size",
        "more resources.cpus_per_gpu",
        *(["data.loading=resident"] if recipe.data.loading != "resident" else []),
        *(["fewer resources.gpus_per_node"] if recipe.resources.gpus_per_node > 1 else []),
    ]
    return [
        f"the GPUs of {who} computed for {span} % of the time only; what may help: "
        f"{', '.join(advice[:-1])} or {advice[-1]}"
    ]
