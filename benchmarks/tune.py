"""How soon the sampler of `lenshpc tune` finds what random search finds with twice the trials.

    python benchmarks/tune.py [--seeds 10] [--store demo/store]

With the store of `make demo`, a grid of learning rates and weight decays is trained on it once, and
what lies between its points is interpolated: that is one more surface. Prints, for each surface,
the median over the seeds of the best value: TPE after 30 trials beside random search after 60. Then
what a trial costs beside its trainings: the milliseconds from its start to that of its first
training, and from the end of its last one to its own, where other trials have ended before.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
from measure import scratch
from noise import make_store
from scipy.interpolate import RegularGridInterpolator

from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.errors import LensHpcError
from lenshpc.files import read_sealed, write_sealed
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import load_plan, save_plan
from lenshpc.run.planning import plan_run
from lenshpc.run.recipe import Recipe
from lenshpc.run.search import Search
from lenshpc.store import open_store
from lenshpc.tuning.boards import begin, make_sampler
from lenshpc.tuning.element import run_element
from lenshpc.tuning.points import draw
from lenshpc.tuning.study import Study, StudySettings, plan_study, write_study

Surface = Callable[[Mapping[str, Any]], float]  # the smallest value is best
TRIALS = {"tpe": 30, "random": 60}
NUM_ROWS, NUM_TIMED = 1000, 60
HARTMANN_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
HARTMANN_C = np.array([1.0, 1.2, 3.0, 3.2])


def branin(values: Mapping[str, Any]) -> float:
    """Return Branin's function, whose three minima are 0.397887."""
    x, y = values["x"], values["y"]
    bowl = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return float(bowl**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


def hartmann(values: Mapping[str, Any]) -> float:
    """Return Hartmann's function of six numbers, whose minimum is -3.32237."""
    point = np.array([values[f"x{at}"] for at in range(6)])
    return -float(HARTMANN_C @ np.exp(-(HARTMANN_A * (point - HARTMANN_P) ** 2).sum(axis=1)))


def valley(values: Mapping[str, Any]) -> float:
    """Return an error rate that is least at lr 3e-3 and weight decay 1e-3, and bad beyond 3e-2."""
    lr, decay = math.log10(values["lr"] / 3e-3), math.log10(values["decay"] / 1e-3)
    return 0.05 + 0.04 * lr**2 + 0.01 * (decay + 0.5 * lr) ** 2 + (0.4 if lr > 1 else 0.0)


SURFACES: dict[str, tuple[Surface, dict[str, Any]]] = {
    "Branin": (branin, {"x": {"float": [-5, 10]}, "y": {"float": [0, 15]}}),
    "Hartmann-6": (hartmann, {f"x{at}": {"float": [0, 1]} for at in range(6)}),
    "valley": (valley, {"lr": {"log": [1e-6, 1.0]}, "decay": {"log": [1e-7, 1.0]}}),
}


DEMO_KEYS = {"lr": {"log": [1e-5, 0.3]}, "decay": {"log": [1e-6, 1.0]}}


def tabulate_demo(store: Path, folder: Path) -> Surface:
    """Return 1 - AUC of the demo's images by learning rate and weight decay, of 8 x 4 trainings."""
    numbers = {"lr": 8, "decay": 4}
    axes = {key: np.geomspace(*DEMO_KEYS[key]["log"], number) for key, number in numbers.items()}
    table = [
        [_train_once(store, folder, lr, decay) for decay in axes["decay"]] for lr in axes["lr"]
    ]
    between = RegularGridInterpolator(tuple(map(np.log, axes.values())), np.array(table))
    return lambda values: float(between(np.log([values["lr"], values["decay"]]))[0])


def _train_once(store: Path, folder: Path, lr: float, decay: float) -> float:
    train = {"epochs": 3, "batch_size": 16, "lr": lr, "weight_decay": decay, "warmup_epochs": 0}
    recipe = Recipe(
        name="grid",
        task="lens-finding",
        models=("test_resnet",),
        folds=3,
        only_folds=(0,),
        train=train,
        resources={"gpus_per_node": 0},
    )
    planned = plan_run(recipe, open_store(store), folder)
    save_plan(planned.paths, planned.plan, planned.splits)
    planned.paths.slurm.mkdir(mode=0o700)
    try:
        run_member(planned.paths, 0, Signals(), lambda _: False)
    except LensHpcError:  # the loss is no number any more
        return 0.5
    paths = planned.paths.member(planned.plan.members[0].name)
    return 1 - float(read_sealed(paths.progress)["best_metric"])


def find_least(surface: Surface, search: Search) -> float:
    """Return the least value that a search comes to."""
    study = optuna.create_study(sampler=make_sampler(search, 0))
    for _ in range(search.trials):
        trial = study.ask()
        study.tell(trial, surface(draw(trial, search)))
    return study.best_value


def time_trials(folder: Path, num_trials: int) -> list[tuple[float, float]]:
    """Return the seconds before and after the trainings of each trial of a study."""
    make_store(folder / "store", NUM_ROWS, 32, ("grey",))
    keys = {"train.lr": {"log": [1e-5, 1e-2]}, "train.weight_decay": {"log": [1e-6, 1e-1]}}
    recipe = Recipe(
        name="overhead",
        task="lens-finding",
        models=("resnet18",),
        folds=5,
        search={"keys": keys, "trials": num_trials, "pruner": "none"},
    )
    study, planned = plan_study(recipe, open_store(folder / "store"), folder / "runs")
    base = planned.plan.fingerprint()
    write_study(study, planned, StudySettings(recipe=recipe, base=base, runs=folder / "runs"))
    begin(study)
    return [_time_trial(study, element) for element in range(num_trials)]


def _time_trial(study: Study, element: int) -> tuple[float, float]:
    marks = [time.perf_counter()]

    def train(run: RunPaths, index: int, *_: object) -> None:
        marks.append(time.perf_counter())
        plan = load_plan(run)
        member = plan.members[index]
        line = {"epoch": 0, "val_auc": 0.9, "seconds": 1.0}
        progress = MemberProgress(
            fingerprint=plan.member_fingerprint(member), world_size=1, history=(line,)
        )
        paths = run.member(member.name)
        paths.root.mkdir(parents=True)
        write_sealed(paths.progress, progress.model_dump(mode="json"))
        marks.append(time.perf_counter())

    run_element(study, element, Signals(), train)
    return marks[1] - marks[0], time.perf_counter() - marks[-1]


def main() -> None:
    """Compare the samplers on all surfaces, then time trials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--store", type=Path, help="of the demo")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    surfaces = dict(SURFACES)
    with scratch(None) as folder:
        if asked.store:
            surfaces["demo"] = (tabulate_demo(asked.store, folder), DEMO_KEYS)
    for name, (surface, keys) in surfaces.items():
        found = {
            sampler: median(
                find_least(surface, Search(keys=keys, trials=trials, sampler=sampler, seed=seed))
                for seed in range(asked.seeds)
            )
            for sampler, trials in TRIALS.items()
        }
        told = ", ".join(f"{one} {found[one]:.4f} in {TRIALS[one]}" for one in TRIALS)
        print(f"{name}: {told}; {'yes' if found['tpe'] <= found['random'] else 'NO'}")
    with scratch(None) as folder:
        timed = time_trials(folder, NUM_TIMED)
    for first in (1, NUM_TIMED - 10):
        before, after = (1e3 * median(one) for one in zip(*timed[first : first + 10], strict=True))
        print(
            f"after {first} trials: {before:.0f} ms before a trial's trainings, {after:.0f} after"
        )


if __name__ == "__main__":
    main()
