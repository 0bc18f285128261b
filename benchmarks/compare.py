"""Time `lenshpc compare` on two runs whose members' predictions are drawn, without any training.

Each run has two models and two folds, so six lines are compared. The whole command is timed, its
start and its reading of hashed files included.
"""

import json
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from measure import Table, arguments, command, report, rounds, scratch
from noise import make_store

from lenshpc.files import write_json
from lenshpc.run.completion import hash_outputs, mark_done
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, expand, save_plan
from lenshpc.run.recipe import Recipe
from lenshpc.store import open_store

LENSHPC = str(Path(sys.executable).with_name("lenshpc"))
FACTS = {"best_epoch": 0, "epochs": 1, "seconds": 60.0, "num_processes": 1, "device": "cpu"}
NUM_TRAIN = 20_000


def make_run(folder: Path, store: Path, name: str, separation: float) -> None:
    """Write a run that is done; logits favour the true class by `separation`."""
    recipe = Recipe(name=name, task="lens-finding", models=("resnet18", "resnet34"), folds=2)
    plan, splits = expand(recipe, open_store(store))
    paths = RunPaths(folder / "runs" / name)
    save_plan(paths, plan, splits)
    write_json(paths.provenance, {})
    for member in plan.members:
        _finish(paths, plan, splits, member, separation)


def _finish(
    paths: RunPaths, plan: Plan, splits: pd.DataFrame, member: Member, separation: float
) -> None:
    asked = splits[(splits["split"] == "test") | (splits["fold"] == member.fold)]
    rng = np.random.default_rng([member.index, round(100 * separation)])
    odds = rng.logistic(size=len(asked)) + separation * (asked["label"].to_numpy() - 0.5)
    logp = -np.logaddexp(0, np.stack([odds, -odds], axis=1)).astype(np.float32)
    frame = pd.DataFrame({"row": asked["row"], "id": asked["id"]})
    frame["split"] = np.where(asked["split"] == "test", "test", "oof")
    files = paths.member(member.name)
    files.root.mkdir(parents=True)
    frame.assign(logp_0=logp[:, 0], logp_1=logp[:, 1]).to_parquet(files.predictions, index=False)
    files.weights.write_bytes(b"weights")
    files.metrics.write_text(json.dumps({"epoch": 0, "val_loss": 0.5}) + "\n")
    mark_done(paths, plan, member, hash_outputs(files), {**FACTS, "strategy": "single"})


def main() -> None:
    """Print the seconds of the command, for terminals and with its page."""
    asked = arguments(__doc__ or "", num=100_000, repeats=3)
    with scratch(asked.folder) as folder:
        splits = np.repeat(["train", "test"], [NUM_TRAIN, asked.num])
        make_store(folder / "store", len(splits), 1, ("g",), splits)
        for name, separation in (("one", 2.0), ("other", 2.05)):
            make_run(folder, folder / "store", name, separation)
        runs = [str(folder / "runs" / name) for name in ("one", "other")]
        page = str(folder / "page.html")
        compare = command(LENSHPC, "compare", *runs)
        times = rounds(
            {"table": lambda: compare("--json"), "page": lambda: compare(f"--report={page}")},
            asked.repeats,
        )
        lines = [
            [what, f"{median(one.seconds for one in some):.1f}", f"{some[0].cpu_seconds:.1f}"]
            for what, some in times.items()
        ]
        title = f"lenshpc compare of two runs, {asked.num:,} test rows"
        report([Table(title, ["", "seconds", "CPU seconds"], lines)], as_json=asked.json)


if __name__ == "__main__":
    main()
