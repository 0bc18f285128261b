"""Time how a run takes over the members that another run has trained.

A run of many members is written as if it were done, with files of the sizes that a small network
leaves; then a run that differs in its ensemble alone looks for them and takes them over. Prints the
seconds of looking, and of taking over with every file hashed.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from measure import Table, scratch
from noise import make_store

from lenshpc.files import sha256
from lenshpc.launch.submit import search
from lenshpc.run.adoption import adopt_members
from lenshpc.run.completion import mark_done
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, save_plan
from lenshpc.run.planning import PlannedRun, plan_run
from lenshpc.run.recipe import Recipe
from lenshpc.store import open_store

FOLDS = 5


def plan(folder: Path, ensemble: str, num_members: int) -> PlannedRun:
    """Return a planned run of so many members on the store of noise."""
    recipe = Recipe(
        name=ensemble,
        task="lens-finding",
        models=("resnet18",),
        folds=FOLDS,
        seeds=tuple(range(num_members // FOLDS)),
        ensemble=ensemble,
    )
    return plan_run(recipe, open_store(folder / "store"), folder / "runs")


def finish(run: RunPaths, plan: Plan, megabytes: float) -> None:
    """Write the files and the mark of every member."""
    rng = np.random.default_rng(0)
    for member in plan.members:
        paths = run.member(member.name)
        paths.root.mkdir(parents=True)
        sizes = {
            paths.weights: int(megabytes * 1e6),
            paths.predictions: 20_000,
            paths.metrics: 3000,
        }
        for path, size in sizes.items():
            path.write_bytes(rng.bytes(size))
        mark_done(run, plan, member, {path: sha256(path) for path in sizes}, {"epochs": 15})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--megabytes", type=float, default=0.1, help="weights of a member")
    asked = parser.parse_args()
    with scratch(None) as folder:
        make_store(folder / "store", 1000, 8, ("grey",))
        first = plan(folder, "mean", asked.members)
        save_plan(first.paths, first.plan, first.splits)
        finish(first.paths, first.plan, asked.megabytes)
        second = plan(folder, "greedy", asked.members)
        save_plan(second.paths, second.plan, second.splits)
        began = time.perf_counter()
        offer = search(second)
        looked = time.perf_counter()
        taken = adopt_members(second.paths, second.plan, offer.found)
        ended = time.perf_counter()
        if len(taken) != asked.members:
            raise SystemExit(f"{len(taken)} of {asked.members} members were taken over")
    print(
        Table(
            "members taken over from another run",
            ("members", "MB of weights each", "looking, s", "taking over, s"),
            [
                (
                    str(asked.members),
                    f"{asked.megabytes:g}",
                    f"{looked - began:.2f}",
                    f"{ended - looked:.2f}",
                )
            ],
        )
    )


if __name__ == "__main__":
    main()
