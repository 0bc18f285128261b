"""What a recipe asks and a store cannot give, refused before anything is planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lenshpc.errors import ConfigError, DataError
from lenshpc.models.vit import ENCODERS
from lenshpc.run.recipe import network_of
from lenshpc.tasks.anomaly.settings import MIN_SIDE_PX, Anomaly
from lenshpc.tasks.diffusion.settings import Diffusion
from lenshpc.tasks.foundation.settings import Foundation, num_hidden
from lenshpc.tasks.physics_guided.settings import check_field
from lenshpc.tasks.settings_table import learnt_labels
from lenshpc.tasks.super_resolution.settings import SuperResolution, check_pairs
from lenshpc.tasks.supervised.settings import Classification

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lenshpc.run.recipe import Recipe
    from lenshpc.store import Store


def check_fits(recipe: Recipe, store: Store) -> None:
    """Refuse a recipe whose method, channels or turns the store's images do not allow."""
    method = recipe.method
    if isinstance(method, Classification):
        _check_classes(method, store)
        _check_physics(method, recipe, store)
    _check_crop(recipe, store)
    channels, height, width = recipe.data.in_memory(store.image_shape, store.dtype.name)[0]
    _check_encoder(recipe, height, width)
    if isinstance(method, Classification):
        _check_sides(method, height, width)
    if isinstance(method, Anomaly):
        _check_learnt(recipe, store, "method.normal")
        _check_square(height, width)
    if isinstance(method, Foundation):
        _check_learnt(recipe, store, "method.classes")
        _check_masks(method, height, width)
    if isinstance(method, SuperResolution):
        _check_pairs(method, recipe, store)
    if isinstance(method, Diffusion):
        _check_generation(method, recipe, store, height, width)
    if recipe.data.grey_to_rgb and channels != 1:
        raise ConfigError(
            f"data.grey_to_rgb is for images of one channel, {store.path} has {channels}; drop it"
        )
    if recipe.data.normalise == "imagenet" and recipe.data.model_shape((channels, 0, 0))[0] != 3:
        raise ConfigError(
            f"data.normalise imagenet is for three channels, {store.path} has {channels}; "
            "use fold, or --set data.grey_to_rgb=true"
        )
    steps = (*recipe.data.augment, *recipe.data.augment_minority)
    if height != width and any(step.kind == "d4" for step in steps):
        raise ConfigError(
            f"data.augment d4 turns images by quarters, and these have {height} by {width} pixels; "
            f"use flips, or --set data.image_size={min(height, width)}"
        )


def _check_learnt(recipe: Recipe, store: Store, key: str) -> None:
    """Refuse a store that lacks rows of a class to learn from, or to be tested on."""
    rows = store.rows
    for label in learnt_labels(recipe.method, store.classes):
        testing = rows.loc[rows["label"] == label, "split"] == "test"
        for what, there in (("training", (~testing).any()), ("test", testing.any())):
            if not there:
                raise ConfigError(
                    f"{store.path} has no {what} rows of class {store.classes[label]}, which task "
                    f"{recipe.task} learns; prepare a store that has them, or name another class "
                    f"with {key}"
                )


def _check_encoder(recipe: Recipe, height: int, width: int) -> None:
    """Refuse images, or parts of pairs, that do not fill one patch of our encoder."""
    method = recipe.method
    if isinstance(method, Anomaly | Diffusion) or not set(ENCODERS) & set(
        map(network_of, recipe.models)
    ):
        return
    cut = method.patch if isinstance(method, SuperResolution) else None
    side = cut or min(height, width)
    if method.vit.patch > side:
        raise ConfigError(
            f"method.vit.patch {method.vit.patch} is larger than the images of {side} pixels; "
            f"use --set method.vit.patch={side} or less"
        )


