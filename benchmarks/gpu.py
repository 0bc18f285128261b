"""Measure one GPU in at most ten minutes: images/s, utilisation, share of the card's peak.

For each network: the bare step, the engine's own on one batch that lies on the device, in five
ways to compute; then the whole way, a member as a job trains it, and the way of a notebook:
DataLoader over .npy files, albumentations, a plain loop. Without a GPU only `--toy` makes sense.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import Any

import albumentations
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from measure import Table, machine, scratch
from members import write_plan
from noise import make_store
from torch.utils.data import DataLoader, Dataset

from lenshpc.data.fold import open_fold
from lenshpc.engine.cards import find_gpu
from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.distributed import Process, device_name
from lenshpc.engine.load import build_task
from lenshpc.engine.loop import GivenUp
from lenshpc.engine.member import run_member
from lenshpc.engine.monitor import open_gpu
from lenshpc.engine.signals import Signals
from lenshpc.engine.strategy import choose_strategy
from lenshpc.engine.switches import set_switches
from lenshpc.engine.throughput import StepCounter, find_peak
from lenshpc.registry import Task
from lenshpc.run.plan import Member
from lenshpc.run.planning import PlannedRun, plan_run
from lenshpc.run.recipe import Recipe
from lenshpc.run.sections import Train
from lenshpc.store import open_store

NUM_FILES = 2048  # of the notebook's folder; it goes round them
EPOCHS = 3  # of the whole way, the first uncounted
OUT = Path(__file__).parents[1] / "docs" / "gpu"
MINUTES = 10


def list_variants(half: str) -> dict[str, dict[str, Any]]:
    """Return the ways to compute, as keys of `train`; `half` is the card's 16-bit type."""
    return {
        "fp32": {"tf32": False, "channels_last": False},
        "TF32": {"channels_last": False},
        half: {"precision": half, "channels_last": False},
        f"{half}, channels_last": {"precision": half, "channels_last": True},
        f"{half}, channels_last, compiled": {
            "precision": half,
            "channels_last": True,
            "compile": "default",
        },
    }


def find_half(device: torch.device) -> str:
    """Return the 16-bit type in which a device multiplies: V100 and T4 have no bf16."""
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
    return "fp16" if old else "bf16"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, its task, and images of what size and number."""

    title: str
    task: str
    network: str
    side: int
    channels: int = 1
    batch: int
    num: int
    method: dict[str, Any] = field(default_factory=dict)


BOTH = ["nonlens", "lens"]  # so that the masked autoencoder learns from all rows
UNET = {"width": 128}
CASES = (
    Case(
        title="resnet18 at 64 px",
        task="lens-finding",
        network="resnet18",
        side=64,
        channels=3,
        batch=256,
        num=50_000,
    ),
    Case(
        title="resnet18 at 64 px, batches of 32",
        task="lens-finding",
        network="resnet18",
        side=64,
        channels=3,
        batch=32,
        num=20_000,
    ),
    Case(
        title="convnextv2_tiny at 224 px",
        task="lens-finding",
        network="convnextv2_tiny",
        side=224,
        channels=3,
        batch=128,
        num=5000,
    ),
    Case(
        title="U-Net at 64 px",
        task="diffusion",
        network="unet",
        side=64,
        batch=64,
        num=10_000,
        method=UNET,
    ),
    Case(
        title="U-Net at 128 px",
        task="diffusion",
        network="unet",
        side=128,
        batch=16,
        num=2500,
        method=UNET,
    ),
    Case(
        title="masked autoencoder at 64 px",
        task="foundation",
        network="mae_vit",
        side=64,
        batch=256,
        num=50_000,
        method={"classes": BOTH},
    ),
)
TOY_UNET = {"width": 8, "multipliers": [1, 1], "blocks": 1}
TOY_VIT = {"patch": 8, "width": 12, "depth": 1, "heads": 3}
TOYS = (
    Case(
        title="a small ResNet",
        task="lens-finding",
        network="test_resnet",
        side=32,
        channels=3,
        batch=4,
        num=40,
    ),
    Case(
        title="a small U-Net",
        task="diffusion",
        network="unet",
        side=16,
        batch=4,
        num=40,
        method=TOY_UNET,
    ),
    Case(
        title="a small masked autoencoder",
        task="foundation",
        network="mae_vit",
        side=16,
        batch=4,
        num=40,
        method={
            "classes": BOTH,
            "vit": TOY_VIT,
            "decoder_width": 12,
            "decoder_depth": 1,
        },
    ),
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line: a case, how it was computed, and what came of it."""

    case: str
    how: str
    images_per_s: float
    tflops: float
    peak_share: float | None
    busy: float | None = None

    @property
    def row(self) -> list[str]:
        """Return it as a row of a table."""
        shown = (f"{self.images_per_s:.0f}", f"{self.tflops:.3g}")
        return [self.case, self.how, *shown, _percent(self.peak_share), _percent(self.busy)]


def _percent(part: float | None) -> str:
    return "–" if part is None else f"{part:.1%}"


