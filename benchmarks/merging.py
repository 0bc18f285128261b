"""Measure the merge of members' predictions with the gate, beside reading the same files alone.

A member's table has row, id, split and the log-probabilities of two classes, drawn. Five folds of
half of the rows; the other half are test rows. Members of a third seed and on have copies of the
files of the first two. Each contestant is a process of its own,
whose largest resident memory is given beside what it had once all was imported. `pandas` is
`read_parquet`, `concat` and `groupby`, without gate or check, for ten members alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

from measure import Table, Target, arguments, report, rounds, scratch, spread, target_table

if TYPE_CHECKING:
    import pandas as pd

    from lenshpc.run.paths import RunPaths
    from lenshpc.run.plan import Member, Plan

FOLDS, DISTINCT, BLOCK = 5, 2, 2**17
SCORED = 0.5 + 0.5 / FOLDS  # of all rows, that a member predicts
COLUMNS = ("logp_0", "logp_1")
SIZES = (10, 20, 100)  # members


def make_run(root: Path, num_members: int, num_rows: int) -> None:
    """Write a run whose members are done, `num_rows` rows each."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    from lenshpc import __version__
    from lenshpc.run.manifest import splits_hash
    from lenshpc.run.paths import RunPaths
    from lenshpc.run.plan import Member, Plan, save_plan
    from lenshpc.run.recipe import Recipe

    total = round(num_rows / SCORED)
    rows = np.arange(total)
    numbers = pc.utf8_lpad(pa.array(rows).cast(pa.string()), 8, "0")
    ids = pc.binary_join_element_wise("lens/", numbers, ".npy", "")
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
        recipe=Recipe(
            name="m", task="lens-finding", models=("resnet18",), folds=FOLDS, seeds=seeds
        ),
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


def _finish(paths: RunPaths, plan: Plan, splits: pd.DataFrame, member: Member) -> None:
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
        shutil.copyfile(paths.member(same.name).predictions, files.predictions)
    facts = {"best_epoch": 0, "epochs": 1, "seconds": 60.0, "num_processes": 1, "device": "cpu"}
    mark_done(paths, plan, member, hash_outputs(files), {**facts, "strategy": "single"})


def _draw(splits: pd.DataFrame, member: Member) -> Iterator[pd.DataFrame]:
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
    from lenshpc.run.paths import RunPaths
    from lenshpc.run.plan import load_plan
    from lenshpc.run.results import gather
    from lenshpc.tasks.supervised.merge import merge_headline

    def act() -> object:
        paths = RunPaths(run)
        results = gather(paths, load_plan(paths), {}, allow_partial=False)
        _, found = merge_headline(paths, results.plan, results.splits)
        return found["resnet18"].mean(axis=0)

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
    before = getrusage(RUSAGE_SELF).ru_maxrss / 1024
    began, cpu_began = perf_counter(), process_time()
    found = act()
    told = {"seconds": perf_counter() - began, "cpu": process_time() - cpu_began, "before": before}
    peak = getrusage(RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**told, "peak": peak, "found": str(found)}))


def ask(*arguments: object) -> str:
    """Return what a process of this file prints."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def measure(folder: Path, num_members: int, num_rows: int, repeats: int) -> dict[str, list[Any]]:
    """Return what each act took in each round, on a run of its own."""
    folder.mkdir()
    ask("--make", folder, num_members, num_rows)
    run = (folder / "run").read_text()
    names = [name for name in ACTS if name != "pandas" or num_members == SIZES[0]]
    turns = {name: lambda name=name: json.loads(ask("--act", name, run)) for name in names}
    found = rounds(turns, repeats)
    told = {name: results[0]["found"] for name, results in found.items() if name != "pyarrow"}
    assert len(set(told.values())) == 1, told
    return found


def tell(found: dict[int, dict[str, list[Any]]], num_rows: int) -> list[Table]:
    """Return the tables of what was measured by number of members."""
    rows, targets = [], []
    for members, results in found.items():
        took = {n: median(one["seconds"] for one in found) for n, found in results.items()}
        own = {n: max(one["peak"] - one["before"] for one in found) for n, found in results.items()}
        for name, each in results.items():
            speed = f"{members * num_rows / took[name] / 1e6:.1f}"
            peak = f"{max(one['peak'] for one in each):.0f}"
            seconds = spread([one["seconds"] for one in each])
            rows.append([str(members), name, *seconds, speed, peak, f"{own[name]:.0f}"])
        told = f"{members} members: speed of reading alone"
        targets.append(Target(told, took["pyarrow"] / took["lenshpc"], 0.5))
        if "pandas" in took:
            targets.append(Target("speed of pandas", took["pandas"] / took["lenshpc"], 5))
            targets.append(Target("memory of pandas over ours", own["pandas"] / own["lenshpc"], 10))
    header = (
        "members",
        "who",
        "s",
        "range",
        "10⁶ rows/s",
        "largest MiB",
        "of it, since the imports",
    )
    return [Table(f"{num_rows:,} rows a member", header, rows), target_table(targets)]


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == ["--act"]:
        serve(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--make"]:
        make_run(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return
    asked = arguments(__doc__ or "", num=1_000_000, repeats=3)
    with scratch(asked.folder) as folder:
        found = {
            members: measure(folder / str(members), members, asked.num, asked.repeats)
            for members in SIZES
        }
    report(tell(found, asked.num), as_json=asked.json)


if __name__ == "__main__":
    main()
