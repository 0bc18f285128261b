"""No byte of a finished run reaches a report once it is another than was written."""

import hashlib
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from damage import FULL, QUICK, SEEDS, damaged, files_below
from hypothesis import given
from ranks import finish, planned, recipe, start

from lenshpc.engine.load import read_weights
from lenshpc.errors import LensHpcError
from lenshpc.registry import find_task, load
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import load_plan
from lenshpc.run.predictions import read_array
from lenshpc.run.results import RunResults, gather
from lenshpc.store import Store

IDLE = {"state.json", "progress.json", "owner"}  # what tells of a training that goes on


@dataclass(frozen=True)
class Finished:
    """A run that was trained, its files, and a hash of all that a report reads of it."""

    run: RunPaths
    files: list[Path]
    digest: str
    judged: str


def read(run: RunPaths) -> RunResults:
    """Pass the gate as `aggregate` does."""
    return gather(run, load_plan(run), {}, allow_partial=False)


def digest(results: RunResults) -> str:
    """Return a hash of all values that a report can show."""
    run, told = results.run, hashlib.sha256()
    told.update(results.plan.model_dump_json().encode())
    told.update(results.splits.to_csv().encode())
    told.update(results.predictions().to_csv().encode())
    for training in results.trainings:
        told.update(repr([training.member, training.done]).encode())
        told.update(training.history.to_csv().encode())
        for name, weights in sorted(read_weights(run, training.member).items()):
            told.update(name.encode() + weights.numpy().tobytes())
        rows = results.splits.loc[results.splits["split"] == "test", "row"].to_numpy()
        told.update(read_array(run, training.member, "embedding", rows).tobytes())
    return told.hexdigest()


def judge(results: RunResults) -> str:
    """Return a hash of the figures of the run."""
    evaluation = load(find_task(results.plan.recipe.task).evaluate)(results)
    with pd.option_context("display.precision", 17):
        return hashlib.sha256(repr(evaluation.scores).encode()).hexdigest()


@pytest.fixture(scope="module")
def finished(spots: Store, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Train a run of two members."""
    folder = tmp_path_factory.mktemp("finished")
    run, plan = planned(folder, spots, recipe(folds=2, train__epochs=1))
    for training in [start([run], member.index) for member in plan.members]:  # side by side
        finish(training)
    shutil.rmtree(run.slurm, ignore_errors=True)  # logs
    results = read(run)
    return Finished(run, files_below(run.root), digest(results), judge(results))


def check(finished: Finished, seed: int) -> None:
    """Damage a file and read: the values are those that were written, or an error names it."""
    with damaged(finished.files, seed) as path:
        try:
            found = digest(read(finished.run))
        except LensHpcError as error:
            found = str(error)
    if path.name in IDLE:
        assert found == finished.digest, path
    elif found == finished.digest:
        # Only of what is compared by its meaning: a blank in JSON, a version in a table's head.
        assert path.name in {"plan.json", "done.json", "splits.parquet"}
    else:
        # Below its member, where it is one's. A member without its mark has no file to name.
        name = "/".join(path.relative_to(finished.run.root).parts[2:]) or path.name
        lost = name == "done.json" and "has no predictions" in found
        assert name in found or lost, (path, found)


@QUICK
@given(seed=SEEDS)
def test_run_is_read_as_it_was_written_or_refused(finished: Finished, seed: int) -> None:
    check(finished, seed)


@pytest.mark.slow
@FULL
@given(seed=SEEDS)
def test_run_is_read_as_it_was_written_or_refused_in_2000_tries(
    finished: Finished, seed: int
) -> None:
    check(finished, seed)


def test_files_that_tell_of_the_training_alone_change_no_figure(finished: Finished) -> None:
    with ExitStack() as stack:
        for path in finished.files:
            if path.name in IDLE:
                stack.enter_context(damaged([path], seed=0))
        assert judge(read(finished.run)) == finished.judged
