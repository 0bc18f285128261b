"""What a survey found, in words: the number, what it means, what to do; the gravest first."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from lenshpc.quality.masks import mask_shortcuts
from lenshpc.quality.neighbours import Copies
from lenshpc.quality.statistics import (
    WINDOW_DEG,
    class_rows,
    orientation,
    position_angles,
    shortcuts,
    value_ranges,
)
from lenshpc.quality.survey import ImageStatistics
from lenshpc.store import Store
from lenshpc.store.contents import count_filled_pixels

Gravity = Literal["grave", "warning", "note"]
ORDER = ("grave", "warning", "note")
MIN_STRENGTH = 0.1
MAX_P = 0.001
SHORTCUT_AUC = 0.7
GRAVE_AUC = 0.9
SATURATED_SHARE = 0.005
SAME_MAXIMUM = 0.05
UNBALANCED = 3
CROWDED = 0.25
FEW_ROWS = 30
SPLIT_WORDS = {"train": "training", "val": "validation"}  # others are called as they are


@dataclass(frozen=True, kw_only=True)
class QualityFinding:
    """One thing to know: what was found, what it means, what to do."""

    gravity: Gravity
    title: str
    meaning: str
    advice: str


def tabulate(store: Store, survey: ImageStatistics, copies: Copies) -> dict[str, Any]:
    """Return the report's tables as values that JSON can hold."""
    labels = pd.Series(store.column("label"))
    labels = labels.where(labels >= 0)  # unlabelled rows have -1, which contradicts no label
    hashes = pd.DataFrame({"pixels": survey.pixel_hash, "label": labels, "usable": survey.usable})
    several = hashes[hashes["usable"]].groupby("pixels")["label"].agg(["size", "nunique"])
    return {
        "counts": dict(store.attributes["counts"]),
        "ranges": value_ranges(store, survey),
        "num_not_finite": int((~survey.finite).sum()),
        "num_constant": int(survey.constant.sum()),
        "num_saturated": int(_is_saturated(survey).sum()),
        "zero_channels": {
            channel: int(((survey.minimum == 0) & (survey.maximum == 0))[survey.finite, at].sum())
            for at, channel in enumerate(store.channels)
        },
        "num_min_max": int(_min_max(survey).sum()),
        "maximum_spread": _maximum_spread(survey),
        "num_identical": int(several.loc[several["size"] > 1, "size"].sum()),
        "num_conflicting": int(several.loc[several["nunique"] > 1, "size"].sum()),
        "num_identical_files": _num_same_files(store),
        "copy_threshold": copies.threshold,
        "random_distance": copies.random_distance,
        "comparisons": [
            {
                "query": one.query,
                "reference": one.reference,
                "num_images": len(one.distances),
                "least": float(one.distances.min()),
                "median": float(np.median(one.distances)),
                "num_identical": one.num_identical,
                "num_candidates": one.num_candidates,
                "num_near": one.num_near,
                "num_turned": one.num_turned,
                "num_same_group": _num_same_group(store, one.closest),
            }
            for one in copies.comparisons
        ],
        "orientation": {
            name: orientation(position_angles(survey.ellipticity[class_rows(store, survey, at)]))
            for at, name in enumerate(store.classes)
        },
        "orientation_all": orientation(position_angles(survey.ellipticity[survey.usable])),
        "shortcuts": shortcuts(store, survey, survey.features),
        "filled": count_filled_pixels(store),
        "mask_shortcuts": mask_shortcuts(store, survey),
        "has_targets": store.targets is not None,
    }


def _is_saturated(survey: ImageStatistics) -> Any:
    return (survey.at_maximum > SATURATED_SHARE).any(axis=1) & survey.usable


def _min_max(survey: ImageStatistics) -> Any:
    return ((survey.minimum == 0) & (survey.maximum == 1)).all(axis=1) & survey.finite


def _maximum_spread(survey: ImageStatistics) -> float | None:
    """Return (99 % - 1 %) / median of the images' maxima, of the channel where it is widest."""
    if not survey.usable.any():
        return None
    low, middle, high = np.quantile(survey.maximum[survey.usable], [0.01, 0.5, 0.99], axis=0)
    spread = (high - low) / np.where(middle == 0, np.nan, np.abs(middle))
    return None if np.isnan(spread).all() else float(np.nanmax(spread))


def _num_same_group(store: Store, pairs: pd.DataFrame) -> int:
    copies = pairs[pairs["is_copy"]]
    one, other = (store.text("group", copies[name].to_numpy()) for name in ("row", "nearest"))
    return int((one.to_numpy(zero_copy_only=False) == other.to_numpy(zero_copy_only=False)).sum())


def _num_same_files(store: Store) -> int:
    hashes = np.ascontiguousarray(store.column("sha256")).view("V32").reshape(-1)
    counts = np.unique(hashes, return_counts=True)[1]
    return int(counts[counts > 1].sum())


