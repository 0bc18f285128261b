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


@dataclass(frozen=True, kw_only=True)
class QualityFinding:
    """One thing to know: what was found, what it means, what to do."""

    gravity: Gravity
    title: str
    meaning: str
    advice: str


def tabulate(store: Store, survey: ImageStatistics, copies: Copies) -> dict[str, Any]:
    """Return the report's tables as values that JSON can hold."""
    hashes = pd.DataFrame(
        {"pixels": survey.pixel_hash, "label": store.column("label"), "usable": survey.usable}
    )
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
            "hold NaN or infinity",
            "One such pixel turns the loss of a whole batch into NaN.",
            "Mask or drop them at the source and prepare again.",
        ),
        (
            tables["num_constant"],
            "grave",
            "are constant",
            "They carry a label and no information.",
            "Drop them at the source and prepare again.",
        ),
        (
            tables["num_saturated"],
            "note",
            f"have more than {SATURATED_SHARE:.1%} of their pixels at their maximum",
            "Their brightest parts are cut off.",
            "Look at the gallery; do not use peak fluxes of these images.",
        ),
        *(
            (
                num,
                "warning",
                f"have nothing but zeros in channel {channel}",
                "The channel is missing there, and its absence may go with a class.",
                "Drop these images, or the channel.",
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
                title=f"{tables['num_conflicting']:,} images with the same pixels have two labels",
                meaning="One of the labels is wrong, whatever a network learns.",
                advice="Settle the labels at the source.",
            )
        )
    for one in tables["comparisons"]:
        kinds = {
            "have the same pixels as": one["num_identical"],
            "are near copies of": one["num_near"],
            "are turned or mirrored copies of": one["num_turned"],
        }
        across = one["query"] != one["reference"]
        for kind, num in kinds.items():
            if num:
                other = f"{one['reference']} images" if across else "another of them"
                found.append(
                    QualityFinding(
                        gravity="grave" if across else "warning",
                        title=f"{num:,} of {one['num_images']:,} {one['query']} images "
                        f"{kind} {other}",
                        meaning="Scores on them measure memory: the split leaks."
                        if across
                        else "Copies that fall into two folds leak from one to the other.",
                        advice=f"{one['num_same_group']:,} of the closest pairs share a group. "
                        "Give copies the same group when you prepare: splits keep groups whole.",
                    )
                )
        if across and one["median"] < CROWDED * tables["random_distance"]:
            found.append(_describe_crowding(one, tables["random_distance"]))
    return found


def _describe_crowding(one: dict[str, Any], random_distance: float) -> QualityFinding:
    return QualityFinding(
        gravity="note",
        title=f"{one['query'].capitalize()} and {one['reference']} lie close: the nearest image is "
        f"at {one['median']:.3f}, a random one at {random_distance:.2f} (medians)",
        meaning="Few parameters were varied, or the same values used again: images repeat nearly. "
        "A nearest-neighbour method does well here, and scores say little of other data.",
        advice="Report a nearest-neighbour baseline beside the network; test on other data too.",
    )


def _shortcut(tables: dict[str, Any]) -> list[QualityFinding]:
    return _tell_shortcuts(
        tables["shortcuts"],
        "A network may learn this and nothing else. Where it comes from the making of "
        "the set and not from the sky, it will not hold on other data.",
        "Compare every score with that of this number; find out why the classes differ.",
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
            title=f"The {line['statistic']} alone tells {line['higher']} from {line['lower']} with "
            f"AUC {line['auc']:.3f} (higher in {line['higher']})",
            meaning=meaning,
            advice=advice,
        )
        for line in pairs.values()
    ]


def _find_filled(store: Store, tables: dict[str, Any]) -> list[QualityFinding]:
    leaks = _tell_shortcuts(
        tables["mask_shortcuts"],
        "Which pixels are bad follows the label: a leak, to networks that see the masks and, by "
        "what the pixels were filled with, to all others.",
        "Leave data.mask_channels out; mask both classes alike and prepare again, or compare every "
        "score with that of this number.",
    )
    if leaks or not (num := _num_filled(tables["filled"])):
        return leaks
    return [
        QualityFinding(
            gravity="note",
            title=f"{_of(num, store)} have pixels that were filled",
            meaning="These pixels hold what bad_pixels says, and no light; masks do not tell the "
            "classes apart.",
            advice="data.mask_channels shows networks where they are.",
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
            title=f"{one['near_axis']:.0%} of position angles lie within {WINDOW_DEG:.0f}° of "
            f"{one['axis_deg']:.0f}° ({one['near_x']:.0%} within {WINDOW_DEG:.0f}° of the x-axis); "
            f"uniform would be {uniform:.0%}",
            meaning="The sky has no preferred direction; this comes from how the images were made. "
            "The network learns it and fails on images turned otherwise.",
            advice="Turn by any angle in augmentation, and test on turned images.",
        )
    ]


def _scaling(store: Store, tables: dict[str, Any]) -> list[QualityFinding]:
    advice = "Do not use magnitudes or colours; standardise after, and scale new data alike."
    if tables["num_min_max"] > store.num_rows / 2:
        what = "each channel" if len(store.channels) > 1 else "the image"
        return [
            QualityFinding(
                gravity="warning",
                title=f"{_of(tables['num_min_max'], store)} are min-max scaled: {what} runs from "
                "exactly 0 to exactly 1",
                meaning="Absolute flux is lost, and with several channels colours too.",
                advice=advice,
            )
        ]
    spread = tables["maximum_spread"]
    if spread is not None and spread <= SAME_MAXIMUM:
        return [
            QualityFinding(
                gravity="warning",
                title=f"Every image has nearly the same maximum (98 % within {spread:.1%})",
                meaning="Images were scaled one by one, or are saturated: absolute flux is lost.",
                advice=advice,
            )
        ]
    return []


def _balance(tables: dict[str, Any]) -> list[QualityFinding]:
    found = []
    for split, counts in tables["counts"].items():
        low, high = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        if counts[low] and counts[high] / counts[low] >= UNBALANCED:
            found.append(
                QualityFinding(
                    gravity="note",
                    title=f"{split}: one {low} to {counts[high] / counts[low]:.0f} {high}",
                    meaning="Accuracy is high for a network that never says "
                    f"{low}; ROC AUC hides false positives.",
                    advice="Judge by PR AUC and recall; weight the loss or the sampler, not both.",
                )
            )
        if counts[low] < FEW_ROWS:
            found.append(
                QualityFinding(
                    gravity="warning" if counts[low] == 0 else "note",
                    title=f"{split} has {counts[low]} images of {low}",
                    meaning="Figures on so few images scatter widely.",
                    advice="Read them with their interval, or enlarge the set.",
                )
            )
    return found
