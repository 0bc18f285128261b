"""What is planned and refused of a pre-training, and of what starts from one."""

from pathlib import Path

import numpy as np
import pytest
from spots import write_store
from stores import rewrite

from lenshpc.errors import ConfigError
from lenshpc.run.origin import of_run
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import expand, scored_rows
from lenshpc.run.planning import check_unseen, plan_run
from lenshpc.run.recipe import Recipe, load_recipe

VIT = {"patch": 8, "width": 24, "depth": 2, "heads": 2}
SMALL = {"vit": VIT, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def pretraining(**changes):
    value = {"name": "fm", "task": "foundation", "models": ("mae_vit",), "folds": 1}
    return Recipe(**{**value, "method": SMALL, "train": {"batch_size": 8}, **changes})


def classification(**changes):
    value = {"name": "fine", "task": "multiclass", "models": ("mae_vit",), "folds": 2}
    return Recipe(**{**value, "method": {"vit": VIT}, "train": {"batch_size": 8}, **changes})


def test_only_the_first_class_outside_the_test_split_is_learnt(spots):
    plan, splits = expand(pretraining(), spots)
    assert splits.groupby("split")["label"].agg(set).to_dict() == {
        "excluded": {1},
        "dev": {0},
        "test": {0, 1},
    }
    assert set(scored_rows(plan, splits, plan.members[0])["split"]) == {"oof", "test"}


def test_named_classes_are_learnt(spots):
    method = {**SMALL, "classes": ("class1", "class0")}
    _, splits = expand(pretraining(method=method), spots)
    assert set(splits["split"]) == {"dev", "test"}


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ({"classes": ("rings",)}, "unknown class in method.classes 'rings'"),
        ({"mask_ratio": 0.99}, "of 16 patches hides none or all"),
        ({"vit": {**VIT, "patch": 40}}, "method.vit.patch 40 is larger than the images of 32"),
    ],
)
def test_pretraining_that_does_not_fit_the_store_is_refused(spots, method, told):
    with pytest.raises(ConfigError, match=told):
        expand(pretraining(method={**SMALL, **method}), spots)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": {"vit": {**VIT, "width": 26}}}, "multiple of 2 heads and of the 4 parts"),
        ({"method": {**SMALL, "decoder_width": 15}}, "decoder_width 15 has to be a multiple"),
        ({"data": {"normalise": "image"}}, "removes the brightness of each image"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        pretraining(**changes)


def test_layer_decay_of_a_network_that_knows_no_layers_is_refused():
    train = {"layer_decay": 0.75}
    with pytest.raises(
        ValueError, match=r"network d4_net does not say which layers it has; remove"
    ):
        classification(models=("mae_vit", "resnet18", "d4_net"), train=train)
    variants = {"plain": {"train.layer_decay": None}}
    models = ("mae_vit", "resnet18", "d4_net+plain")
    recipe = classification(models=models, train=train, variants=variants)
    assert recipe.of("d4_net+plain").train.layer_decay is None


def test_part_of_the_labels_that_fills_no_batch_is_refused(spots):
    with pytest.raises(
        ConfigError, match=r"trains mae_vit on 6 rows.*, use a larger data.label_fraction, or"
    ):
        expand(classification(data={"label_fraction": 0.1}), spots)


def test_part_of_the_labels_takes_nothing_from_validation_and_test(spots):
    recipe = classification(train={"batch_size": 4})
    part = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"label_fraction": 0.1})}
    )
    (whole, splits), (few, same) = expand(recipe, spots), expand(part, spots)
    assert splits.equals(same)
    rows = [scored_rows(plan, splits, plan.members[0])["row"].tolist() for plan in (whole, few)]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Return a store with the images of `spots`, other ones first, in which all but these train."""
    folder = tmp_path_factory.mktemp("other")
    return write_store(folder / "same", np.arange(120) % 2, ["train"] * 100 + ["test"] * 20)


def origin(recipe, store, splits=None):
    plan, own = expand(recipe, store)
    return of_run(
        RunPaths(Path("runs/fm")), plan, lambda: (own if splits is None else splits, store)
    )


def planned(store):
    return plan_run(classification(), store)


def test_test_rows_of_the_same_store_are_unseen(spots):
    check_unseen(origin(pretraining(), spots), planned(spots))


def test_run_that_trained_on_test_rows_of_the_same_store_is_refused(spots):
    altered = expand(pretraining(), spots)[1].copy()
    row = altered.index[altered["split"] == "test"][3]
    altered.loc[row, "split"] = "dev"
    with pytest.raises(ConfigError, match=r"was trained on 1 of the 24 test rows of .*spots"):
        check_unseen(origin(pretraining(), spots, altered), planned(spots))


def test_run_that_trained_on_the_same_files_elsewhere_is_refused(spots, other, tmp_path):
    # Both stores hold the same pixels; rows 96 to 99 train in one and test in the other. Two of
    # them are of the class that pre-training learns.
    with pytest.raises(ConfigError, match=r"was trained on 2 of the 24 test rows") as caught:
        check_unseen(origin(pretraining(), other), planned(spots))
    assert "such as 'test/" in str(caught.value)
    pixels = other.read_raw(slice(None))
    brighter = rewrite(other, tmp_path / "brighter", images=(pixels + 1).astype(pixels.dtype))
    check_unseen(origin(pretraining(), brighter), planned(spots))


def test_shipped_recipes_agree_on_the_encoder():
    names = ("foundation", "foundation_classification", "foundation_super_resolution")
    recipes = [load_recipe(name) for name in names]
    assert len({recipe.method.vit for recipe in recipes}) == 1
    assert recipes[0].data.stretch == recipes[1].data.stretch
