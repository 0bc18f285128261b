"""The Plan: a recipe and a store expanded into every member that must exist, as a hashed value."""

from __future__ import annotations

import hashlib
import json
import math
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenshpc import __version__
from lenshpc.config import Frozen, unknown, validate
from lenshpc.errors import ConfigError, DataError
from lenshpc.files import read_json, replacing, write_json
from lenshpc.methods.anomaly import MIN_SIDE_PX, Anomaly
from lenshpc.methods.classification import Classification
from lenshpc.methods.super_resolution import SuperResolution, check_pairs
from lenshpc.methods.table import Method
from lenshpc.paths import RunPaths
from lenshpc.recipe import Recipe

if TYPE_CHECKING:  # they cost 1 s, which `status` need not pay
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from lenshpc.store import Store

SPLIT_COLUMNS = ["row", "id", "label", "group", "split", "fold"]
NUM_TRAINING_SCORED = 1000


class Member(Frozen):
    """One training: a model on one fold under one seed."""

    index: int
    model: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """Return the member's folder name, such as `003-resnet18-fold3-seed0`."""
        return f"{self.index:03d}-{self.model}-fold{self.fold}-seed{self.seed}"


class Plan(Frozen):
    """Everything that decides a run's results."""

    recipe: Recipe
    store: Path
    store_hash: str
    dataset: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    splits_hash: str
    code_version: str
    members: tuple[Member, ...]

    def fingerprint(self) -> str:
        """Return the SHA-256 over all that can change a result, so not over limits of time."""
        value = self.model_dump(mode="json", exclude={"store"})
        size = value["recipe"]["resources"]
        value["recipe"]["resources"] = {key: size[key] for key in ("nodes", "gpus_per_node")}
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

    @property
    def run_name(self) -> str:
        """Return the name of the run directory."""
        return f"{self.recipe.name}-{self.fingerprint()[:8]}"

    @property
    def gpu_hours_ceiling(self) -> float:
        """Return the GPU-hours spent if every member used its whole time limit."""
        size = self.recipe.resources
        return len(self.members) * size.world_size * size.time_min / 60

    def ensembles(self) -> dict[str, tuple[Member, ...]]:
        """Return model name → its members, in the recipe's order."""
        return {
            model: tuple(member for member in self.members if member.model == model)
            for model in self.recipe.models
        }


def expand(recipe: Recipe, store: Store) -> tuple[Plan, pd.DataFrame]:
    """Return the Plan of a recipe on a store, and its split manifest."""
    check_fits(recipe, store)
    recipe = _with_loading(recipe, store)
    if isinstance(recipe.method, Classification) and recipe.method.smote:
        _check_smote(recipe)
    splits = split_manifest(recipe, store)
    _check_batches(recipe, splits)
    triples = product(recipe.models, range(recipe.folds), recipe.seeds)
    members = tuple(
        Member(index=index, model=model, fold=fold, seed=seed)
        for index, (model, fold, seed) in enumerate(triples)
    )
    plan = Plan(
        recipe=recipe,
        store=store.path.resolve(),
        store_hash=store.content_hash,
        dataset=store.dataset,
        classes=store.classes,
        image_shape=store.image_shape,
        splits_hash=splits_hash(splits),
        code_version=__version__,
        members=members,
    )
    return plan, splits


def _with_loading(recipe: Recipe, store: Store) -> Recipe:
    """Return the recipe with `data.loading` decided.

    A stream has another order of rows, hence other weights, so the word is decided here and hashed,
    by what the recipe asks for and not by what a node happens to have free: up to half of the
    memory that it asks for a node is the images'.
    """
    import numpy as np

    if recipe.data.loading != "auto":
        return recipe
    shape, dtype = recipe.data.in_memory(store.image_shape, store.dtype.name)
    num_bytes = store.num_rows * math.prod(shape) * np.dtype(dtype).itemsize
    size = recipe.resources
    fits = num_bytes <= size.mem_gb_per_gpu * size.gpus_per_node * 1e9 / 2
    data = recipe.data.model_copy(update={"loading": "resident" if fits else "stream"})
    return recipe.model_copy(update={"data": data})


def split_manifest(recipe: Recipe, store: Store) -> pd.DataFrame:
    """Return one line a row: its split and the fold in which it validates.

    Several folds are cut from the store's `train` and `val` rows together. One fold is the store's
    own `val` split where it has one. Of the `dev` rows, those with fold -1 always train. Rows of
    `test`, and those `aside` (of the classes that an anomaly detector must not know), never do;
    `unlabelled` ones train without a label.
    """
    import numpy as np

    from lenshpc.splits import assign_folds

    rows = store.rows
    testing = (rows["split"] == "test").to_numpy()
    if not testing.any():
        raise ConfigError(f"{store.path} has no test rows; prepare it from data with a test split")
    _check_groups(rows, testing)
    splits = np.select(
        [testing, rows["split"] == "unlabelled", ~_may_train(recipe, store)],
        ["test", "unlabelled", "aside"],
        "dev",
    )
    folds = np.full(len(rows), -1, dtype=np.int16)
    own = (splits == "dev") & (rows["split"] == "val").to_numpy()
    if recipe.folds == 1 and own.any():
        folds[own] = 0
    else:
        dev = rows[splits == "dev"]
        folds[splits == "dev"] = assign_folds(
            dev["label"].to_numpy(), dev["group"].to_numpy(str), recipe.folds, recipe.split_seed
        )
    columns = rows[["id", "label", "group"]].assign(
        row=np.arange(len(rows)), split=splits, fold=folds
    )
    manifest: pd.DataFrame = columns[SPLIT_COLUMNS]
    return manifest


