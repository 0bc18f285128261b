"""What a recipe of diffusion asks and a store cannot give."""

from dataclasses import replace

import numpy as np
import pytest

from lenshpc.errors import ConfigError
from lenshpc.run.checks import check_fits
from lenshpc.run.plan import expand, scored_rows
from lenshpc.run.recipe import Recipe, load_recipe

WIDE = {"pixel_range": (-10, 10)}


def recipe(method=None, **keys):
    return Recipe(
        name="x",
        task="diffusion",
        models=("unet",),
        folds=2,
        train={"batch_size": 8},
        method=WIDE | (method or {}),
        **keys,
    )


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (
            recipe({"multipliers": (1,) * 7}),
            r"halves sides 6 times, and images have 32 by 32 pixels; give fewer multipliers",
        ),
        (recipe(data={"grey_to_rgb": True}), "remove data.grey_to_rgb"),
        (recipe({"pixel_range": (0.5, 1)}), r"does not contain the pixels of .* or null"),
    ],
)
def test_what_the_store_cannot_give_is_refused(spots, made, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_fits(made, spots)


def test_classes_that_are_one_cannot_guide(spots):
    with pytest.raises(
        ConfigError, match=r"needs two or more classes, and .* has one, class0; remove it"
    ):
        check_fits(recipe({"guidance": {}}), replace(spots, classes=("class0",)))


def test_as_many_rows_are_scored_as_get_an_image(spots):
    plan, splits = expand(recipe({"num_samples": 10}), spots)
    for member in plan.members:
        scored = scored_rows(plan, splits, member)
        assert scored["split"].value_counts().to_dict() == {"oof": 10, "test": 10}
        of_fold = splits.set_index("row").loc[scored.loc[scored["split"] == "oof", "row"], "fold"]
        assert np.array_equal(of_fold, [member.fold] * 10)


@pytest.mark.parametrize("name", ["diffusion", "diffusion_conditional"])
def test_shipped_recipes_are_valid(name):
    found = load_recipe(name)
    assert found.resources.world_size == 4
    assert (found.method.guidance is not None) == name.endswith("conditional")
