"""What pairs and recipes of super-resolution are refused, before anything runs."""

import pytest

from lenshpc.config import find_shipped
from lenshpc.errors import ConfigError
from lenshpc.run.networks import check_names
from lenshpc.run.recipe import load_recipe, recipe_of_task
from lenshpc.tasks.super_resolution.settings import SuperResolution, check_pairs, scale_of

LOW, HIGH = (1, 75, 75), (1, 150, 150)


@pytest.mark.parametrize(("side", "scale"), [(150, 2), (300, 4)])
def test_scale_is_found_from_the_shapes(side, scale):
    assert scale_of(LOW, (1, side, side)) == scale


@pytest.mark.parametrize("target", [(1, 75, 75), (1, 225, 225), (1, 150, 300), (3, 150, 150)])
def test_shapes_that_no_scale_fits_are_refused(target):
    words = " × ".join(map(str, target))
    with pytest.raises(ConfigError, match=f"1 × 75 × 75, high-resolution ones {words}; expected"):
        scale_of(LOW, target)


@pytest.mark.parametrize(
    ("method", "low", "high", "complaint"),
    [
        ({"patch": 76}, LOW, HIGH, "--set method.patch=75"),
        ({}, (1, 5, 5), (1, 10, 10), "SSIM needs 11 px"),
    ],
)
def test_runs_that_cannot_train_are_refused(method, low, high, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_pairs(SuperResolution(**method), low, high)


def test_what_fits_is_not_refused():
    check_pairs(SuperResolution(patch=75), LOW, HIGH)


def test_shipped_recipes_are_valid_and_name_known_networks():
    names = [name for name in find_shipped("jobs") if name.startswith("super_resolution")]
    assert names == [
        "super_resolution",
        "super_resolution_ensemble",
        "super_resolution_rcan",
        "super_resolution_srresnet",
    ]
    for name in names:
        recipe = load_recipe(name)
        check_names(recipe.models, recipe.method)
        check_pairs(recipe.method, LOW, HIGH)
    assert recipe_of_task("super-resolution") == "super_resolution"
