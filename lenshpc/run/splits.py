"""Decide which rows validate which fold: stratified by class, groups kept whole, seeded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lenshpc.errors import ConfigError
from lenshpc.run.checks import check_groups

if TYPE_CHECKING:  # it costs a second, which `status` need not pay
    import pandas as pd

    from lenshpc.run.recipe import Recipe
    from lenshpc.store import Store

HOLDOUT_PARTS = 10
COLUMNS = ["row", "id", "label", "group", "split", "fold"]


def split_manifest(recipe: Recipe, store: Store) -> pd.DataFrame:
    """Return one line a row: its split and the fold in which it validates.

    Several folds are cut from the store's `train` and `val` rows together. One fold is the store's
    own `val` split where it has one. Of the `dev` rows, those with fold -1 always train. Rows of
    `test`, and those `excluded` (of the classes that the method must not know), never do;
    `unlabelled` ones train without a label.
    """
    rows = store.rows
    testing = (rows["split"] == "test").to_numpy()
    if not testing.any():
        raise ConfigError(f"{store.path} has no test rows; prepare it from data with a test split")
    check_groups(rows, testing)
    splits = np.select(
        [testing, rows["split"] == "unlabelled", ~_may_train(recipe, store)],
        # The first that fits: a test row stays one, of whatever class, and is never set aside or
        # trained on.
        ["test", "unlabelled", "excluded"],
        "dev",
    )
    # Cut here, once, and stored: members that cut their own would race, and differ with the version
    # of scikit-learn.
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
    manifest: pd.DataFrame = columns[COLUMNS]
    return manifest


def find_learnt(splits: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the rows of a manifest that weights, or the choice of an epoch, have seen."""
    # dev holds validation too: the choice of an epoch has seen those rows.
    return splits.loc[splits["split"].isin(["dev", "unlabelled"]), "row"].to_numpy(np.int64)


def _may_train(recipe: Recipe, store: Store) -> npt.NDArray[np.bool_]:
    """Return which rows are of a class that the method may learn."""
    return np.isin(store.rows["label"], recipe.method.learnt_labels(store.classes))


def assign_folds(
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.str_],
    num_folds: int,
    seed: int,
) -> npt.NDArray[np.int16]:
    """Return the fold in which each row validates; -1 for a row that always trains.

    One fold is a stratified hold-out of a tenth of the rows. Rows of a group share their fold.
    """
    parts = HOLDOUT_PARTS if num_folds == 1 else num_folds
    _check_sizes(labels, groups, parts)
    grouped = len(np.unique(groups)) < len(groups)
    folds = _deal_groups(labels, groups, parts, seed) if grouped else _deal(labels, parts, seed)
    return np.where(folds < num_folds, folds, -1).astype(np.int16)


def training_rows(
    splits: pd.DataFrame, fold: int, fraction: float = 1.0, seed: int = 0
) -> pd.DataFrame:
    """Return the manifest's lines that train a fold, or a part of each class of them.

    Every row has a random number, and those with the smallest are taken: so a smaller part lies
    within a larger one, and a row is taken in all folds or in few.
    """
    rows = splits[(splits["split"] == "dev") & (splits["fold"] != fold)]
    if fraction == 1:
        return rows
    # Drawn for all rows of the manifest and then picked: drawn for the fold's own, a row's number
    # would depend on the fold.
    drawn = np.random.default_rng(seed).random(len(splits))[splits.index.get_indexer(rows.index)]
    taken = np.zeros(len(rows), dtype=bool)
    for label in rows["label"].unique():
        mine = np.flatnonzero(rows["label"] == label)
        # Smallest first: so the rows of a smaller part are among those of a larger one.
        order = mine[np.argsort(drawn[mine], kind="stable")]
        taken[order[: math.ceil(fraction * len(mine))]] = True
    return rows[taken]


def _deal(labels: npt.NDArray[np.integer], parts: int, seed: int) -> npt.NDArray[np.integer]:
    """Deal out the rows like cards, class after class, each class shuffled."""
    shuffled = np.random.default_rng(seed).random(len(labels))
    folds = np.empty(len(labels), dtype=np.int64)
    # The count goes on from class to class: begun anew, the first folds would get the odd rows of
    # every class.
    folds[np.lexsort((shuffled, labels))] = np.arange(len(labels)) % parts
    return folds


def _deal_groups(
    labels: npt.NDArray[np.integer], groups: npt.NDArray[np.str_], parts: int, seed: int
) -> npt.NDArray[np.integer]:
    from sklearn.model_selection import StratifiedGroupKFold  # takes seconds to import

    splitter = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed)
    folds = np.empty(len(labels), dtype=np.int64)
    for fold, (_, validating) in enumerate(splitter.split(labels, labels, groups)):
        folds[validating] = fold
    return folds


def _check_sizes(labels: npt.NDArray[np.integer], groups: npt.NDArray[np.str_], parts: int) -> None:
    for label in np.unique(labels):
        num_groups = len(np.unique(groups[labels == label]))
        if num_groups < parts:
            raise ConfigError(
                f"class {label} has {num_groups} independent training rows, "
                f"too few for {parts} parts; ask for fewer folds or add data"
            )