def find(store: Store, tables: dict[str, Any]) -> list[QualityFinding]:
    """Return the findings that the tables give rise to, the gravest first."""
    found = [
        *_find_broken(store, tables),
        *_copies(tables),
        *_shortcut(tables),
        *_find_filled(store, tables),
        *_orientation(tables),
        *_scaling(store, tables),
        *_balance(tables),
    ]
    return sorted(found, key=lambda one: ORDER.index(one.gravity))


def _find_broken(store: Store, tables: dict[str, Any]) -> list[QualityFinding]:
    checks: list[tuple[int, Gravity, str, str, str]] = [
        (
            tables["num_not_finite"],
            "grave",
            "contain NaN or infinite pixels",
            "One such pixel turns the loss of a whole batch into NaN.",
            "Mask or remove them at the source and prepare the store again.",
        ),
        (
            tables["num_constant"],
            "grave",
            "have the same value in every pixel",
            "They have a label but hold no information.",
            "Remove them at the source and prepare the store again.",
        ),
        (
            tables["num_saturated"],
            "note",
            f"have more than {SATURATED_SHARE:.1%} of their pixels at the image's maximum",
            "Their brightest parts are probably saturated.",
            "Do not use peak fluxes of these images.",
        ),
        *(
            (
                num,
                "warning",
                f"contain only zeros in channel {channel}",
                "The channel is missing there, and may be missing more often in one class.",
                "Remove these images, or leave the channel out.",
            )
            for channel, num in tables["zero_channels"].items()
        ),
    ]
    return [
        QualityFinding(
            gravity=gravity, title=f"{_of(num, store)} {what}", meaning=meaning, advice=advice
        )
        for num, gravity, what, meaning, advice in checks
        if num
    ]


def _of(num: int, store: Store) -> str:
    return f"{num:,} of {store.num_rows:,} images"


def _copies(tables: dict[str, Any]) -> list[QualityFinding]:
    found = []
    if tables["num_conflicting"]:
        found.append(
            QualityFinding(
                gravity="grave",
                title=f"{tables['num_conflicting']:,} images have exactly the pixels of an image "
                "with another label",
                meaning="At least one of the two labels is wrong.",
                advice="Correct the labels at the source and prepare the store again.",
            )
        )
    for one in tables["comparisons"]:
        found += _describe_copies(one)
        across = one["query"] != one["reference"]
        if across and one["median"] < CROWDED * tables["random_distance"]:
            found.append(_describe_crowding(one, tables["random_distance"]))
    return found


def _describe_copies(one: dict[str, Any]) -> list[QualityFinding]:
    """Return a finding for each kind of copies within a split, or of one split in another."""
    across = one["query"] != one["reference"]
    query, reference = (SPLIT_WORDS.get(one[key], one[key]) for key in ("query", "reference"))
    other = (
        "another" if not across else "an" if reference[0] in "aeiou" else "a"
    ) + f" {reference}"
    kinds = {
        f"have exactly the same pixels as {other} image": one["num_identical"],
        f"differ from {other} image by no more than noise": one["num_near"],
        f"differ from {other} image, turned or mirrored, by no more than noise": one["num_turned"],
    }
    return [
        QualityFinding(
            gravity="grave" if across else "warning",
            title=f"{num:,} of {one['num_images']:,} {query} images {kind}",
            meaning=_explain_copies(query, reference),
            advice="Look at the closest pairs, since smooth images can match by chance. Give true "
            "copies the same group in the dataset file and prepare the store again: splits and "
            f"folds keep groups together. Of the closest pairs, {one['num_same_group']:,} already "
            "share a group.",
        )
        for kind, num in kinds.items()
        if num
    ]


def _explain_copies(query: str, reference: str) -> str:
    if query == "unlabelled":
        return "A network that learns from unlabelled images sees these twice."
    if query == reference == "test":
        return "Copies are not independent, so intervals on test images are too narrow."
    if query == reference:
        return "If copies are in different folds, members validate on what they trained on."
    if reference == "training":
        return f"Copies make {query} scores too good: the network has seen them in training."
    return f"Scores on {reference} and {query} images are not independent."


def _describe_crowding(one: dict[str, Any], random_distance: float) -> QualityFinding:
    query, reference = (SPLIT_WORDS.get(one[key], one[key]) for key in ("query", "reference"))
    return QualityFinding(
        gravity="note",
        title=f"{query.capitalize()} images are very similar to {reference} images: the median "
        f"distance to the nearest one is {one['median']:.3f}, to a random one "
        f"{random_distance:.2f}",
        meaning="Few parameters were varied, or the same values were used again. A search for the "
        "nearest image does well on such a set, and scores say little about other data.",
        advice="Compare the network with a nearest-neighbour baseline, and test it on other data.",
    )


def _shortcut(tables: dict[str, Any]) -> list[QualityFinding]:
    return _tell_shortcuts(
        tables["shortcuts"],
        "A network may learn this number and nothing else. If the difference comes from how the "
        "set was made and not from the sky, the network will fail on other data.",
        "Compare every score with the AUC of this number, and find out why the classes differ.",
    )


