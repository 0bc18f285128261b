"""Measure what rows cost: joining a draft, opening a store, planning, a rank's start.

The store is one of noise, (1,8,8) float32. Each act has a process of its own, whose largest
resident memory is given beside what it had once all was imported.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure import (
    Table,
    Target,
    arguments,
    cpu_seconds,
    measure_act,
    report,
    run_act,
    scratch,
    target_table,
)

SIDE = 8


def write(place: Path) -> Callable[[], None]:
    """Write the shards of a draft."""
    from noise import make_draft

    def act() -> None:
        draft = make_draft(place / "store", int((place / "num").read_text()), SIDE, ("g",))
        (place / "draft").write_text(str(draft.folder))

    return act


def join(place: Path) -> Callable[[], None]:
    """Make the store of the draft."""
    from lenshpc.store import open_draft

    return lambda: open_draft(Path((place / "draft").read_text())).finish()


def open_it(place: Path) -> Callable[[], None]:
    """Open the store."""
    from lenshpc.store import open_store

    def act() -> None:
        open_store(place / "store")

    return act


def plan(place: Path) -> Callable[[], None]:
    """Plan five folds and write the run, as `submit` does."""
    from lenshpc.run.plan import save_plan
    from lenshpc.run.planning import plan_run
    from lenshpc.run.recipe import Recipe
    from lenshpc.store import open_store

    recipe = Recipe(name="rows", task="lens-finding", models=("test_resnet",), folds=5)

    def act() -> None:
        run = plan_run(recipe, open_store(place / "store"), place / "runs")
        save_plan(run.paths, run.plan, run.splits)
        (place / "run").write_text(str(run.paths.root))

    return act


def begin_rank(place: Path) -> Callable[[], None]:
    """Do what the only rank of a member does until its first batch."""
    import torch

    from lenshpc.data.fold import open_fold
    from lenshpc.run.manifest import NUMBERS
    from lenshpc.run.paths import RunPaths
    from lenshpc.run.plan import load_plan, load_splits, open_planned_store

    def act() -> None:
        run = RunPaths(Path((place / "run").read_text()))
        made = load_plan(run)
        store, splits = open_planned_store(made), load_splits(run, made, NUMBERS)
        with open_fold(made, made.members[0], splits, store, torch.device("cpu")) as data:
            next(data.training_batches(0, rank=0, world_size=1, done=0))

    return act


ACTS = {
    "write the shards": write,
    "join the draft": join,
    "open": open_it,
    "plan five folds, write the run": plan,
    "a rank until its first batch": begin_rank,
}


def time_dry_run(place: Path) -> tuple[float, float]:
    """Return the seconds of `lenshpc submit --dry-run`, its start included, and of processors."""
    lenshpc = str(Path(sys.executable).with_name("lenshpc"))
    asked = ["--models", "test_resnet", "--runs", str(place / "dry"), "--dry-run"]
    cpu_began, began = cpu_seconds(), time.perf_counter()
    subprocess.run(
        [lenshpc, "submit", "--task", "lens-finding", "--data", str(place / "store"), *asked],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began, cpu_seconds() - cpu_began


def main() -> None:
    """Measure and print; `--num` is the number of rows."""
    wanted = arguments("Measure what rows of a store cost.", num=1_000_000, repeats=1)
    with scratch(wanted.folder) as folder:
        (folder / "num").write_text(str(wanted.num))
        took = {name: measure_act(__file__, name, folder) for name in ACTS}
        dry_run_s, dry_run_cpu_s = time_dry_run(folder)
        size_gb = sum(f.stat().st_size for f in (folder / "store").rglob("*") if f.is_file()) / 1e9
        shutil.rmtree(folder / "store")
    lines = [
        [
            name,
            f"{one.seconds:.2f}",
            f"{one.cpu_seconds:.2f}",
            f"{one.peak_mib:.0f}",
            f"{one.peak_mib - one.before_mib:.0f}",
        ]
        for name, one in took.items()
    ]
    told = "`lenshpc submit --dry-run`, start included"
    lines.append([told, f"{dry_run_s:.2f}", f"{dry_run_cpu_s:.2f}", "", ""])
    header = ("", "s", "s of a processor", "peak memory, MiB", "more than before, MiB")
    title = f"{wanted.num:,} rows of (1,8,8), {size_gb:.2f} GB on the disk"
    many = wanted.num / 1e7
    targets = [
        Target("5 s for 10⁷ rows / opening", 5 * many / took["open"].seconds, 1),
        Target("500 MiB / memory of opening", 500 / took["open"].peak_mib, 1),
        Target("1 GiB / memory of joining", 1024 / took["join the draft"].peak_mib, 1),
        Target("30 s for 10⁷ rows / dry run", 30 / dry_run_s, 1),
    ]
    report([Table(title, header, lines), target_table(targets)], as_json=wanted.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--act"]:
        place = Path(sys.argv[3])
        tempfile.tempdir = str(place)  # of the node's copy of the images
        run_act(ACTS[sys.argv[2]](place))
    else:
        main()
