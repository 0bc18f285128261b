"""Trials that are trained: a small study from its start to its report, and what it never reads."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from spots import SIDE
from stores import write_rows
from studies import KEYS, began, searching

from lenshpc.config import read_yaml
from lenshpc.engine.signals import Signals
from lenshpc.run.adoption import find_offer
from lenshpc.run.completion import resume_command
from lenshpc.run.planning import plan_run
from lenshpc.run.recipe import load_recipe
from lenshpc.store import Pixels, Store, StoreSpec, open_store
from lenshpc.tuning.boards import read_trials
from lenshpc.tuning.element import run_element
from lenshpc.tuning.report import measure_importance, place_on, write_report
from lenshpc.tuning.study import Study
from lenshpc.tuning.summary import find

SHORT = {"train__epochs": 1}
SEARCH = {"trials": 2, "objective": "loss"}


def trained(folder: Path, store: Store) -> Study:
    study = began(folder, store, searching(SEARCH, **SHORT))
    for element in range(study.search.trials):
        run_element(study, element, Signals())
    return study


@pytest.fixture(scope="module")
def study(spots: Store, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return trained(tmp_path_factory.mktemp("runs"), spots)


def write_store(path: Path, garbage: bool) -> Store:
    """Write rows to learn from, with test rows that make sense or do not."""
    labels = np.arange(64) % 2
    splits = np.array(["train"] * 48 + ["test"] * 16)
    rng = np.random.default_rng(0)
    images = rng.normal(0.3, 0.1, (64, 1, SIDE, SIDE)) + 0.4 * labels[:, None, None, None]
    if garbage:
        images[48:] = 1e6 * rng.random(images[48:].shape)
        labels[48:] = 1 - labels[48:]
    rows = pd.DataFrame({"label": labels, "split": splits})
    rows["id"] = rows["group"] = [f"{number}.npy" for number in range(64)]
    spec = StoreSpec(
        dataset="spots",
        classes=("class0", "class1"),
        image=Pixels(shape=(1, SIDE, SIDE), dtype="float32", channels=("grey",)),
        seed=0,
    )
    write_rows(path, spec, rows, images.astype(np.float32))
    return open_store(path)


def test_study_is_the_same_whatever_the_test_rows_hold(tmp_path: Path) -> None:
    found = []
    for garbage in (False, True):
        folder = tmp_path / str(garbage)
        folder.mkdir()
        store = write_store(folder / "store", garbage)
        trials = read_trials(trained(folder / "runs", store))
        found.append([(one.values, one.state, one.value, one.steps) for one in trials])
    assert found[0] == found[1]
    assert [state for _, state, *_ in found[0]] == ["COMPLETE"] * 2


def test_trials_predict_no_row(study: Study) -> None:
    runs = study.find_trials()
    assert list(runs) == [0, 1]
    for run in runs.values():
        members = sorted(run.root.glob("members/*"))
        assert len(members) == 2
        for member in members:
            left = {path.name for path in member.iterdir()}
            assert {"progress.json", "model.safetensors", "metrics.jsonl"} <= left
            assert left.isdisjoint({"predictions.parquet", "arrays.zarr", "done.json"})


def test_best_recipe_is_ready_to_be_submitted(study: Study, spots: Store, tmp_path) -> None:
    path = write_report(study)
    best = find(study).best
    assert path
    assert best
    made = load_recipe(str(path))
    assert made.name == "spots-best"
    assert made.train.lr == best.values["train.lr"]
    same = {"train": made.train, "name": made.name, "search": made.search}
    assert made == study.settings.recipe.model_copy(update=same)
    # What it would train is there: only the predictions are left to be made.
    planned = plan_run(made, spots, study.settings.runs)
    offer = find_offer(planned.paths, planned.plan, planned.plan.members, study.settings.runs)
    assert [source.state for source in offer.found.values()] == ["trained"] * 2


def test_report_shows_the_trials_and_compares_them_with_the_recipe(study: Study) -> None:
    write_report(study)
    page = (study.report / "report.html").read_text()
    told = json.loads((study.report / "trials.json").read_text())
    findings = find(study)
    assert findings.best
    assert findings.own
    assert f"trial {findings.best.number}; the recipe itself has" in page
    assert [one["trial"] for one in told["trials"]] == [0, 1]
    assert told["own"] == {"value": findings.own.value, "values": {**findings.own.values}}
    figures = {path.stem for path in (study.report / "figures").iterdir()}
    assert {"history", "parallel"} <= figures
    assert read_yaml(study.report / "best.yaml")["folds"] == 2


def test_importance_is_that_of_the_key_which_matters(spots: Store, tmp_path: Path) -> None:
    from studies import formula

    asked = searching({"trials": 12, "sampler": "random", "pruner": "none"})
    study = began(tmp_path, spots, asked)
    for element in range(12):
        run_element(study, element, Signals(), formula(lambda one, _: one.train.clip_norm))
    shares = measure_importance(find(study))
    assert set(shares) == set(KEYS)
    assert shares["train.clip_norm"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_values_stand_between_the_ends_of_their_ranges() -> None:
    spans = searching(
        {"keys": {**KEYS, "train.scheduler": {"choice": ["constant", "cosine", "plateau"]}}}
    ).search.keys
    assert place_on(spans["train.lr"], 1e-4) == 0
    assert place_on(spans["train.lr"], 1e-2) == pytest.approx(2 / 3)
    assert place_on(spans["train.clip_norm"], 0.25) == 0.25
    assert place_on(spans["train.scheduler"], "plateau") == 1
    assert np.isnan(place_on(spans["train.lr"], None))


def test_trials_are_gone_on_with_by_the_study(study: Study) -> None:
    command = f"lenshpc tune --resume {study.root}"
    assert [resume_command(run) for run in (study.base, *study.find_trials().values())] == (
        [command] * 3
    )
