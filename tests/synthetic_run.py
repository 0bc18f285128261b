"""Make a small run whose members' files are drawn from a known model, without any training."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from stores import write_rows

from lenshpc.files import write_json
from lenshpc.run.completion import hash_outputs, mark_done
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, expand, save_plan
from lenshpc.run.recipe import Recipe
from lenshpc.run.tables import LAYOUT
from lenshpc.store import Pixels, StoreSpec, open_store


@dataclass(frozen=True)
class SyntheticRun:
    """A run directory with its Plan and split manifest."""

    paths: RunPaths
    plan: Plan
    splits: pd.DataFrame

    def predictions(self, index: int) -> pd.DataFrame:
        """Return what a member's predictions.parquet holds."""
        return pd.read_parquet(self.paths.member(self.plan.members[index].name).predictions)

    def finish(self, index: int, frame: pd.DataFrame, layout: int = LAYOUT) -> None:
        """Replace a member's predictions and mark it as done, as the engine would."""
        finish(self.paths, self.plan, self.plan.members[index], frame, layout)


def make_run(
    folder: Path,
    *,
    task: str = "lens-finding",
    classes: tuple[str, ...] = ("nonlens", "lens"),
    models: tuple[str, ...] = ("resnet18", "resnet34"),
    folds: int = 3,
    seeds: tuple[int, ...] = (0,),
    num_train: int = 90,
    num_test: int = 60,
    separation: float = 1.5,
    numbers: dict | None = None,
    sky: int = 0,
    **further: Any,
) -> SyntheticRun:
    """Return a complete run under `folder`/runs over a store at `folder`/store.

    `numbers` has columns of the store beside its labels, a value a row; `sky` is the seed of its
    images; `further` keys are the recipe's.
    """
    store = _write_store(folder / "store", classes, num_train, num_test, numbers or {}, sky)
    recipe = Recipe(name="lens", task=task, models=models, folds=folds, seeds=seeds, **further)
    plan, splits = expand(recipe, open_store(store))
    paths = RunPaths(folder / "runs" / plan.run_name)
    save_plan(paths, plan, splits)
    write_json(paths.provenance, {"command": "lenshpc submit", "git": {"commit": "0" * 40}})
    run = SyntheticRun(paths, plan, splits)
    for member in plan.members:
        run.finish(member.index, _draw(plan, splits, member, separation))
    return run


def finish(
    paths: RunPaths, plan: Plan, member: Member, frame: pd.DataFrame, layout: int = LAYOUT
) -> None:
    """Write a member's files, `done.json` last."""
    files = paths.member(member.name)
    files.root.mkdir(parents=True, exist_ok=True)
    # Not by the engine's own writer, so that what is wrong with a frame reaches its readers.
    table = pa.Table.from_pandas(frame, preserve_index=False)
    told = {**table.schema.metadata, b"lenshpc_layout": str(layout).encode()}
    table = table.replace_schema_metadata(told)
    pq.write_table(table, files.predictions, row_group_size=16, write_page_checksum=True)
    files.weights.write_bytes(b"weights")
    epochs = range(4)
    lines = [
        {
            "epoch": epoch,
            "lr": 1e-4,
            "train_loss": 0.7 * 0.8**epoch,
            "val_loss": 0.7 * 0.85**epoch + 0.01 * member.fold,
            "val_auc": 1 - 0.3 * 0.7**epoch - 0.01 * member.fold,
            "seconds": 1.0,
            "images_per_s": 100.0,
        }
        for epoch in epochs
    ]
    files.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = {
        "mean": [0.0],
        "std": [1.0],
        "best_epoch": 3,
        "best_metric": lines[3]["val_auc"],
        "epochs": 4,
        "seconds": 192.0,
        "num_processes": 1,
        "device": "cpu",
        "strategy": "single",
    }
    mark_done(paths, plan, member, hash_outputs(files), facts)


def _draw(plan: Plan, splits: pd.DataFrame, member: Member, separation: float) -> pd.DataFrame:
    """Return softmax outputs whose logits favour the true class by `separation` deviations."""
    asked = splits[(splits["split"] == "test") | (splits["fold"] == member.fold)]
    labels = asked["label"].to_numpy()
    rng = np.random.default_rng(member.index)
    logits = rng.normal(size=(len(asked), len(plan.classes)))
    logits[np.arange(len(asked)), labels] += separation
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    columns = {f"logp_{k}": logp[:, k].astype(np.float32) for k in range(len(plan.classes))}
    kind = np.where(asked["split"] == "test", "test", "oof")
    return pd.DataFrame({"row": asked["row"], "id": asked["id"], "split": kind, **columns})


def _write_store(
    path: Path,
    classes: tuple[str, ...],
    num_train: int,
    num_test: int,
    numbers: dict,
    sky: int,
) -> Path:
    num_rows = num_train + num_test
    labels = np.arange(num_rows) % len(classes)
    ids = [f"{label}/{at:04d}.npy" for at, label in enumerate(labels)]
    split = np.repeat(["train", "test"], [num_train, num_test])
    groups = [f"{split[at]}/{label}/{at // 8}" for at, label in enumerate(labels)]
    rows = pd.DataFrame({"id": ids, "label": labels, "split": split, "group": groups})
    spec = StoreSpec(
        dataset="lens_finding",
        classes=classes,
        image=Pixels(shape=(1, 4, 4), dtype="float32", channels=("g",)),
        columns=tuple(numbers),
    )
    rng = np.random.default_rng(sky)
    images = rng.normal(size=(num_rows, 1, 4, 4)) + 0.2 * labels[:, None, None, None]
    values = np.stack([*numbers.values()], axis=1) if numbers else None
    write_rows(path, spec, rows, images.astype(np.float32), values=values)
    return path
