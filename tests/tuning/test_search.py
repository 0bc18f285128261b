"""What a recipe may search: ranges, conditions, and the keys that are no search's."""

from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from studies import KEYS, searching

from lenshpc.errors import ConfigError
from lenshpc.run.recipe import Recipe
from lenshpc.tuning.points import apply, check_search, draw, objective_of, own_values

CONDITIONAL: dict[str, Any] = {
    "train.lr": {"log": [1e-5, 1e-1]},
    "train.scheduler": {"choice": ["constant", "cosine"]},
    "train.warmup_epochs": {"int": [0, 1], "when": {"train.scheduler": "cosine"}},
    "data.augment": {"choice": [["d4"], []]},
}


def test_search_is_no_part_of_fingerprints(spots, tmp_path):
    from ranks import planned

    plans = [planned(tmp_path, spots, one)[1] for one in (searching(), searching({"trials": 3}))]
    assert plans[0].fingerprint() == plans[1].fingerprint()
    member = plans[0].members[0]
    assert plans[0].member_fingerprint(member) == plans[1].member_fingerprint(member)


def test_search_is_written_as_json_and_read_again():
    asked = searching({"keys": CONDITIONAL, "sampler": "random", "pruner": "none"})
    assert Recipe.model_validate(asked.model_dump(mode="json")) == asked


def test_own_point_has_the_keys_whose_conditions_the_recipe_meets():
    asked = searching({"keys": CONDITIONAL}, train__scheduler="constant")
    check_search(asked)
    own = {"train.lr": 1e-3, "train.scheduler": "constant", "data.augment": ["d4"]}
    assert own_values(asked) == own


@pytest.mark.parametrize(
    ("asked", "values"),
    [
        (
            {"train.lr": 0.1, "train.scheduler": "constant", "data.augment": "[]"},
            {"train.lr": 0.1, "train.scheduler": "constant", "data.augment": []},
        ),
        (
            {
                "train.lr": 1e-5,
                "train.scheduler": "cosine",
                "train.warmup_epochs": 1,
                "data.augment": '["d4"]',
            },
            {
                "train.lr": 1e-5,
                "train.scheduler": "cosine",
                "train.warmup_epochs": 1,
                "data.augment": ["d4"],
            },
        ),
    ],
)
def test_values_of_a_trial_make_a_recipe(asked: Mapping[str, Any], values: Mapping[str, Any]):
    base = searching({"keys": CONDITIONAL})
    found = draw(optuna.trial.FixedTrial(dict(asked)), base.search)
    assert found == values
    made = apply(base, found)
    assert made.train.lr == values["train.lr"]
    assert made.train.scheduler == values["train.scheduler"]
    assert len(made.data.augment) == len(values["data.augment"])
    assert made.train.epochs == base.train.epochs


def test_objective_is_what_picks_the_epoch_or_what_is_named():
    assert objective_of(searching()) == ("auc", 1)
    assert objective_of(searching({"objective": "loss"})) == ("loss", -1)
    assert objective_of(searching(train__monitor="pr_auc")) == ("pr_auc", 1)


LR = {"train.lr": {"log": [1e-4, 1e-1]}}


@pytest.mark.parametrize(
    ("search", "complaint"),
    [
        ({"keys": {"train.lrr": {"log": [1e-5, 1e-1]}}}, "unknown key 'train.lrr'; did you mean"),
        ({"keys": {"method.prior": {"float": [0, 1]}}}, "unknown key 'method.prior'"),
        ({"keys": {"folds": {"int": [2, 5]}}}, "folds decides which rows are trained on"),
        ({"keys": {"split_seed": {"int": [0, 5]}}}, "split_seed decides which rows"),
        ({"keys": {"data.label_fraction": {"float": [0.1, 1]}}}, "data.label_fraction decides"),
        ({"keys": {"resources.nodes": {"int": [1, 2]}}}, "resources.nodes is a resource"),
        ({"keys": {"ensemble": {"choice": ["mean", "greedy"]}}}, "ensemble is not searched"),
        ({"keys": {"method.test_prior": {"float": [0.1, 0.9]}}}, "method.test_prior judges"),
        ({"keys": LR, "objective": "psnr"}, "search.objective: unknown metric 'psnr'; known: auc"),
        (
            {"keys": {"method.loss": {"choice": ["cross_entropy", "focal"]}}, "objective": "loss"},
            "method.loss may change what the loss means",
        ),
        ({"keys": {"train.batch_size": {"int": [0, 16]}}}, "train.batch_size=0: train.batch_size"),
        ({"keys": {"train.scheduler": {"choice": ["cosine", "linear"]}}}, "train.scheduler=linear"),
        (
            {"keys": {"train.lr": {"log": [1e-5, 1e-4]}}},
            "is 0.001 in the recipe, outside of the range",
        ),
        ({"keys": {"train.epochs": {"int": [1, 5]}}}, "use --set search.pruner=none"),
        (
            {"keys": {"models": {"choice": ["test_resnet", "./mine.py:Net"]}}},
            "models would choose among files",
        ),
        ({"keys": {"models": {"choice": ["test_resnet", "no_net!"]}}}, "is neither NETWORK nor"),
    ],
)
def test_search_that_cannot_be_is_refused(search, complaint):
    with pytest.raises(ConfigError, match=r"^search") as error:
        check_search(searching(search))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("span", "complaint"),
    [
        ({"lgo": [1, 2]}, "unknown kind of range 'lgo'; did you mean log?"),
        ({"log": [0, 1]}, "both ends must be greater than 0"),
        ({"float": [2, 1]}, "the lower end must be less"),
        ({"int": [1, 2], "float": [1, 2]}, "expected one of log, float, int, choice"),
        ({"choice": [1, 1]}, "a value is listed twice"),
        ({"choice": []}, "at least 1 item"),
        ({"log": [1e-5, 1], "when": {"train.scheduler": "cosine"}}, "must be listed above it"),
    ],
)
def test_range_that_is_none_is_refused(span, complaint):
    with pytest.raises(ValueError, match="keys") as error:
        searching({"keys": {"train.lr": span}})
    assert complaint in str(error.value)


def test_trial_trains_one_network():
    with pytest.raises(ConfigError, match="a trial trains one network"):
        check_search(searching(models=["test_resnet", "resnet18"]))
    both = searching(
        {"keys": {**KEYS, "models": {"choice": ["test_resnet", "resnet18"]}}},
        models=["test_resnet", "resnet18"],
    )
    check_search(both)
    assert own_values(both)["models"] == "test_resnet"
    assert apply(both, {"models": "resnet18"}).models == ("resnet18",)
