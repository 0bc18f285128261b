"""Settings of physics guidance, and what does not go with them."""

import numpy as np
import pytest
from pydantic import ValidationError

from lenshpc.errors import ConfigError
from lenshpc.run.checks import check_fits
from lenshpc.run.recipe import Recipe, load_recipe
from lenshpc.tasks.physics_guided.settings import Physics

PHYSICS = {"pixel_scale_arcsec": 0.2}


def recipe(method=None, **data):
    return Recipe(
        name="guided",
        task="physics-guided",
        models=("test_resnet",),
        method={"physics": PHYSICS} | (method or {}),
        data=data,
    )


def test_shipped_recipe_compares_equal_trainings_with_and_without_the_lens():
    shipped = load_recipe("physics_guided")
    plain = shipped.of("resnet18+plain")
    assert shipped.models == ("resnet18", "resnet18+plain")
    assert shipped.method.physics == Physics(pixel_scale_arcsec=0.05)
    assert plain.method == shipped.method.model_copy(update={"physics": None})
    assert (plain.train, plain.data, plain.seeds) == (shipped.train, shipped.data, (0, 1, 2))


@pytest.mark.parametrize(
    ("lens", "shear", "number"), [("sis", False, 3), ("sis", True, 5), ("sie", True, 7)]
)
def test_number_of_parameters(lens, shear, number):
    assert Physics(lens=lens, shear=shear, **PHYSICS).num_parameters == number


@pytest.mark.parametrize("key", ["theta_e_arcsec", "ring_arcsec", "curriculum"])
def test_range_that_descends_is_refused(key):
    with pytest.raises(ValidationError, match=rf"{key} \[0.6, 0.5\]: expected the smaller number"):
        Physics(**PHYSICS, **{key: (0.6, 0.5)})


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ({"mixup_alpha": 0.2}, "mixup_alpha mixes images, and physics redraws single lenses"),
        ({"cutmix_alpha": 0.2}, "cutmix_alpha mixes images"),
        ({"smote": {"space": "pixel"}}, "smote.space pixel mixes images"),
        ({"loss": "complement"}, "loss complement has training steps of its own"),
    ],
)
def test_method_that_mixes_lenses_is_refused(method, complaint):
    with pytest.raises(ValidationError, match=complaint):
        recipe(method)


@pytest.mark.parametrize("step", ["affine", "crop"])
def test_augmentation_that_changes_the_scale_is_refused(step):
    with pytest.raises(ValidationError, match=f"data.augment {step} changes scale and centre"):
        recipe(augment=["d4", step])
    assert recipe({"physics": None}, augment=[step])


def test_feature_smote_turns_and_noise_go_with_it():
    assert recipe(
        {"smote": {"space": "feature"}}, augment=["d4", "flips", "noise", "psf_jitter", "contrast"]
    )


@pytest.mark.parametrize(("crop", "reach"), [(None, 3.2), (20, 2.0)])
def test_lens_larger_than_the_images_is_refused(spots, crop, reach):
    wide = recipe({"physics": PHYSICS | {"theta_e_arcsec": (0.5, reach)}}, crop=crop)
    with pytest.raises(ConfigError, match=f"reaches {reach:g}″, and the images show {reach:g}″"):
        check_fits(wide, spots)
    narrow = recipe({"physics": PHYSICS | {"theta_e_arcsec": (0.5, reach - 0.1)}}, crop=crop)
    check_fits(narrow, spots)


@pytest.mark.parametrize(
    ("data", "zoom"), [({}, 1), ({"crop": 128}, 1), ({"crop": 128, "image_size": 64}, 2)]
)
def test_pixels_of_resized_images_are_larger(data, zoom):
    assert recipe(**data).data.zoom((1, 150, 150)) == zoom
    assert np.isclose(recipe(image_size=75).data.zoom((1, 150, 150)), 2)
