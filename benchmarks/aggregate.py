"""Measure what the figures of a run cost: resamples of one line, and all lines of a report.

Nothing is trained: the models' probabilities are drawn. Of a run with F folds each member predicts
as many rows, a fifth of them of its own fold and the others for testing. Each act has a process of
its own, whose largest resident memory is given beside what it had once its rows were made.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from measure import (
    Table,
    Target,
    Took,
    arguments,
    measure_act,
    report,
    run_act,
    scratch,
    target_table,
)

SIDE, CHUNK_ROWS = 8, 32
SHARE = 0.2  # of positives


def make_splits(num_rows: int, folds: int) -> pd.DataFrame:
    """Return the manifest of a run each of whose members predicts so many rows."""
    num_test = num_rows * 4 // 5
    num_dev = (num_rows - num_test) * folds
    total, rng = num_dev + num_test, np.random.default_rng(0)
    ids = pd.array([f"field/{row:09d}" for row in range(total)], dtype="str")
    return pd.DataFrame(
        {
            "row": np.arange(total),
            "id": ids,
            "label": (rng.random(total) < SHARE).astype(np.int64),
            "group": ids,
            "split": np.repeat(["dev", "test"], [num_dev, num_test]),
            "fold": np.where(np.arange(total) < num_dev, np.arange(total) % folds, -1),
        }
    )


def draw_models(splits: pd.DataFrame, num_models: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return each model's probabilities (N, 2), upright and turned; all see the same images."""
    rng, labels = np.random.default_rng(1), splits["label"].to_numpy()
    shared = rng.normal(size=len(labels)) + 2 * labels - 1
    upright, turned = {}, {}
    for number in range(num_models):
        logits = shared + rng.normal(0, 0.6, len(labels))
        for found in (upright, turned):
            positive = 1 / (1 + np.exp(-(logits + rng.normal(0, 0.1, len(labels)))))
            found[f"model{number}"] = np.stack([1 - positive, positive], axis=1)
    return upright, turned


def make_store(num_rows: int) -> Any:
    """Return what baselines ask of a store: images of noise that nothing has to be read for."""
    rng = np.random.default_rng(2)
    block = rng.normal(size=(4096, 1, SIDE, SIDE))
    return SimpleNamespace(
        num_rows=num_rows,
        chunk_rows=CHUNK_ROWS,
        image_shape=(1, SIDE, SIDE),
        read=lambda rows: block[rows % len(block)],
        column=lambda _, rows: rng.random((len(rows), 1, 2)),
    )


def resample_line(num_rows: int) -> Callable[[], None]:
    """Resample all figures of one line on so many test rows, its curves too."""
    from lenshpc.run.predictions import evaluated_rows
    from lenshpc.statistics import scores

    rows = evaluated_rows(make_splits(num_rows * 5 // 4, 1))
    test = (rows["split"] == "test").to_numpy()
    (values,) = draw_models(rows, 1)[0].values()
    labels, values = rows["label"].to_numpy()[test], values[test]

    def act() -> None:
        resamples = scores.draw_splits(rows)["test"]
        scores.score(labels, values, resamples, 0.5)
        scores.curves(labels, values, resamples)

    return act


def score_run(num_rows: int, num_models: int, folds: int) -> Callable[[], None]:
    """Combine and judge all lines of a run: models, ensembles, baselines, turned images, pairs."""
    from lenshpc.run.predictions import evaluated_rows
    from lenshpc.tasks.supervised.baselines import predict_baselines
    from lenshpc.tasks.supervised.judge import score_models
    from lenshpc.tasks.supervised.merge import assemble

    splits = make_splits(num_rows, folds)
    rows, store = evaluated_rows(splits), make_store(len(splits))
    upright, turned = draw_models(rows, num_models)
    plan: Any = SimpleNamespace(
        classes=("nonlens", "lens"), recipe=SimpleNamespace(ensemble="mean"), members=()
    )

    def act() -> None:
        merged = assemble(plan, rows, upright, turned)
        score_models(merged, predict_baselines(plan, splits, store), test_prior=0.01)

    return act


ACTS: dict[str, tuple[str, Callable[[int], Callable[[], None]]]] = {
    "line": ("2,000 resamples and all figures of one line", resample_line),
    "ten": ("10 members (2 models, 5 folds), all lines", lambda num: score_run(num, 2, 5)),
    "thousand": (
        "1,000 members (10 models, 5 folds, 20 seeds), a hundredth of the rows, all lines",
        lambda num: score_run(num // 100, 10, 5),
    ),
}


def targets(took: dict[str, Took]) -> list[Target]:
    """Return what is aimed at with 10⁶ rows."""
    return [
        Target("3 s of a processor / one line", 3 / took["line"].cpu_seconds, 1),
        Target("40 s / 10 members", 40 / took["ten"].seconds, 1),
        Target("1 GiB / peak memory of 10 members", 1024 / took["ten"].peak_mib, 1),
        Target("60 s / 1,000 members", 60 / took["thousand"].seconds, 1),
    ]


def main() -> None:
    """Measure and print; `--num` is the number of rows that a member predicts."""
    wanted = arguments("Measure what the figures of a run cost.", num=1_000_000, repeats=1)
    with scratch(wanted.folder) as folder:
        (folder / "num").write_text(str(wanted.num))
        took = {name: measure_act(__file__, name, folder) for name in ACTS}
    lines = [
        [
            ACTS[name][0],
            f"{one.seconds:.2f}",
            f"{one.cpu_seconds:.2f}",
            f"{one.peak_mib:.0f}",
            f"{one.before_mib:.0f}",
        ]
        for name, one in took.items()
    ]
    header = ("", "s", "s of processors", "peak memory, MiB", "before, MiB")
    tables = [Table(f"{wanted.num:,} rows a member", header, lines), target_table(targets(took))]
    report(tables, as_json=wanted.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--act"]:
        run_act(ACTS[sys.argv[2]][1](int((Path(sys.argv[3]) / "num").read_text())))
    else:
        main()
