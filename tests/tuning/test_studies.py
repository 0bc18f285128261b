"""Studies whose trainings are a formula: points, pruning, repetition, failure, coming back."""

import os
import signal
from pathlib import Path
from statistics import median

import pytest
from studies import KEYS, began, formula, searching, valley

from lenshpc.engine.signals import Signals, Stopped
from lenshpc.errors import ConfigError, DataError, IncompleteError, LensHpcError
from lenshpc.run.recipe import Recipe
from lenshpc.store import Store
from lenshpc.tuning.boards import ask_round, read_trials
from lenshpc.tuning.element import best_so_far, run_element
from lenshpc.tuning.study import Study, check_locks, check_same, find_study, plan_study

QUIET = {"pruner": "none"}


def run_all(study: Study, train=None) -> list:
    """Run all trials of a study one after the other, by rounds if it has them."""
    signals = Signals()
    if study.search.round_size is None:
        for element in range(study.search.trials):
            run_element(study, element, signals, train or formula())
    while study.search.round_size and ask_round(study) is not None:
        for trial in [one for one in read_trials(study) if one.state == "RUNNING"]:
            run_element(study, trial.number, signals, train or formula())
    return read_trials(study)


def points(trials: list) -> list:
    return [(one.number, dict(one.values), one.state, one.value) for one in trials]


def test_first_trial_is_the_recipe_itself(spots: Store, tmp_path: Path) -> None:
    study = began(tmp_path, spots, searching({"trials": 3, **QUIET}))
    trials = run_all(study)
    assert [one.state for one in trials] == ["COMPLETE"] * 3
    assert trials[0].values == {"train.lr": 1e-3, "train.clip_norm": 0.5}
    assert trials[0].value == valley(searching(), 1)
    assert trials[0].steps == {step: valley(searching(), step % 2) for step in range(4)} | {
        # of a later fold, the mean with the folds before it
        2: (valley(searching(), 1) + valley(searching(), 0)) / 2,
    }
    assert len({one.values["train.lr"] for one in trials}) == 3


def test_rounds_of_one_seed_ask_for_the_same_points(spots: Store, tmp_path: Path) -> None:
    # Twelve: after ten, the sampler begins to learn.
    asked = searching({"trials": 12, "round_size": 4, "seed": 3})
    found = [run_all(began(tmp_path / name, spots, asked)) for name in ("one", "other")]
    assert points(found[0]) == points(found[1])
    assert [one.number for one in found[0]] == list(range(12))
    other = began(tmp_path / "third", spots, searching({"trials": 2, "round_size": 2, "seed": 4}))
    ask_round(other)
    assert read_trials(other)[1].values != found[0][1].values


def test_rounds_whose_trials_ran_in_another_order_are_the_same(
    spots: Store, tmp_path: Path
) -> None:
    asked = searching({"trials": 12, "round_size": 6, "pruner": "hyperband"})
    calm = run_all(began(tmp_path / "calm", spots, asked))
    study = began(tmp_path / "turned", spots, asked)
    while ask_round(study) is not None:
        for trial in reversed([one for one in read_trials(study) if one.state == "RUNNING"]):
            run_element(study, trial.number, Signals(), formula())
            run_element(study, trial.number, Signals(), formula())  # nothing is left to do
    assert points(read_trials(study)) == points(calm)
    assert "PRUNED" in {one.state for one in calm}


def test_round_waits_for_the_trials_before(spots: Store, tmp_path: Path) -> None:
    study = began(tmp_path, spots, searching({"trials": 4, "round_size": 2}))
    assert ask_round(study) == 0
    run_element(study, 1, Signals(), formula())
    with pytest.raises(IncompleteError, match=r"1 trials of .* such as trial 0; .*--resume"):
        ask_round(study)
    run_element(study, 0, Signals(), formula())
    assert ask_round(study) == 1
    run_element(study, 7, Signals(), formula())  # no round has asked for it
    assert [one.number for one in read_trials(study)] == [0, 1, 2, 3]


@pytest.mark.parametrize("round_size", [None, 1])
def test_trial_that_promises_nothing_is_pruned(spots: Store, tmp_path, round_size) -> None:
    def rising(asked: Recipe, epoch: int) -> float:
        return asked.train.lr

    search = {"trials": 12, "round_size": round_size, "sampler": "random"}
    trials = run_all(began(tmp_path, spots, searching(search)), formula(rising))
    whole: list[float] = []
    for one in trials:
        lr = one.values["train.lr"]
        if len(whole) >= 5 and lr < median(whole):
            assert (one.state, one.value, tuple(one.steps)) == ("PRUNED", None, (0,))
            assert one.reason == "given up: epoch 1"
        else:
            assert (one.state, one.value, len(one.steps)) == ("COMPLETE", lr, 4)
            whole.append(lr)
    assert len(whole) < 12


@pytest.mark.parametrize("round_size", [None, 6])
def test_repeated_point_is_not_trained_again(spots: Store, tmp_path: Path, round_size) -> None:
    keys = {"train.scheduler": {"choice": ["cosine", "constant"]}}
    search = {"keys": keys, "trials": 12, "round_size": round_size, **QUIET}
    trained: list[str] = []
    study = began(tmp_path, spots, searching(search))
    trials = run_all(study, formula(trained=trained))
    first = {one.values["train.scheduler"]: one for one in reversed(trials)}
    ran = {name.split("/")[0] for name in trained}
    assert len(trained) == 2 * len(ran)
    # In a round they begin together, so a point may be trained twice within the first.
    assert len(ran) == (2 if round_size is None else 6)
    for one in trials:
        assert one.value == first[one.values["train.scheduler"]].value
        assert (one.same_as is None) == (f"trial-{one.number:03d}" in ran)