def plan(case: Case, folder: Path, train: dict[str, Any], device: torch.device) -> PlannedRun:
    """Return the planned run of a case, computed in one of the ways, and write it."""
    recipe = Recipe(
        name=f"gpu{len(list(folder.iterdir()))}",
        task=case.task,
        models=(case.network,),
        folds=1,
        method=case.method,
        train={"epochs": EPOCHS, "batch_size": case.batch, "lr": 1e-4, **train},
        resources={"gpus_per_node": int(device.type != "cpu")},
    )
    planned = plan_run(recipe, open_store(folder / "store"), folder / "runs")
    write_plan(planned)
    return planned


@contextmanager
def open_member(planned: PlannedRun, device: torch.device) -> Iterator[tuple[Task, Member, Any]]:
    """Yield the task of a run's only member, the member, and a batch of its first epoch."""
    member = planned.plan.members[0]
    store = planned.store
    with open_fold(planned.plan, member, planned.splits, store, device) as data:
        task = build_task(planned.paths, planned.plan, member, store, data)
        with closing(data.training_batches(0, rank=0, world_size=1, done=0)) as batches:
            batch = next(batches)
        yield task, member, {**batch, "progress": torch.zeros((), device=device)}


def synchronise(device: torch.device) -> None:
    """Wait until the device has computed all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_steps(step: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return the seconds that a step takes, once those are over which compile and try out."""
    for _ in range(5):
        step()
    synchronise(device)
    began, num_steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            step()
        # Once in ten: a step that waits for the device would not queue the next one.
        synchronise(device)
        num_steps += 10
    return (time.perf_counter() - began) / num_steps


def measure_step(planned: PlannedRun, device: torch.device, seconds: float) -> tuple[float, float]:
    """Return the images a second of the engine's step on one batch, and its FLOP an image."""
    recipe = planned.plan.recipe
    with set_switches(recipe.train, device), open_member(planned, device) as (task, member, batch):
        torch.manual_seed(0)
        model = task.build_model(member.network)
        counter = StepCounter(task, model, recipe.train, device)
        strategy = choose_strategy(recipe, task, model, Process())
        step_s = time_steps(lambda: strategy.step(batch), device, seconds)
        # After the steps: what a task places on the device at its first one must have values.
        flops = counter.count(batch)
    return len(batch["image"]) / step_s, flops / len(batch["image"])


def measure_whole(planned: PlannedRun, device: torch.device) -> tuple[float, float | None]:
    """Return the images a second of a member's training, and the GPU's busy share.

    All of an epoch counts, checkpoint included, but the validation.
    """
    stamps: list[tuple[float, dict[str, float]]] = []

    def look(progress: MemberProgress) -> bool:
        stamps.append((time.perf_counter(), dict(progress.history[-1])))
        return len(stamps) == EPOCHS

    with sample_busy(device) as samples, suppress(GivenUp):
        run_member(planned.paths, 0, Signals(), look)
    lines = [line for _, line in stamps[1:]]
    dev = planned.splits[planned.splits["split"] == "dev"]
    batch_size = planned.plan.recipe.train.batch_size
    num_steps = int((dev["fold"] != 0).sum()) // batch_size
    validating_s = sum(line["seconds"] - num_steps * line["step_s"] for line in lines)
    seconds = stamps[-1][0] - stamps[0][0] - validating_s
    return len(lines) * num_steps * batch_size / seconds, mean(samples) if samples else None


@contextmanager
def sample_busy(device: torch.device) -> Iterator[list[float]]:
    """Yield a list that grows by how busy the GPU is, until the block ends."""
    samples: list[float] = []
    ended, sample = threading.Event(), open_gpu(find_gpu(device))

    def watch() -> None:
        while not ended.wait(0.2):
            if (busy := sample().busy) is not None:
                samples.append(busy)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield samples
    ended.set()
    thread.join()


