"""Measure the merge of members' predictions with the gate, beside reading the same files alone.

A member's table has row, id, split and the log-probabilities of two classes, drawn. Five folds of
half of the rows; the other half are test rows. Members of a third seed and on are links to the
files of the first two, so that the disk holds ten files. Each contestant is a process of its own;
its largest resident memory is given. All files are in the page cache as far as it goes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import perf_counter

from measure import Table, Target, arguments, report, scratch, target_table

FOLDS, DISTINCT, BLOCK = 5, 2, 2**17
SCORED = 0.5 + 0.5 / FOLDS  # of all rows, that a member predicts
COLUMNS = ("logp_0", "logp_1")


def make_run(root: Path, num_members: int, num_rows: int) -> None:
    """Write a run whose members are done, `num_rows` rows each."""
    import numpy as np
    import pandas as pd

    from lenshpc import __version__
    from lenshpc.run.manifest import splits_hash
    from lenshpc.run.paths import RunPaths
    from lenshpc.run.plan import Member, Plan, save_plan
    from lenshpc.run.recipe import Recipe

    total = round(num_rows / SCORED)
    rows = np.arange(total)
    ids = [f"lens/{row:08d}.npy" for row in rows]
    testing = rows >= total // 2
    parts = pd.CategoricalDtype(["dev", "test", "unlabelled", "excluded"])
    splits = pd.DataFrame(
        {
            "row": rows,
            "id": pd.array(ids, "str"),
            "label": np.random.default_rng(0).integers(0, 2, total),
            "split": pd.Categorical.from_codes(testing.astype(np.int8), dtype=parts),
            "fold": np.where(testing, -1, rows % FOLDS).astype(np.int16),
        }
    )
    del ids
    splits.insert(3, "group", splits["id"])
    seeds = tuple(range(num_members // FOLDS))
    members = tuple(
        Member(index=seed * FOLDS + fold, model="resnet18", fold=fold, seed=seed)
        for seed in seeds
        for fold in range(FOLDS)
    )
    plan = Plan(
        recipe=Recipe(name="m", task="lens-finding", models=("resnet18",), folds=FOLDS, seeds=seeds),
        store=root / "store",
        store_hash="0" * 64,
        dataset="drawn",
        classes=("nonlens", "lens"),
        image_shape=(1, 8, 8),
        splits_hash=splits_hash(splits),
        code_version=__version__,
        members=members,
    )
    paths = RunPaths(root / plan.run_name)
    save_plan(paths, plan, splits)
    for member in members:
        _finish(paths, plan, splits, member)
    (root / "run").write_text(str(paths.root))


def _finish(paths, plan, splits, member) -> None:
    from lenshpc.run.completion import hash_outputs, mark_done
    from lenshpc.run.tables import TableWriter

    files = paths.member(member.name)
    files.root.mkdir(parents=True)
    files.weights.write_bytes(b"weights")
    files.metrics.write_text(json.dumps({"epoch": 0, "val_loss": 0.5}) + "\n")
    if member.seed < DISTINCT:
        with TableWriter(files.predictions) as table:
            for block in _draw(splits, member):
                table.add(block)
    else:
        same = plan.members[(member.seed % DISTINCT) * FOLDS + member.fold]
        os.link(paths.member(same.name).predictions, files.predictions)
    facts = {"best_epoch": 0, "epochs": 1, "seconds": 60.0, "num_processes": 1, "device": "cpu"}
    mark_done(paths, plan, member, hash_outputs(files), {**facts, "strategy": "single"})


def _draw(splits, member) -> Iterator:
    import numpy as np

    rng = np.random.default_rng(member.index)
    for start in range(0, len(splits), BLOCK):
        some = splits.iloc[start : start + BLOCK]
        mine = some[(some["split"] == "test") | (some["fold"] == member.fold)]
        odds = rng.logistic(size=len(mine)) + mine["label"].to_numpy() - 0.5
        logp = -np.logaddexp(0, np.stack([odds, -odds], axis=1)).astype(np.float32)
        split = np.where(mine["split"] == "test", "test", "oof")
        yield mine[["row", "id"]].assign(split=split, logp_0=logp[:, 0], logp_1=logp[:, 1])


def read_alone(run: Path) -> Callable[[], object]:
    """Read each file with pyarrow and forget it."""
    import pyarrow.parquet as pq

    return lambda: [len(pq.read_table(one)) for one in sorted(run.glob("members/*/*.parquet"))]


def merge(run: Path) -> Callable[[], object]:
    """Pass the gate, check all rows and merge them."""
    from lenshpc.run.plan import load_plan
    from lenshpc.run.paths import RunPaths
    from lenshpc.run.results import gather
    from lenshpc.tasks.supervised import merge as room

    def act() -> object:
        paths = RunPaths(run)
        results = gather(paths, load_plan(paths), {}, allow_partial=False)
        members = results.plan.members
        return room._merge_model(paths, results.plan, results.splits, members)[0].mean(axis=0)

    return act


def concat(run: Path) -> Callable[[], object]:
    """Do the same by hand with pandas, without any check."""
    import numpy as np
    import pandas as pd

    def act() -> object:
        files = sorted(run.glob("members/*/*.parquet"))
        frame = pd.concat([pd.read_parquet(one) for one in files], ignore_index=True)
        values = np.exp(frame[[*COLUMNS]].astype(np.float64))
        values = values.div(values.sum(axis=1), axis=0)
        return values.groupby(frame["row"]).mean().to_numpy().mean(axis=0)

    return act


ACTS = {"pyarrow": read_alone, "lenshpc": merge, "pandas": concat}


def serve(name: str, run: str) -> None:
    """Do one act in this process; print seconds, largest MiB and what was found."""
    act = ACTS[name](Path(run))
    before, began = getrusage(RUSAGE_SELF).ru_maxrss, perf_counter()
    found = act()
    took, peak = perf_counter() - began, getrusage(RUSAGE_SELF).ru_maxrss
    told = {"seconds": took, "peak": peak / 1024, "before": before / 1024, "found": str(found)}
    print(json.dumps(told))


def measure(name: str, run: Path) -> dict:
    """Return what an act took in a process of its own."""
    command = [sys.executable, __file__, "--act", name, str(run)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == ["--act"]:
        serve(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--make"]:
        make_run(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return
    asked = arguments(__doc__ or "", num=1_000_000, repeats=3)
    ...


if __name__ == "__main__":
    main()
