"""Measure data parallel training on 1, 2 and 4 processes, fit the step model, carry it further.

Every rank has a core of its own while there are enough. The network is the loopback, then a pair of
namespaces whose link is held to a bandwidth (needs root). The tables for GPUs are arithmetic alone.
"""

import argparse
import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, pstdev
from typing import Any

import torch
import torch.distributed as dist
from measure import IMAGE_SHAPE, Table, Target, report, rounds, scratch, spread, target_table
from members import write_plan
from noise import make_store
from stepmodel import (
    Cluster,
    Link,
    Training,
    count_buckets,
    efficiency,
    fit_link,
    fit_overlap,
    ring_s,
    step_s,
)

from lenshpc.engine import distributed
from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.distributed import Process
from lenshpc.engine.load import make_task
from lenshpc.engine.loop import GivenUp
from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.engine.strategy import choose_strategy
from lenshpc.registry import TaskSpec
from lenshpc.run.planning import PlannedRun, plan_run
from lenshpc.run.recipe import Recipe
from lenshpc.store import open_store

FORK = multiprocessing.get_context("fork")
NETWORK, SHARE = "resnet18", 32  # images of a rank in a step
WARM = 2  # steps that are not counted
SIZES = {4096: 200, 2**20: 20, 2**25: 3}  # bytes of an all-reduce → how often it is timed
MBITS = (2000, 1000, 300)  # of the links that are checked
NAMESPACES = ("lenshpc-bench-0", "lenshpc-bench-1")


def run_ranks(work: Callable[[int], Any], num: int, networks: Sequence[str] = ()) -> list[Any]:
    """Return what `work(rank)` gave in a process of its own each, with a core each."""
    results, cores = FORK.SimpleQueue(), sorted(os.sched_getaffinity(0))

    def call(rank: int) -> None:
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
        torch.set_num_threads(1)
        if networks:
            with Path(f"/run/netns/{networks[rank]}").open("rb") as stream:
                assert ctypes.CDLL(None).setns(stream.fileno(), 0) == 0
            os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
        results.put((rank, work(rank)))
        os._exit(0)

    ranks = [FORK.Process(target=call, args=(rank,)) for rank in range(num)]
    for one in ranks:
        one.start()
    found = dict(results.get() for _ in ranks)
    for one in ranks:
        one.join()
    return [found[rank] for rank in range(num)]


def make_recipe(num: int, epochs: int = 1) -> Recipe:
    """Return the recipe of so many processes, each with an equal share of the batch."""
    return Recipe(
        name=f"scaling{num}",
        task="lens-finding",
        models=(NETWORK,),
        folds=1,
        train={"epochs": epochs, "batch_size": SHARE * num, "lr": 1e-4},
        resources={"gpus_per_node": 0, "tasks_per_node": num},
    )


def time_steps(process: Process, num_steps: int) -> list[float]:
    """Return the seconds of so many steps on one batch."""
    recipe = make_recipe(process.world_size)
    spec = TaskSpec(
        settings=recipe.method,
        train=recipe.train,
        classes=("nonlens", "lens"),
        class_counts=(1, 1),
        image_shape=IMAGE_SHAPE,
    )
    task = make_task(recipe.task, spec)
    strategy = choose_strategy(recipe, task, task.build_model(NETWORK), process)
    batch: Any = {"image": torch.rand(SHARE, *IMAGE_SHAPE), "label": torch.arange(SHARE) % 2}
    seconds = []
    for _ in range(WARM + num_steps):
        began = time.perf_counter()
        strategy.step({**batch, "progress": torch.zeros(())})
        seconds.append(time.perf_counter() - began)
    return seconds[WARM:]


def time_alone(_: int, *, num_steps: int) -> tuple[list[float], list[float]]:
    """Return the steps of a process that has no others to wait for."""
    return time_steps(Process(), num_steps), []


def time_together(
    rank: int, *, num: int, folder: Path, near: bool, num_steps: int
) -> tuple[list[float], list[float]]:
    """Return the steps of a rank under DDP, and the seconds of all-reduces of each of SIZES."""
    process = Process(rank=rank, world_size=num, job="1", on_one_node=near)
    distributed.start(process, num, folder)
    seconds = [time_reduce(size, often) for size, often in SIZES.items()]
    steps = time_steps(process, num_steps)
    distributed.barrier()
    distributed.stop()
    return steps, seconds


