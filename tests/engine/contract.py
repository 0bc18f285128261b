"""Steps of every task under every strategy: losses, resuming and predictions, by the same draws.

`python contract.py CASES.json FOLDER` is one rank; rank 0 writes FOLDER/measured.json.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairs_run import write_pairs
from ranks import finish, start_ranks
from spots import write_store

from lenshpc.data.fold import open_fold
from lenshpc.engine import distributed
from lenshpc.engine.load import build_task
from lenshpc.engine.strategy import Strategy, choose_strategy
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import expand
from lenshpc.run.recipe import Recipe
from lenshpc.store import open_store

STEPS, SAVED = 4, 2
VIT = {"patch": 8, "width": 24, "depth": 2, "heads": 2}
PHYSICS = {"pixel_scale_arcsec": 0.25, "curriculum": [0, 0.1]}
# Small networks; all but the anomaly's and the physics' without batch norm.
TASKS: dict[str, dict[str, Any]] = {
    "multiclass": {"models": ["test_vit"], "method": {"loss": "complement"}},
    "lens-finding": {"models": ["test_vit"], "train": {"ema_decay": 0.9, "clip_norm": 0.0}},
    "physics-guided": {"models": ["test_resnet"], "method": {"physics": PHYSICS}},
    "anomaly": {"models": ["conv_ae"], "method": {"normal": "class0"}},
    "foundation": {
        "models": ["mae_vit"],
        "method": {"vit": VIT, "decoder_width": 24, "decoder_heads": 2},
    },
    "diffusion": {
        "models": ["unet"],
        "method": {"width": 8, "multipliers": [1, 2], "blocks": 1, "pixel_range": [-1, 2]},
    },
    "super-resolution": {"models": ["edsr"], "method": {"width": 8, "blocks": 2}},
}
STRATEGIES: dict[str, tuple[int, dict[str, Any]]] = {
    "single": (1, {"strategy": "single"}),
    "ddp": (2, {"strategy": "ddp"}),
    "zero1": (2, {"strategy": "deepspeed", "zero_stage": 1}),
    "zero2": (2, {"strategy": "deepspeed", "zero_stage": 2}),
    "zero3": (2, {"strategy": "deepspeed", "zero_stage": 3}),
}


def write_stores(folder: Path) -> None:
    """Write the stores that the tasks learn from."""
    splits = ["train"] * 64 + ["test"] * 8
    write_store(folder / "spots", np.arange(72) % 2, splits)
    write_store(folder / "shades", np.arange(72) % 3, splits)
    write_pairs(folder / "pairs", num_train=64, num_test=8)


def make_recipe(task: str, strategy: str, train: dict[str, Any]) -> Recipe:
    """Return a task's recipe under a strategy, with further settings of training."""
    world_size, chosen = STRATEGIES[strategy]
    given = TASKS[task]
    common = {"batch_size": 8, "lr": 1e-4, "clip_norm": 0.5, "scheduler": "constant"}
    return Recipe.model_validate(
        {
            "name": "contract",
            "task": task,
            "folds": 4,
            "resources": {"gpus_per_node": 0, "tasks_per_node": world_size},
            **given,
            "train": {**common, **given.get("train", {}), **chosen, **train},
        }
    )


def run_cases(folder: Path, cases: list[tuple[str, str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return what each case gives; all of them need equally many ranks."""
    (world_size,) = {STRATEGIES[strategy][0] for _, strategy, _ in cases}
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, __file__, str(folder / "cases.json"), str(folder)]
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    ranks: list[subprocess.Popen[str]] = start_ranks(command, world_size)
    finish(ranks)
    found: list[dict[str, Any]] = json.loads((folder / "measured.json").read_text())
    return found


def measure(recipe: Recipe, folder: Path, process: distributed.Process) -> dict[str, Any]:
    """Return losses of some steps, those after a resumption, and predictions of some rows."""
    stores = {"super-resolution": "pairs", "multiclass": "shades"}
    store = open_store(folder / stores.get(recipe.task, "spots"))
    plan, splits = expand(recipe, store)
    member, run = plan.members[0], RunPaths(folder / plan.run_name)
    saved = folder / f"saved-{plan.run_name}"
    if process.is_main:
        saved.mkdir()
    distributed.barrier()
    ranks = {"rank": process.rank, "world_size": process.world_size}
    with open_fold(plan, member, splits, store, process.device) as data:
        task = build_task(run, plan, member, store, data)

        def make() -> Strategy:
            torch.manual_seed(member.seed)
            model = task.build_model(member.network)
            return choose_strategy(recipe, task, model, process)

        def train(strategy: Strategy, first: int) -> list[float]:
            losses = []
            for at, batch in enumerate(data.training_batches(0, done=first, **ranks), start=first):
                if at == SAVED and first == 0:
                    # As a checkpoint has it: batch norm's statistics differ by rank.
                    state = {"of": strategy.state(), "own": dict(strategy.module.named_buffers())}
                    torch.save(state, saved / f"{process.rank}.pt")
                torch.manual_seed(at * 100 + process.rank)
                progress = torch.tensor(at / STEPS)
                loss = strategy.step({**batch, "progress": progress})
                losses.append(distributed.mean_over_ranks(loss.double().clone()))
                if at == STEPS - 1:
                    break
            return losses

        strategy = make()
        losses = train(strategy, first=0)
        predicted = _predict(strategy, data)
        distributed.barrier()
        resumed = make()
        paths = [saved / f"{rank}.pt" for rank in range(process.world_size)]
        parts = [torch.load(path, weights_only=True) for path in paths]
        resumed.load(part["of"] for part in parts)
        for name, buffer in resumed.module.named_buffers():
            buffer.copy_(parts[process.rank]["own"][name])
        again = train(resumed, first=SAVED)
        with strategy.weights() as weights:
            found = sorted(weights)
        names = sorted(task.build_model(member.network).state_dict())
        return {
            "losses": losses,
            "resumed": again,
            "predicted": predicted,
            "resumed_predicted": _predict(resumed, data),
            "same_names": process.is_main and found == names,
        }


def _predict(strategy: Strategy, data: Any) -> list[float]:
    (batch,) = data.source.batches([data.val_rows[:8]])
    found = strategy.predict(batch)
    return [float(value) for column in found.values() for value in column.flatten().float()]


def main() -> None:
    """Measure all cases as one rank."""
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    process = distributed.from_environment()
    distributed.start(process, process.world_size, folder / f"meet-{process.job}")
    found = []
    for task, strategy, train in cases:
        torch.compiler.reset()
        found.append(measure(make_recipe(task, strategy, train), folder, process))
        distributed.barrier()
    if process.is_main:
        (folder / "measured.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.stop()


if __name__ == "__main__":
    main()