def _tell_shortcuts(table: list[dict[str, Any]], meaning: str, advice: str) -> list[QualityFinding]:
    """Return a finding for each pair of classes that a number tells apart."""
    pairs: dict[frozenset[str], dict[str, Any]] = {}
    for line in table:  # the best statistic of each pair of classes comes first
        if line["auc"] >= SHORTCUT_AUC and line["p"] < MAX_P:
            pairs.setdefault(frozenset((line["higher"], line["lower"])), line)
    return [
        QualityFinding(
            gravity="grave" if line["auc"] >= GRAVE_AUC else "warning",
            title=f"The {line['statistic']} alone separates {line['higher']} from {line['lower']} "
            f"with an AUC of {line['auc']:.3f} (it is higher in {line['higher']})",
            meaning=meaning,
            advice=advice,
        )
        for line in pairs.values()
    ]


def _find_filled(store: Store, tables: dict[str, Any]) -> list[QualityFinding]:
    leaks = _tell_shortcuts(
        tables["mask_shortcuts"],
        "Which pixels are bad depends on the class. This gives the label away to networks that see "
        "the masks, and through the filled values to all others.",
        "Do not use data.mask_channels. Mask both classes in the same way and prepare the store "
        "again, or compare every score with the AUC of this number.",
    )
    if leaks or not (num := _num_filled(tables["filled"])):
        return leaks
    return [
        QualityFinding(
            gravity="note",
            title=f"{_of(num, store)} have bad pixels that were filled",
            meaning="These pixels hold the value that image.bad_pixels sets. No difference between "
            "the classes was found in which pixels are bad.",
            advice="Set data.mask_channels to show networks where they are.",
        )
    ]


def _num_filled(filled: dict[str, dict[str, dict[str, float]]] | None) -> int:
    splits = (filled or {}).values()
    return sum(int(one["images"]) for classes in splits for one in classes.values())


def _orientation(tables: dict[str, Any]) -> list[QualityFinding]:
    one = tables["orientation_all"]
    if one["num"] == 0 or one["p"] >= MAX_P or one["strength"] < MIN_STRENGTH:
        return []
    uniform = 2 * WINDOW_DEG / 180
    return [
        QualityFinding(
            gravity="warning",
            title=f"{one['near_axis']:.0%} of position angles are within {WINDOW_DEG:.0f}° of "
            f"{one['axis_deg']:.0f}° ({one['near_x']:.0%} within {WINDOW_DEG:.0f}° of the x-axis); "
            f"with random orientations it would be {uniform:.0%}",
            meaning="The sky has no preferred direction, so this comes from how the images were "
            "made. A network learns it, and fails on images with other orientations.",
            advice="Augment with rotations by any angle (affine), and test on turned images.",
        )
    ]


def _scaling(store: Store, tables: dict[str, Any]) -> list[QualityFinding]:
    advice = "Do not measure magnitudes or colours on them, and scale new images in the same way."
    if tables["num_min_max"] > store.num_rows / 2:
        what = "each channel" if len(store.channels) > 1 else "the image"
        return [
            QualityFinding(
                gravity="warning",
                title=f"{_of(tables['num_min_max'], store)} were scaled one by one: {what} runs "
                "from exactly 0 to exactly 1",
                meaning="The absolute flux is lost, and with several channels the colours too.",
                advice=advice,
            )
        ]
    spread = tables["maximum_spread"]
    if spread is not None and spread <= SAME_MAXIMUM:
        return [
            QualityFinding(
                gravity="warning",
                title=f"All images have nearly the same maximum (98 % of them within {spread:.1%})",
                meaning="They were scaled one by one, or are saturated: the absolute flux is lost.",
                advice=advice,
            )
        ]
    return []


def _balance(tables: dict[str, Any]) -> list[QualityFinding]:
    found = []
    for split, counts in tables["counts"].items():
        low, high = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        name = SPLIT_WORDS.get(split, split)
        if counts[low] and counts[high] / counts[low] >= UNBALANCED:
            found.append(
                QualityFinding(
                    gravity="note",
                    title=f"The {name} split has {counts[high] / counts[low]:.0f} images of {high} "
                    f"for each one of {low}",
                    meaning=f"Accuracy is high even for a network that never answers {low}, and "
                    "ROC AUC hardly shows the false positives.",
                    advice="Judge by PR AUC and recall. For training use method.class_weights or "
                    "data.sampling, not both.",
                )
            )
        if counts[low] < FEW_ROWS:
            found.append(
                QualityFinding(
                    gravity="warning" if counts[low] == 0 else "note",
                    title=f"The {name} split has only {counts[low]} images of {low}",
                    meaning="Scores from so few images scatter widely.",
                    advice="Read such scores with their intervals, or add images.",
                )
            )
    return found