def time_reduce(size: int, often: int) -> float:
    """Return the seconds of an all-reduce of so many bytes."""
    values = torch.zeros(size // 4)
    dist.all_reduce(values)
    dist.barrier()
    began = time.perf_counter()
    for _ in range(often):
        dist.all_reduce(values)
    return (time.perf_counter() - began) / often


@dataclass(frozen=True)
class Steps:
    """Steps of several ranks: the median and scatter of all, and the link that was fitted."""

    seconds: float
    scatter: float
    link: Link | None = None

    @classmethod
    def of(cls, found: list[tuple[list[float], list[float]]]) -> "Steps":
        """Return what the ranks' answers say."""
        steps = [one for seconds, _ in found for one in seconds]
        reduces = found[0][1]
        link = fit_link(list(map(float, SIZES)), reduces, len(found)) if reduces else None
        return cls(median(steps), pstdev(steps), link)


@contextmanager
def linked(mbit: int) -> Iterator[None]:
    """Have two network namespaces with a link of that bandwidth between them."""

    def run_ip(command: str) -> None:
        subprocess.run(["ip", *command.split()], check=True)

    def remove() -> None:
        for name in NAMESPACES:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    remove()  # what a killed run has left
    try:
        for name in NAMESPACES:
            run_ip(f"netns add {name}")
        first, second = NAMESPACES
        run_ip(f"-n {first} link add eth0 type veth peer name eth0 netns {second}")
        for at, name in enumerate(NAMESPACES):
            run_ip(f"-n {name} addr add 10.77.0.{at + 1}/24 dev eth0")
            run_ip(f"-n {name} link set eth0 up")
            shape = f"tbf rate {mbit}mbit burst 512kb latency 50ms"
            run_ip(f"netns exec {name} tc qdisc add dev eth0 root {shape}")
        yield
    finally:
        remove()


def fit_and_check(folder: Path, num_steps: int) -> list[Table]:
    """Return the tables of steps measured and as the model has them."""
    num_weights = count_weights()
    size = 4.0 * num_weights
    buckets = count_buckets(size)
    work = partial(time_alone, num_steps=num_steps)
    alone = {num: Steps.of(run_ranks(work, num)) for num in (1, 2, 4)}
    gather = partial(time_together, num_steps=num_steps)
    together = {}
    for num in (2, 4):
        here = partial(gather, num=num, folder=folder / f"near{num}", near=True)
        together[num] = Steps.of(run_ranks(here, num))
    link = together[2].link
    assert link is not None
    overlap = fit_overlap(
        together[2].seconds, alone[2].seconds, ring_s(2, size, link, buckets), buckets
    )
    rows = [["1", "–", f"{alone[1].seconds:.3f}", f"{alone[1].seconds:.3f}", "–"]]

    def predict(num: int, link: Link) -> float:
        training = Training(
            compute_s=alone[num].seconds,
            gradient_bytes=size,
            overlap=overlap,
            jitter_s=alone[num].scatter,
        )
        return step_s(training, num, ring_s(num, size, link, buckets))

    def row(num: int, way: str, measured: Steps, link: Link) -> list[str]:
        modelled = predict(num, link)
        off = f"{modelled / measured.seconds - 1:+.1%}"
        return [str(num), way, f"{measured.seconds:.3f}", f"{modelled:.3f}", off]

    for num, found in together.items():
        assert found.link is not None
        rows.append(row(num, "loopback", found, found.link))
    for mbit in MBITS if os.geteuid() == 0 and shutil.which("tc") else ():
        with linked(mbit):
            there = partial(gather, num=2, folder=folder / f"far{mbit}", near=False)
            found = Steps.of(run_ranks(there, 2, NAMESPACES))
        way = Link(bytes_per_s=mbit * 1e6 / 8, latency_s=link.latency_s)
        rows.append(row(2, f"{mbit} Mbit/s", found, way))
    fitted = [
        ["loopback, 2 ranks: GB/s", f"{link.bytes_per_s / 1e9:.2f}"],
        ["loopback, 2 ranks: latency, µs", f"{link.latency_s * 1e6:.0f}"],
        ["overlap with the backward pass", f"{overlap:.2f}"],
        ["scatter of a step", f"{alone[2].scatter / alone[2].seconds:.1%}"],
        *(
            [f"a step of {num} beside each other, without gradients, s", f"{one.seconds:.3f}"]
            for num, one in alone.items()
        ),
    ]
    title = f"Steps of {NETWORK}, {SHARE} images a rank, {size / 1e6:.0f} MB of gradients"
    header = ("ranks", "network", "s a step", "the model's", "off by")
    return [Table(title, header, rows), Table("Fitted", ("", ""), fitted)]


def count_weights() -> int:
    """Return the number of the network's weights."""
    recipe = make_recipe(1)
    spec = TaskSpec(
        settings=recipe.method,
        train=recipe.train,
        classes=("nonlens", "lens"),
        class_counts=(1, 1),
        image_shape=IMAGE_SHAPE,
    )
    model = make_task(recipe.task, spec).build_model(NETWORK)
    return sum(one.numel() for one in model.parameters())


def train_whole(rank: int, *, planned: PlannedRun, num: int) -> float:
    """Return the images a second of a member's second epoch, its validation and checkpoint too."""
    values = {"EXECUTOR": "local", "LOCAL_JOB_ID": "1", "LOCAL_NTASKS": num}
    values |= {"LOCAL_GLOBALID": rank, "LOCAL_LOCALID": rank}
    os.environ.update({f"SUBMITIT_{name}": str(value) for name, value in values.items()})
    stamps: list[float] = []

    def look(_: MemberProgress) -> bool:
        stamps.append(time.perf_counter())
        return len(stamps) == 2

    with suppress(GivenUp):
        run_member(planned.paths, 0, Signals(), look)
    dev = planned.splits[planned.splits["split"] == "dev"]
    # Rank 0 alone decides, and has the stamps.
    return int((dev["fold"] != 0).sum()) / (stamps[-1] - stamps[0]) if stamps else 0.0


def measure_whole(folder: Path, num_images: int, repeats: int) -> tuple[Table, Target]:
    """Return the table of whole trainings on one and two ranks, and what is aimed at."""
    make_store(folder / "store", num_images, 64, ("g", "r", "i"))
    turns = {}
    for num in (1, 2):

        def turn(num: int = num) -> float:
            place = folder / f"runs{time.monotonic_ns()}"
            planned = plan_run(make_recipe(num, epochs=3), open_store(folder / "store"), place)
            write_plan(planned)
            return float(run_ranks(partial(train_whole, planned=planned, num=num), num)[0])

        turns[str(num)] = turn
    found = rounds(turns, repeats)
    one, two = (median(found[name]) for name in ("1", "2"))
    rows = [[name, *spread(rates, digits=1)] for name, rates in found.items()]
    title = f"Whole epochs of {num_images} images of {NETWORK}, {SHARE} images a rank in a step"
    target = Target("two ranks with a core each / one", two / one, 1.8)
    return Table(title, ("ranks", "images/s", "min–max"), rows), target


@dataclass(frozen=True, kw_only=True)
class Size:
    """A network on a GPU: its weights, a step's arithmetic, and how long that takes at least."""

    name: str
    weights: float
    images: int  # of a GPU in a step
    gflop: float  # of an image, forwards and backwards
    floor_ms: float  # kernels that are started one by one


# Weights and arithmetic are counted by torch (docs/scaling.md); the floors are assumed.
NETWORKS = (
    Size(name="resnet18, 64 px", weights=11.2e6, images=32, gflop=0.89, floor_ms=1.0),
    Size(name="resnet18, 64 px", weights=11.2e6, images=1024, gflop=0.89, floor_ms=1.0),
    Size(name="convnextv2_tiny, 224 px", weights=27.9e6, images=128, gflop=26.8, floor_ms=4.0),
    Size(name="U-Net, 64 px", weights=77.5e6, images=64, gflop=157.0, floor_ms=6.0),
    Size(name="ViT-L/16, 224 px", weights=304e6, images=64, gflop=370.0, floor_ms=8.0),
)
CLUSTERS = {
    "8 × H100, NVLink, InfiniBand of 400 Gbit/s a GPU": Cluster(
        gpus_per_node=8,
        inside=Link(bytes_per_s=400e9, latency_s=3.4e-6),
        outside=Link(bytes_per_s=45e9, latency_s=14e-6),
    ),
    "8 × H100, NVLink, Ethernet of 100 Gbit/s a node": Cluster(
        gpus_per_node=8,
        inside=Link(bytes_per_s=400e9, latency_s=3.4e-6),
        outside=Link(bytes_per_s=11e9 / 8, latency_s=30e-6),
    ),
}
PEAK, SHARE_OF_PEAK, OVERLAP, SCATTER = 989e12, 0.3, 0.8, 0.02
NUM_NODES = (1, 2, 8, 32, 128)


def carry_further() -> list[Table]:
    """Return the tables for GPUs: a row a network, a column a number of nodes."""
    return [
        Table(
            f"Efficiency on nodes of {name}",
            ("", "images a GPU", "ms a step", *(f"{num} × 8 GPUs" for num in NUM_NODES)),
            [describe_size(size, cluster) for size in NETWORKS],
        )
        for name, cluster in CLUSTERS.items()
    ]


def describe_size(size: Size, cluster: Cluster) -> list[str]:
    """Return the row of a network."""
    arithmetic_s = size.images * size.gflop * 1e9 / (SHARE_OF_PEAK * PEAK)
    compute_s = max(arithmetic_s, size.floor_ms / 1e3)
    training = Training(
        compute_s=compute_s,
        gradient_bytes=4 * size.weights,
        overlap=OVERLAP,
        jitter_s=SCATTER * compute_s,
    )
    shares = [f"{efficiency(training, num, cluster):.0%}" for num in NUM_NODES]
    return [size.name, str(size.images), f"{1e3 * compute_s:.1f}", *shares]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=800, help="images (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (%(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="to time (%(default)s)")
    parser.add_argument("--only", choices=("whole", "fit", "further"), help="one part")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--folder", type=Path, help="where to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tables: list[Table] = []
    with scratch(asked.folder) as folder:
        if asked.only in (None, "whole"):
            table, target = measure_whole(folder, asked.num, asked.repeats)
            tables += [table, target_table([target])]
        if asked.only in (None, "fit"):
            print("steps", file=sys.stderr)
            tables += fit_and_check(folder, asked.steps)
    if asked.only in (None, "further"):
        tables += carry_further()
    report(tables, as_json=asked.json)


if __name__ == "__main__":
    main()
