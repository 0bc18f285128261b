"""Time whole trainings beside their bare step, Lightning and Accelerate, on the same cores.

The same network and images, an epoch a turn: batches, augmentation, steps, validation, checkpoint.
A step computes on one core; the second, where there is one, is left to what prepares batches. The
bare step is plain torch on one batch that lies there. A contestant is stopped between its turns.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from images import make_images
from measure import (
    BATCH_SIZE,
    IMAGE_SHAPE,
    TRAINING_PYTHON,
    Cost,
    Table,
    Target,
    report,
    rounds,
    scratch,
    served,
    spread,
    target_table,
)

from lenshpc.prep.convert import convert
from lenshpc.prep.dataset import load_dataset

OURS, BARE, RIVALS = "lenshpc", "bare", ("Lightning", "Accelerate")
LAYER = f"{Path(__file__).parent / 'layer.py'}:Layer"
UNIT = 320  # images of which 288 train, whole steps, and 32 validate


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network on so many units of images, on some cores; `targets` are ratios aimed at."""

    title: str
    network: str
    cores: str
    units: int
    targets: dict[str, float]


CASES = (
    Case(
        title="resnet18 (11 M weights), two cores",
        network="resnet18",
        cores="0,1",
        units=4,
        targets={BARE: 0.97, "Lightning": 0.98, "Accelerate": 0.98},
    ),
    Case(
        title="test_resnet (0.4 M weights), two cores",
        network="test_resnet",
        cores="0,1",
        units=20,
        targets={BARE: 0.95, "Lightning": 0.98, "Accelerate": 0.98},
    ),
    Case(
        title="test_resnet (0.4 M weights), one core",
        network="test_resnet",
        cores="0",
        units=20,
        targets={"Lightning": 1.3, "Accelerate": 1.3},
    ),
    Case(
        title="one layer (25,000 weights), two cores",
        network=LAYER,
        cores="0,1",
        units=20,
        targets={"Lightning": 3, "Accelerate": 3},
    ),
)


def make_data(folder: Path, num: int) -> Path:
    """Write `num` images as .npy files, and a store of the same and two of test."""
    root = make_images(folder / "images", num)
    for name in ("test_nonlenses", "test_lenses"):
        (root / name).mkdir()
        np.save(root / name / "0.npy", np.random.default_rng(len(name)).random(IMAGE_SHAPE, "f4"))
    convert(load_dataset("lens_finding"), root, folder / "store")
    return folder


def contestants() -> dict[str, Path | str]:
    """Return name → Python of each; the rivals are left out where they are not installed."""
    found: dict[str, Path | str] = {BARE: sys.executable, OURS: sys.executable}
    if TRAINING_PYTHON.exists():
        return found | dict.fromkeys(RIVALS, TRAINING_PYTHON)
    print(f"Lightning and Accelerate are left out: make {TRAINING_PYTHON}", file=sys.stderr)
    return found


def measure(case: Case, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Return the images a second that each trains, of each round."""
    num_files = UNIT * case.units
    num_images = num_files * 9 // 10 // BATCH_SIZE * BATCH_SIZE
    workers = case.cores.count(",")  # a core that does not compute has one
    with ExitStack() as held:
        turns: dict[str, Callable[[], Cost]] = {}
        for name, python in contestants().items():
            argv = (python, "trainers.py", name, case.network, folder / str(num_files), workers)
            server = served(*argv, num_images=num_images, cores=case.cores)
            turns[name] = partial(held.enter_context(server), "epoch")
            turns[name]()  # imports, first kernels, the images in memory
        costs = rounds(turns, repeats)
    return {name: [num_images / cost.seconds for cost in found] for name, found in costs.items()}


def tabulate(case: Case, found: dict[str, list[float]]) -> Table:
    """Return the table of a case."""
    bare = median(found[BARE])
    rows = [
        [name, *spread(one, digits=0), f"{median(one) / bare:.3f}"] for name, one in found.items()
    ]
    images = UNIT * case.units * 9 // 10
    title = f"{case.title}: epochs of {images} images, batches of {BATCH_SIZE}"
    return Table(title, ("", "images/s", "min–max", "÷ bare step"), rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="rounds (%(default)s)")
    parser.add_argument("--share", type=float, default=1, help="of the images of each case")
    parser.add_argument("--cases", default="0,1,2,3", help="which (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--folder", type=Path, help="where to write")
    asked = parser.parse_args()
    cases = [
        replace(CASES[int(at)], units=max(1, round(CASES[int(at)].units * asked.share)))
        for at in asked.cases.split(",")
    ]
    tables, targets = [], []
    with scratch(asked.folder) as folder:
        for num in {UNIT * case.units for case in cases}:
            (folder / str(num)).mkdir()
            make_data(folder / str(num), num)
        for case in cases:
            found = measure(case, folder, asked.repeats)
            tables.append(tabulate(case, found))
            targets += [
                Target(
                    f"{case.title}: lenshpc / {name}",
                    median(found[OURS]) / median(found[name]),
                    least,
                )
                for name, least in case.targets.items()
                if name in found
            ]
    report([*tables, target_table(targets)], as_json=asked.json)


if __name__ == "__main__":
    main()