def _may_train(recipe: Recipe, store: Store) -> npt.NDArray[np.bool_]:
    """Return which rows are of a class that the method may learn."""
    import numpy as np

    labels = store.rows["label"].to_numpy()
    normal = normal_class(recipe.method, store.classes)
    return np.asarray(labels >= 0 if normal is None else labels == normal)


def normal_class(method: Method, classes: tuple[str, ...]) -> int | None:
    """Return the label that an anomaly detector learns; None where all classes are learnt."""
    if not isinstance(method, Anomaly):
        return None
    if method.normal is not None and method.normal not in classes:
        raise ConfigError(unknown("method.normal", method.normal, classes))
    return classes.index(method.normal) if method.normal else 0


def scored_rows(plan: Plan, splits: pd.DataFrame, member: Member) -> pd.DataFrame:
    """Return the rows that a member predicts, with `split` naming what they are to this member.

    `oof`: its validation fold; `train`: some of its training rows, which show what it has seen.
    """
    import pandas as pd

    dev = splits["split"] == "dev"
    parts = {
        "train": splits[dev & (splits["fold"] != member.fold)].head(NUM_TRAINING_SCORED),
        "oof": splits[dev & (splits["fold"] == member.fold)],
        "aside": splits[splits["split"] == "aside"],
        "test": splits[splits["split"] == "test"],
    }
    scored = plan.recipe.method.scored
    return pd.concat([parts[name].assign(split=name) for name in scored], ignore_index=True)


def check_fits(recipe: Recipe, store: Store) -> None:
    """Refuse a recipe whose method, channels or turns the store's images do not allow."""
    method = recipe.method
    if isinstance(method, Classification):
        _check_classes(method, store)
        _check_sides(method, recipe, store)
    _check_crop(recipe, store)
    channels, height, width = recipe.data.in_memory(store.image_shape, store.dtype.name)[0]
    if isinstance(method, Anomaly):
        _check_normal(recipe, store)
        _check_square(height, width)
    if isinstance(method, SuperResolution):
        _check_pairs(method, recipe, store)
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


def _check_normal(recipe: Recipe, store: Store) -> None:
    """Refuse a store that lacks normal rows to learn from, or to be tested on."""
    normal = normal_class(recipe.method, store.classes) or 0
    rows = store.rows
    testing = rows.loc[rows["label"] == normal, "split"] == "test"
    for what, there in (("training", (~testing).any()), ("test", testing.any())):
        if not there:
            raise ConfigError(
                f"{store.path} has no {what} rows of class {store.classes[normal]}, which task "
                f"{recipe.task} learns; prepare a store that has them, or name another class with "
                "method.normal"
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


def _check_sides(method: Classification, recipe: Recipe, store: Store) -> None:
    _, height, width = recipe.data.in_memory(store.image_shape, store.dtype.name)[0]
    if method.tta == "d4" and height != width:
        raise ConfigError(
            f"method.tta d4 turns images by quarters, and these have {height} by {width} pixels; "
            f"use --set method.tta=none, or data.image_size={min(height, width)}"
        )


def _check_smote(recipe: Recipe) -> None:
    if recipe.data.loading == "stream":
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


def _check_groups(rows: pd.DataFrame, testing: np.ndarray) -> None:
    shared = set(rows.loc[testing, "group"]) & set(rows.loc[~testing, "group"])
    if shared:
        raise DataError(
            f"group {min(shared)!r} lies in the test split and in training "
            f"({len(shared)} such groups); prepare the store with a split that keeps groups whole"
        )


def _check_batches(recipe: Recipe, splits: pd.DataFrame) -> None:
    """Refuse a fold that trains on less than one batch, or lacks a class."""
    dev = splits[splits["split"] == "dev"]
    one_class = isinstance(recipe.method, Anomaly)
    wanted = set(dev["label"]) if one_class else set(splits.loc[splits["label"] >= 0, "label"])
    for fold in range(recipe.folds):
        num_training = int((dev["fold"] != fold).sum())
        if num_training < recipe.train.batch_size:
            raise ConfigError(
                f"fold {fold} trains on {num_training} rows, fewer than train.batch_size "
                f"{recipe.train.batch_size}; lower it with --set train.batch_size={num_training}"
            )
        for verb, part in (("trains", dev["fold"] != fold), ("validates", dev["fold"] == fold)):
            absent = wanted - set(dev.loc[part, "label"])
            if absent:
                raise ConfigError(
                    f"no row of class {min(absent)} {verb} fold {fold}; "
                    "add data, use fewer folds, or prepare another split"
                )


def splits_hash(splits: pd.DataFrame) -> str:
    """Return the SHA-256 of a split manifest's content."""
    return hashlib.sha256(splits.to_csv(index=False).encode()).hexdigest()


def save_plan(paths: RunPaths, plan: Plan, splits: pd.DataFrame) -> None:
    """Write the run directory's Plan and split manifest; the directory is private to the user."""
    paths.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with replacing(paths.splits) as temporary:
        splits.to_parquet(temporary, index=False)
    write_json(paths.plan, plan.model_dump(mode="json"))


def load_plan(paths: RunPaths) -> Plan:
    """Return the Plan of a run directory."""
    try:
        value: dict[str, Any] = read_json(paths.plan)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{paths.plan} cannot be read ({error}); submit the recipe again"
        ) from error
    return validate(Plan, value, str(paths.plan))


def load_splits(paths: RunPaths, plan: Plan) -> pd.DataFrame:
    """Return the split manifest, checked against the hash in the Plan."""
    import pandas as pd

    splits = pd.read_parquet(paths.splits)
    if splits_hash(splits) != plan.splits_hash:
        raise DataError(f"{paths.splits} is not the manifest of its Plan; submit the recipe again")
    return splits
