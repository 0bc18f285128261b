"""Time diffusion models of one size: training and DDIM sampling, lenshpc and its rivals.

On a GPU where there is one, else on one core. What is not installed in the rivals' environment is
left out, and said.
"""

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from measure import (
    DIFFUSION_PYTHON,
    Cost,
    Table,
    Target,
    report,
    rounds,
    served,
    spread,
    target_table,
)

OURS = "lenshpc"
PACKAGES = {"lucidrains": "denoising_diffusion_pytorch", "diffusers": "diffusers"}
STEPS = {"train": 4, "sample": 10}  # of a turn
SIDE, BATCH, REPEATS = 64, 16, 3


def contestants() -> dict[str, Path | str]:
    """Return name → Python of each that can run here."""
    found: dict[str, Path | str] = {OURS: sys.executable}
    for name, package in PACKAGES.items():
        for python in (DIFFUSION_PYTHON, Path(sys.executable)):
            if python.exists() and _imports(python, package):
                found[name] = python
                break
        else:
            print(f"{name} is left out: {package} is not installed", file=sys.stderr)
    return found


def _imports(python: Path, package: str) -> bool:
    seek = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", seek], check=False).returncode == 0


def measured(what: str, side: int, batch: int, repeats: int) -> dict[str, list[float]]:
    """Return the images a second of each round."""
    num_images = batch * STEPS[what] if what == "train" else batch
    line = f"{what} {STEPS[what]}"
    with ExitStack() as held:
        turns: dict[str, Callable[[], Cost]] = {}
        for name, python in contestants().items():
            server = served(python, "generators.py", name, side, batch, num_images=num_images)
            turns[name] = partial(held.enter_context(server), line)
            turns[name]()  # imports, first kernels
        costs = rounds(turns, repeats)
    return {name: [num_images / cost.seconds for cost in found] for name, found in costs.items()}


def main() -> None:
    """Measure and print."""
    side, batch, repeats = (*map(int, sys.argv[1:]), *(SIDE, BATCH, REPEATS)[len(sys.argv) - 1 :])
    tables, targets = [], []
    for what, unit in (("train", "training"), ("sample", f"{STEPS['sample']} DDIM steps")):
        found = measured(what, side, batch, repeats)
        rows = [[name, *spread(values)] for name, values in found.items()]
        title = f"Images/s, {unit}: 1×{side}×{side}, batch {batch}"
        tables.append(Table(title, ("", "images/s", "min–max"), rows))
        targets += [
            Target(f"{what}: lenshpc / {name}", median(found[OURS]) / median(values), 1)
            for name, values in found.items()
            if name != OURS
        ]
    report([*tables, target_table(targets)], as_json=False)


if __name__ == "__main__":
    main()
