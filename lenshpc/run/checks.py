"""What a recipe asks and a store cannot give, refused before anything is planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lenshpc.errors import ConfigError, DataError
from lenshpc.registry import StoreFacts
from lenshpc.run.augmentations import D4
from lenshpc.run.recipe import variant_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa

    from lenshpc.run.recipe import Recipe
    from lenshpc.store import Store


def facts_of(recipe: Recipe, store: Store) -> StoreFacts:
    """Return what a store offers to a recipe."""
    counted = store.attributes["counts"]
    low, high = store.attributes["mean_range"]
    return StoreFacts(
        path=store.path,
        classes=store.classes,
        image_shape=store.image_shape,
        held_shape=recipe.data.in_memory(store.image_shape, store.dtype.name)[0],
        target_shape=store.target_shape,
        counts={
            (name, split): num
            for split, by_class in counted.items()
            for name, num in by_class.items()
            if num and split != "unlabelled"
        },
        num_unlabelled=sum(counted.get("unlabelled", {}).values()),
        mean_range=(low, high),
    )


def check_fits(recipe: Recipe, store: Store) -> None:
    """Refuse a recipe whose method, channels or turns the store's images do not allow."""
    facts = facts_of(recipe, store)
    _check_crop(recipe, facts)
    _check_masks(recipe, store)
    recipe.method.check_store(recipe, facts)
    channels, height, width = facts.held_shape
    if recipe.data.grey_to_rgb and channels != 1:
        raise ConfigError(
            f"data.grey_to_rgb is for images of one channel, {store.path} has {channels}; remove it"
        )
    if recipe.data.normalise == "imagenet" and recipe.data.num_image_channels(channels) != 3:
        raise ConfigError(
            f"data.normalise imagenet is for three channels, {store.path} has {channels}; "
            "use fold, or --set data.grey_to_rgb=true"
        )
    steps = (*recipe.data.augment, *recipe.data.augment_minority)
    if height != width and any(isinstance(step, D4) for step in steps):
        raise ConfigError(
            f"data.augment d4 rotates images by 90°, and these have {height} by {width} pixels; "
            f"use flips, or --set data.image_size={min(height, width)}"
        )


def check_learnt(recipe: Recipe, facts: StoreFacts, key: str) -> None:
    """Refuse a store that lacks rows of a class to learn from, or to be tested on."""
    for label in recipe.method.learnt_labels(facts.classes):
        name = facts.classes[label]
        splits = {split for (kind, split), num in facts.counts.items() if kind == name and num}
        for what, there in (("training", splits - {"test"}), ("test", splits & {"test"})):
            if not there:
                raise ConfigError(
                    f"{facts.path} has no {what} rows of class {name}, which task {recipe.task} "
                    f"learns; prepare a store that has them, or name another class with {key}"
                )


def _check_crop(recipe: Recipe, facts: StoreFacts) -> None:
    crop, (_, height, width) = recipe.data.crop, facts.image_shape
    if crop is None:
        return
    if crop > min(height, width):
        raise ConfigError(
            f"data.crop {crop} is larger than the images of {height} by {width} pixels; lower it"
        )
    if recipe.method.needs_targets:
        raise ConfigError(
            f"data.crop would cut the images of {facts.path}, not their targets; remove it, and "
            "train on parts of pairs with method.patch"
        )


def _check_masks(recipe: Recipe, store: Store) -> None:
    if not recipe.data.mask_channels:
        return
    if not recipe.method.takes_masks:
        raise ConfigError(
            f"data.mask_channels: task {recipe.task} as set produces images, and a mask is not an "
            "image; remove it"
        )
    if store.masks is None:
        raise ConfigError(
            f"data.mask_channels: {store.path} has no masks; remove it, or prepare the store from "
            "a dataset file with image.bad_pixels"
        )


def check_loading(recipe: Recipe) -> None:
    """Refuse a method that needs images from anywhere in the store where they are streamed."""
    if recipe.method.synthetic is not None and recipe.data.loading == "stream":
        raise ConfigError(
            "method.smote mixes images that lie anywhere in the store, and data.loading is stream; "
            "raise resources.mem_gb_per_gpu, or use --set data.loading=resident"
        )


def check_groups(groups: pa.DictionaryArray, testing: npt.NDArray[np.bool_]) -> None:
    """Refuse a group that lies both in the test split and in training."""
    import numpy as np

    # All that is not test counts as training, unlabelled and set-aside rows too.
    codes, num_groups = groups.indices.to_numpy(), len(groups.dictionary)
    tested, trained = np.zeros((2, num_groups), bool)
    tested[codes[testing]], trained[codes[~testing]] = True, True
    shared = np.flatnonzero(tested & trained)
    if len(shared):
        raise DataError(
            f"group {min(groups.dictionary.take(shared).to_pylist())!r} lies in the test split "
            f"and in training ({len(shared)} such groups); prepare the store with a split that "
            "keeps groups together"
        )


def check_batches(
    whole: Recipe, model: str, splits: pd.DataFrame, classes: tuple[str, ...]
) -> None:
    """Refuse a fold that trains a model on less than one batch, or lacks a class."""
    from lenshpc.run.splits import training_rows

    recipe = whole.of(model)
    # Without the texts, of which each fold would be another copy.
    splits = splits[["row", "label", "split", "fold"]]
    dev, data = splits[splits["split"] == "dev"], recipe.data
    some_classes = len(recipe.method.learnt_labels(classes)) < len(classes)
    wanted = set((dev if some_classes else splits[splits["label"] >= 0])["label"].unique())
    for fold in range(recipe.folds):
        training = training_rows(splits, fold, data.label_fraction, recipe.split_seed)
        if len(training) < recipe.train.batch_size:
            part = more = ""
            if data.label_fraction < 1:
                part = f" ({data.label_fraction:.0%} of the labels)"
                more = ", use a larger data.label_fraction"
            ways = f"--set train.batch_size={len(training)}"
            if "train.batch_size" in whole.variants.get(variant_of(model), {}):
                ways = f"variants.{variant_of(model)} of a recipe of your own"
            raise ConfigError(
                f"fold {fold} trains {model} on {len(training)} rows{part}, fewer than its "
                f"train.batch_size {recipe.train.batch_size}; lower it with {ways}{more}, or use a "
                "store with more rows"
            )
        for verb, rows in (("trains", training), ("validates", dev[dev["fold"] == fold])):
            absent = wanted - set(rows["label"].unique())
            if absent:
                raise ConfigError(
                    f"no row of class {min(absent)} {verb} fold {fold}; "
                    "add data, use fewer folds, or prepare another split"
                )