@pytest.mark.parametrize("round_size", [None, 3])
def test_trial_that_fails_is_told_with_its_reason_and_the_study_goes_on(
    spots: Store, tmp_path: Path, round_size
) -> None:
    def explode(asked: Recipe, epoch: int) -> float:
        if asked.train.lr > 0.01:
            raise LensHpcError("the training loss became nan in epoch 0")
        return 0.5

    search = {"trials": 9, "round_size": round_size, "sampler": "random", **QUIET}
    trials = run_all(began(tmp_path, spots, searching(search)), formula(explode))
    for one in trials:
        fails = one.values["train.lr"] > 0.01
        assert one.state == ("FAIL" if fails else "COMPLETE")
        assert one.reason == ("the training loss became nan in epoch 0" if fails else "")
    assert {one.state for one in trials} == {"FAIL", "COMPLETE"}


def test_node_that_fails_is_no_failure_of_the_trial(spots: Store, tmp_path: Path) -> None:
    def lose(asked: Recipe, epoch: int) -> float:
        raise DataError("node n1 does not see the store")

    study = began(tmp_path, spots, searching({"trials": 2, **QUIET}))
    with pytest.raises(DataError, match="does not see"):
        run_element(study, 0, Signals(), formula(lose))
    assert [one.state for one in read_trials(study)] == ["RUNNING"]
    assert study.base.list_attempted() == ["none"]
    run_element(study, 0, Signals(), formula())
    assert [one.state for one in read_trials(study)] == ["COMPLETE"]


@pytest.mark.parametrize("round_size", [None, 2])
def test_trial_that_was_stopped_comes_back_to_its_point(
    spots: Store, tmp_path: Path, round_size
) -> None:
    stops = iter([False, False, True])  # in the second fold

    def stop(asked: Recipe, epoch: int) -> float:
        if next(stops, False):
            raise Stopped(signal.SIGUSR2)
        return valley(asked, epoch)

    trained: list[str] = []
    search = {"trials": 2, "round_size": round_size, **QUIET}
    study = began(tmp_path / "disturbed", spots, searching(search))
    ask_round(study) if round_size else None
    with pytest.raises(Stopped):
        run_element(study, 0, Signals(), formula(stop, trained))
    run_element(study, 0, Signals(), formula(stop, trained))
    assert trained == ["trial-000/0", "trial-000/1", "trial-000/1"]
    run_element(study, 1, Signals(), formula())
    calm = run_all(began(tmp_path / "calm", spots, searching(search)))
    assert points(read_trials(study)) == points(calm)


def test_no_trial_begins_once_the_hours_are_spent(spots: Store, tmp_path: Path) -> None:
    # Each trial takes 2 folds of 2 epochs of 36 s: 0.04 hours.
    study = began(tmp_path, spots, searching({"trials": 9, **QUIET}), max_gpu_hours=0.1)
    assert len(run_all(study)) == 3
    assert sum(study.hours().values()) == pytest.approx(0.12)
    rounds = searching({"trials": 9, "round_size": 2, **QUIET})
    assert len(run_all(began(tmp_path, spots, rounds, max_gpu_hours=0.1))) == 4


def test_objective_is_that_of_the_epoch_which_is_kept() -> None:
    history = [
        {"val_auc": auc, "val_loss": loss} for auc, loss in [(0.5, 3), (0.7, 4), (0.6, 1), (0.7, 2)]
    ]
    assert best_so_far(history, ("auc", 1), "loss") == [3, 4, 4, 4]
    assert best_so_far(history, ("loss", -1), "auc") == [0.5, 0.5, 0.6, 0.6]


def test_study_of_another_recipe_is_another_study(spots: Store, tmp_path: Path) -> None:
    study = began(tmp_path, spots, searching())
    check_same(study, searching({"trials": 60}))
    with pytest.raises(ConfigError, match=r"started with train.epochs=2, and the recipe has 3;"):
        check_same(study, searching(train__epochs=3))
    wider = searching({"keys": KEYS | {"train.lr": {"log": [1e-5, 1e-1]}}})
    with pytest.raises(ConfigError, match=r"started with search.keys.train.lr="):
        check_same(study, wider)
    assert plan_study(searching({"trials": 60}), spots, tmp_path)[0] == study
    assert plan_study(wider, spots, tmp_path)[0] != study
    assert find_study("spots-tune", tmp_path) == study
    with pytest.raises(ConfigError, match=r"no study 'other'; studies in .*: spots-tune-"):
        find_study("other", tmp_path)
    study.file.write_text(study.file.read_text().replace("0.001", "0.002"))
    with pytest.raises(DataError, match="was edited"):
        _ = Study(study.root).settings


def test_folder_without_locks_is_refused(tmp_path: Path) -> None:
    check_locks(tmp_path)

    def without_locks(path: Path, flags: int) -> int:
        return os.open(path, flags & ~os.O_EXCL)

    with pytest.raises(ConfigError, match=r"file system without locks.*add --rounds N"):
        check_locks(tmp_path, without_locks)
    assert list(tmp_path.iterdir()) == []
