"""Decide which rows validate which fold: stratified by class, groups kept whole, seeded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.errors import ConfigError
from lenshpc.run.checks import check_groups
from lenshpc.run.dealing import deal_groups
from lenshpc.run.manifest import PARTS

if TYPE_CHECKING:
    from lenshpc.run.recipe import Recipe
    from lenshpc.store import Store

HOLDOUT_PARTS = 10
DEV, TEST, UNLABELLED, EXCLUDED = range(len(PARTS))


def split_manifest(recipe: Recipe, store: Store) -> pd.DataFrame:
    """Return one line a row: its split and the fold in which it validates.

    Several folds are cut from the store's `train` and `val` rows together. One fold is the store's
    own `val` split where it has one. Of the `dev` rows, those with fold -1 always train. Rows of
    `test`, and those `excluded` (of the classes that the method must not know), never do;
    `unlabelled` ones train without a label.
    """
    labels, testing = store.column("label"), store.in_split("test")
    if not testing.any():
        raise ConfigError(
            f"{store.path} has no test rows; give some images a folder of their own, a split "
            "column or a holdout in the dataset file, then prepare another store"
        )
    # None where each row is a group of its own: there is nothing to keep together.
    groups = store.text("group").dictionary_encode() if store.is_grouped else None
    if groups is not None:
        check_groups(groups, testing)
    # The first that fits: a test row stays one, of whatever class, and is never set aside or
    # trained on.
    may_train = np.isin(labels, recipe.method.learnt_labels(store.classes))
    conditions = [testing, store.in_split("unlabelled"), ~may_train]
    splits = np.select(conditions, [TEST, UNLABELLED, EXCLUDED], DEV).astype(np.int8)
    # Cut here, once, and stored: members that cut their own would race.
    folds = np.full(len(labels), -1, dtype=np.int16)
    dev = splits == DEV
    own = dev & store.in_split("val")
    if recipe.folds == 1 and own.any():
        folds[own] = 0
    else:
        codes = None if groups is None else groups.indices.to_numpy()[dev]
        folds[dev] = assign_folds(labels[dev], codes, recipe.folds, recipe.split_seed)
    return pd.DataFrame(
        {
            "row": np.arange(len(labels)),
            "id": store.text("id").to_pandas(),
            "label": labels,
            "group": store.text("group").to_pandas(),
            "split": pd.Categorical.from_codes(splits, dtype=pd.CategoricalDtype(list(PARTS))),
            "fold": folds,
        }
    )


def find_learnt(splits: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the rows of a manifest that weights, or the choice of an epoch, have seen."""
    # dev holds validation too: the choice of an epoch has seen those rows.
    return splits.loc[splits["split"].isin(["dev", "unlabelled"]), "row"].to_numpy(np.int64)


def assign_folds(
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer] | None,
    num_folds: int,
    seed: int,
) -> npt.NDArray[np.int16]:
    """Return the fold in which each row validates; -1 for a row that always trains.

    One fold is a stratified hold-out of a tenth of the rows. Rows of a group, which `groups` has
    numbers of, share their fold; without groups each row is one of its own.
    """
    parts = HOLDOUT_PARTS if num_folds == 1 else num_folds
    numbers = None if groups is None else pd.factorize(groups)[0]
    if numbers is None or numbers.max(initial=-1) == len(labels) - 1:
        _check_sizes(labels, parts)
        folds = _deal(labels, parts, seed)
    else:
        table = _count_classes(labels, numbers)
        _check_sizes(np.repeat(np.arange(table.shape[1]), (table > 0).sum(axis=0)), parts)
        folds = deal_groups(table, parts, seed)[numbers]
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


def _count_classes(
    labels: npt.NDArray[np.integer], groups: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Return how many rows of each class a group has: (number of groups, number of classes)."""
    num_classes = int(labels.max()) + 1
    cells = groups.astype(np.int64) * num_classes + labels
    return np.bincount(cells, minlength=(groups.max() + 1) * num_classes).reshape(-1, num_classes)


def _check_sizes(labels: npt.NDArray[np.integer], parts: int) -> None:
    """Refuse a class of fewer groups than parts; `labels` has the class once for each group."""
    for label, num_groups in zip(*np.unique(labels, return_counts=True), strict=True):
        if num_groups < parts:
            raise ConfigError(
                f"class {label} has {num_groups} independent training rows, "
                f"too few for {parts} parts; ask for fewer folds or add data"
            )