def _check_masks(method: Foundation, height: int, width: int) -> None:
    """Refuse images of which no patch would be hidden, or none be seen."""
    patch = method.vit.patch
    num_patches = -(-height // patch) * -(-width // patch)
    if not 0 < num_hidden(num_patches, method.mask_ratio) < num_patches:
        raise ConfigError(
            f"method.mask_ratio {method.mask_ratio} of {num_patches} patches hides none or all; "
            f"lower method.vit.patch {patch}, or change the ratio"
        )


def _check_square(height: int, width: int) -> None:
    if height != width or height < MIN_SIDE_PX:
        raise ConfigError(
            f"task anomaly turns images by 90°, of {MIN_SIDE_PX} pixels a side or more, and these "
            f"have {height} by {width}; use --set data.crop={max(MIN_SIDE_PX, min(height, width))}"
        )


def _check_pairs(method: SuperResolution, recipe: Recipe, store: Store) -> None:
    if store.target_shape is None:
        raise ConfigError(
            f"task {recipe.task} learns from pairs, and {store.path} holds none; "
            "prepare a dataset that has a target, such as super_resolution"
        )
    if recipe.data.image_size is not None:
        raise ConfigError(
            f"data.image_size would resize the images of {store.path}, not their targets; drop it"
        )
    check_pairs(method, recipe.data.model_shape(store.image_shape), store.target_shape)


def _check_generation(
    method: Diffusion, recipe: Recipe, store: Store, height: int, width: int
) -> None:
    """Refuse images too small for the U-Net, classes that are none, pixels out of range."""
    if min(height, width) < method.halving:
        raise ConfigError(
            f"method.multipliers halves sides {len(method.multipliers) - 1} times, and images have "
            f"{height} by {width} pixels; give fewer multipliers"
        )
    if recipe.data.grey_to_rgb:
        raise ConfigError(
            f"task {recipe.task} draws the channels of the store; drop data.grey_to_rgb"
        )
    if method.guidance and len(store.classes) < 2:
        raise ConfigError(
            f"method.guidance tells classes apart, and {store.path} has one, {store.classes[0]}; "
            "drop it"
        )
    low, high = method.pixel_range or (-float("inf"), float("inf"))
    means = store.moments[:, :, 0]
    if means.min() < low or means.max() > high:
        raise ConfigError(
            f"method.pixel_range {[low, high]} does not hold the pixels of {store.path}, whose "
            f"images have means of {means.min():.3g} to {means.max():.3g}; give their range, or "
            "null"
        )


def _check_crop(recipe: Recipe, store: Store) -> None:
    crop, (_, height, width) = recipe.data.crop, store.image_shape
    if crop is None:
        return
    if crop > min(height, width):
        raise ConfigError(
            f"data.crop {crop} is larger than the images of {height} by {width} pixels; lower it"
        )
    if recipe.method.needs_targets:
        raise ConfigError(
            f"data.crop would cut the images of {store.path}, not their targets; drop it, and "
            "train on parts of pairs with method.patch"
        )


def _check_sides(method: Classification, height: int, width: int) -> None:
    if method.tta == "d4" and height != width:
        raise ConfigError(
            f"method.tta d4 turns images by quarters, and these have {height} by {width} pixels; "
            f"use --set method.tta=none, or data.image_size={min(height, width)}"
        )


def _check_physics(method: Classification, recipe: Recipe, store: Store) -> None:
    if method.physics is None:
        return
    crop, (_, height, width) = recipe.data.crop, store.image_shape
    if height != width and not crop:
        raise ConfigError(
            f"method.physics is for square images, and these have {height} by {width} pixels; "
            f"use --set data.crop={min(height, width)}"
        )
    check_field(method.physics, crop or height)


def check_loading(recipe: Recipe) -> None:
    """Refuse a method that needs images from anywhere in the store where they are streamed."""
    method = recipe.method
    if isinstance(method, Classification) and method.smote and recipe.data.loading == "stream":
        raise ConfigError(
            "method.smote mixes images that lie anywhere in the store, and data.loading is stream; "
            "raise resources.mem_gb_per_gpu, or use --set data.loading=resident"
        )


def _check_classes(method: Classification, store: Store) -> None:
    classes = store.classes
    if method.loss == "bce" and len(classes) != 2:
        raise ConfigError(
            f"method.loss bce is for two classes, {store.path} has {len(classes)} "
            f"({', '.join(classes)}); use --set method.loss=cross_entropy"
        )
    if method.loss == "complement" and len(classes) == 2:
        raise ConfigError(
            "method.loss complement needs three classes or more: of two, only one is wrong, and "
            "its entropy is 0; use --set method.loss=cross_entropy, or focal"
        )
    if len(classes) < 2:
        raise ConfigError(
            f"{store.path} has one class, {classes[0]}; a classification needs two or more"
        )
    if method.consistency and not (store.rows["split"] == "unlabelled").any():
        raise ConfigError(
            f"method.consistency learns from unlabelled rows, and {store.path} has none; "
            "name their folder as `unlabelled` in the dataset file and prepare it again"
        )


def check_groups(rows: pd.DataFrame, testing: np.ndarray) -> None:
    """Refuse a group that lies both in the test split and in training."""
    shared = set(rows.loc[testing, "group"]) & set(rows.loc[~testing, "group"])
    if shared:
        raise DataError(
            f"group {min(shared)!r} lies in the test split and in training "
            f"({len(shared)} such groups); prepare the store with a split that keeps groups whole"
        )


def check_batches(recipe: Recipe, splits: pd.DataFrame) -> None:
    """Refuse a fold that trains on less than one batch, or lacks a class."""
    from lenshpc.run.splits import training_rows

    dev, data = splits[splits["split"] == "dev"], recipe.data
    some_classes = isinstance(recipe.method, Anomaly | Foundation)
    wanted = set(dev["label"]) if some_classes else set(splits.loc[splits["label"] >= 0, "label"])
    for fold in range(recipe.folds):
        training = training_rows(splits, fold, data.label_fraction, recipe.split_seed)
        if len(training) < recipe.train.batch_size:
            part = "" if data.label_fraction == 1 else " or a larger data.label_fraction"
            raise ConfigError(
                f"fold {fold} trains on {len(training)} rows, fewer than train.batch_size "
                f"{recipe.train.batch_size}; lower it with --set train.batch_size={len(training)}"
                f"{part}"
            )
        for verb, rows in (("trains", training), ("validates", dev[dev["fold"] == fold])):
            absent = wanted - set(rows["label"])
            if absent:
                raise ConfigError(
                    f"no row of class {min(absent)} {verb} fold {fold}; "
                    "add data, use fewer folds, or prepare another split"
                )
