"""What decides one member's weights and predictions, and what does not."""

from dataclasses import replace

import pytest
from ranks import recipe

from lenshpc.run.augmentations import AUGMENTATIONS
from lenshpc.run.plan import Plan, expand
from lenshpc.store import Store

VARIANTS = {"short": {"train.epochs": 1}, "longer": {"train.epochs": 3}}


def plan_of(store: Store, **changes: object) -> Plan:
    return expand(recipe(**changes), store)[0]


def print_of(plan: Plan, model: str = "test_resnet", fold: int = 1, seed: int = 0) -> str:
    (member,) = (
        one for one in plan.members if (one.model, one.fold, one.seed) == (model, fold, seed)
    )
    return plan.member_fingerprint(member)


def test_each_member_of_a_run_has_a_fingerprint_of_its_own(spots):
    models = ["test_resnet", "resnet18", "test_resnet+short", "test_resnet+longer"]
    plan = plan_of(spots, models=models, variants=VARIANTS, seeds=[0, 1])
    prints = [plan.member_fingerprint(member) for member in plan.members]
    assert len(set(prints)) == len(plan.members) == 24
    assert {len(one) for one in prints} == {64}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"models": ["resnet18", "test_resnet"]},
        {"models": ["test_resnet", "test_resnet+short"], "variants": VARIANTS},
        {"seeds": [3, 0]},
        {"ensemble": "greedy"},
        {"method": {"test_prior": 0.01}},
        {"resources": {"time_min": 9}},
        {"then": ["lens_finding"]},
    ],
)
def test_neighbours_and_what_is_judged_decide_nothing(spots, changes):
    other = plan_of(spots, **changes)
    assert other.fingerprint() != plan_of(spots).fingerprint() or {*changes} & {"resources", "then"}
    assert print_of(other) == print_of(plan_of(spots))


@pytest.mark.parametrize(
    "changes",
    [
        {"train__lr": 2e-3},
        {"train__epochs": 3},
        {"method": {"loss": "bce"}},
        {"data__augment": []},
        {"folds": 4},
        {"split_seed": 1},
        {"resources": {"gpus_per_node": 2}},
        {"init_from": "runs/other", "init_fingerprint": "0" * 64, "models": ["mae_vit"]},
    ],
)
def test_all_that_reaches_the_training_decides(spots, changes):
    model = str(changes.get("models", ["test_resnet"])[0])
    before = print_of(plan_of(spots, models=[model]), model)
    assert print_of(plan_of(spots, **changes), model) != before


def test_weights_to_start_from_count_and_not_the_place_where_they_lie(spots):
    asked = {"models": ["mae_vit"], "init_fingerprint": "0" * 64}
    here, there, nowhere = (
        print_of(plan_of(spots, **asked, init_from=place), "mae_vit")
        for place in ("runs/a", "/elsewhere/runs/a", None)
    )
    assert here == there != nowhere
    assert nowhere == print_of(plan_of(spots, models=["mae_vit"]), "mae_vit")


def test_variant_that_changes_nothing_is_the_network_itself(spots):
    same = {"same": {"train.epochs": 2}}
    models = ["test_resnet", "test_resnet+same"]
    plan = plan_of(spots, models=models, variants=same)
    assert print_of(plan, models[0]) == print_of(plan, models[1])


def test_images_labels_plugins_and_code_decide(spots):
    plan = plan_of(spots)
    for change in (
        {"store_hash": "0" * 64},
        {"splits_hash": "0" * 64},
        {"plugins": {"lens-rings": "1.0"}},
        {"code_version": "0.0.0"},
    ):
        assert print_of(plan.model_copy(update=change)) != print_of(plan)
    moved = replace(spots, path=spots.path / "elsewhere")
    assert print_of(plan_of(moved)) == print_of(plan)


def test_each_augmentation_by_its_name_alone_makes_another_member_and_run(spots):
    plans = [plan_of(spots, data__augment=[kind]) for kind in AUGMENTATIONS]
    assert len({print_of(plan) for plan in plans}) == len(AUGMENTATIONS) == 7
    assert len({plan.run_name for plan in plans}) == 7