class Files(Dataset[Any]):
    """Loose .npy files, flipped and turned by albumentations, as notebooks have them."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.iterdir())
        flips = [albumentations.HorizontalFlip(), albumentations.VerticalFlip()]
        self._change = albumentations.Compose(
            [*flips, albumentations.RandomRotate90(), ToTensorV2()]
        )

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int, int]:
        """Return image, label and number."""
        image = np.load(self._files[row]).transpose(1, 2, 0)
        return self._change(image=image)["image"], row % 2, row


def write_files(case: Case, folder: Path, num: int) -> Path:
    """Write images as .npy files, of which every 64th is another; return their folder."""
    folder.mkdir()
    rng, shape = np.random.default_rng(0), (case.channels, case.side, case.side)
    for at in range(num):
        if at < 64:
            np.save(folder / f"{at:05d}.npy", rng.random(shape, np.float32))
        else:
            os.link(folder / f"{at % 64:05d}.npy", folder / f"{at:05d}.npy")
    return folder


def measure_notebook(
    planned: PlannedRun,
    files: Path,
    device: torch.device,
    seconds: float,
    dtype: torch.dtype | None,
) -> float:
    """Return the images a second of a plain loop over a DataLoader, with the same loss."""
    recipe = planned.plan.recipe
    workers = min(8, len(os.sched_getaffinity(0)))
    loader = DataLoader(
        Files(files),
        recipe.train.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    with open_member(planned, device) as (task, member, _):
        model = task.build_model(member.network).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        loaded = (one for _ in cycle([0]) for one in loader)
        total, progress = 0.0, torch.zeros((), device=device)

        def step() -> None:
            nonlocal total
            image, label, row = (one.to(device) for one in next(loaded))
            batch: Any = {"image": image, "label": label, "row": row}
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = task.training_step(model, {**batch, "phase": 0, "progress": progress})[
                    "loss"
                ]
            loss.backward()
            optimizer.step()
            total += loss.item()

        return recipe.train.batch_size / time_steps(step, device, seconds)


def measure_case(
    case: Case, folder: Path, device: torch.device, seconds: float, *, compiled: bool
) -> Iterator[Measured]:
    """Yield the lines of a case, the bare steps first."""
    make_store(folder / "store", case.num, case.side, [f"c{at}" for at in range(case.channels)])
    files = write_files(case, folder / "files", min(NUM_FILES, 8 * case.batch))
    half, flops = find_half(device), 0.0

    def line(how: str, rate: float, train: dict[str, Any], busy: float | None = None) -> Measured:
        peak = find_peak(device_name(device), Train(**train))
        tflops = rate * flops / 1e12
        share = None if peak is None else tflops / peak
        return Measured(
            case=case.title, how=how, images_per_s=rate, tflops=tflops, peak_share=share, busy=busy
        )

    variants = list_variants(half)
    for how, train in variants.items():
        if compiled or "compile" not in train:
            rate, flops = measure_step(plan(case, folder, train, device), device, seconds)
            yield line(f"bare step, {how}", rate, train)
    whole = f"{half}, channels_last"
    planned = plan(case, folder, variants[whole], device)
    rate, busy = measure_whole(planned, device)
    yield line(f"whole way, {whole}", rate, variants[whole], busy)
    for how, train in (("fp32", variants["TF32"]), (half, variants[half])):
        dtype = getattr(torch, "float16" if half == "fp16" else "bfloat16")
        autocast = None if how == "fp32" else dtype
        rate = measure_notebook(planned, files, device, seconds, autocast)
        yield line(f"notebook, {how}", rate, train)


def compare(lines: list[Measured]) -> Table:
    """Return the table of ratios, a row a case."""
    rates = {(one.case, one.how): one.images_per_s for one in lines}
    rows = []
    for (case, how), rate in rates.items():
        if how.startswith("whole way, "):
            variant = how.removeprefix("whole way, ")
            half, _, _ = variant.partition(",")
            others = (f"bare step, {variant}", "notebook, fp32", f"notebook, {half}")
            rows.append([case, *(f"{rate / rates[case, other]:.3f}" for other in others)])
    return Table("Whole way ÷ another", ("", "bare step", "notebook", "notebook, 16 bit"), rows)


def main() -> None:
    """Measure, print, and write Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="tiny networks, on a CPU too")
    parser.add_argument("--seconds", type=float, default=3, help="of a measurement (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the result (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where stores are written")
    asked = parser.parse_args()
    device = Process().device
    if device.type == "cpu":
        torch.set_num_threads(1)
        if not asked.toy:
            raise SystemExit("no GPU here; python benchmarks/gpu.py --toy runs on a CPU")
    began, lines = time.perf_counter(), list[Measured]()
    for case in TOYS if asked.toy else CASES:
        if time.perf_counter() - began > 60 * MINUTES:
            print(f"{case.title} is left out: {MINUTES} minutes are over")
            continue
        with scratch(asked.folder) as folder:
            # A toy compiles nothing: that alone takes longer than all else.
            measured = measure_case(case, folder, device, asked.seconds, compiled=not asked.toy)
            for one in measured:
                print(" | ".join(one.row), flush=True)
                lines.append(one)
    facts = {
        "card": device_name(device),
        **machine(("lenshpc", "torch", "timm")),
        "seconds": f"{time.perf_counter() - began:.0f}",
    }
    write(asked.out, facts, lines)


def write(folder: Path, facts: dict[str, str], lines: list[Measured]) -> None:
    """Write the tables and what they are made of, by the card's name."""
    folder.mkdir(parents=True, exist_ok=True)
    name = facts["card"].replace(" ", "-").lower()
    header = ("", "how", "images/s", "TFLOP/s", "share of peak", "GPU busy")
    tables = [Table(f"{facts['card']}", header, [one.row for one in lines]), compare(lines)]
    told = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    text = "\n\n".join(["# One GPU, measured", told, *map(str, tables)])
    (folder / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")
    content = json.dumps({**facts, "lines": [asdict(one) for one in lines]}, indent=1)
    (folder / f"{name}.json").write_text(f"{content}\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
