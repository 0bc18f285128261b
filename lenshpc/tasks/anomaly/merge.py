"""Merge the members' anomaly scores, each brought to one scale by the member's own normal rows.

The scale is (score - median) / interquartile range of the normal rows that are out-of-fold to it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.run.merging import Floats, Merger
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, mark_scored
from lenshpc.run.predictions import ENSEMBLE, read_predictions
from lenshpc.run.recipe import is_variant
from lenshpc.run.stages import Stages
from lenshpc.tasks.anomaly.settings import Anomaly

TURNED = "rot90_"
SCORES = ("rel_mse", "mse", "ssim_error")  # the first is the model's headline
PARTS: Mapping[str, tuple[str, ...]] = {
    "training": ("train", "excluded"),
    "validation": ("oof", "excluded"),
    "test": ("test",),
}
SEEN, JUDGED = "train", ("oof", "excluded", "test")

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class MergedScores:
    """Scores of all rows: `rows` has row, id, label, group, split (train, oof, excluded, test).

    A row may stand twice, as train and as oof: to one member it is this, to another that. `values`
    and `turned` (of the images turned by 90°) have (N,) by line, a model with one of its scores;
    NaN where no member is there. `heads` has each model's line that stands for it.
    """

    rows: pd.DataFrame
    anomalous: Flags
    values: Mapping[str, Floats]
    turned: Mapping[str, Floats]
    heads: Mapping[str, str]

    @property
    def headline(self) -> str:
        """Return the line that stands for the run."""
        return ENSEMBLE if ENSEMBLE in self.values else next(iter(self.heads.values()))

    def part(self, name: str) -> Flags:
        """Return which rows are of `training`, `validation` or `test`."""
        return self.rows["split"].isin(PARTS[name]).to_numpy()


def merge_scores(
    run: RunPaths,
    plan: Plan,
    splits: pd.DataFrame,
    missing: Collection[Member] = (),
    stages: Stages | None = None,
) -> MergedScores:
    """Return the mean score of each row over the members to which it is of the same split."""
    ensembles = plan.ensembles(missing)
    everyone = [member for members in ensembles.values() for member in members]
    rows, judged, seen = _list_rows(plan, splits, everyone)
    # The order in which the members came must not decide the order of rows, which resamples are
    # drawn by.
    order = rows.sort_values(["split", "row"]).index
    values: dict[str, Floats] = {}
    turned: dict[str, Floats] = {}
    heads: dict[str, str] = {}
    for model, members in ensembles.items():
        if not members:
            continue
        scales = {member: _find_scales(run, plan, splits, member) for member in members}
        merger = Merger(
            run=run,
            plan=plan,
            splits=splits,
            members=members,
            columns=[*SCORES, *(f"{TURNED}{name}" for name in SCORES)],
            convert=partial(_rescale, scales=scales),
            parts=JUDGED,
            rows=judged,
            stages=stages or Stages(),
        )
        trained = replace(merger, parts=(SEEN,), rows=seen)
        means = np.concatenate([merger.merge(), trained.merge()])[order]
        for at, name in enumerate(SCORES):
            line = f"{model} {name}"
            heads.setdefault(model, line)
            values[line], turned[line] = means[:, at], means[:, len(SCORES) + at]
    parts = [line for model, line in heads.items() if not is_variant(model)]
    if len(parts) > 1:
        for table in (values, turned):
            table[ENSEMBLE] = np.mean([table[line] for line in parts], axis=0)
    normal = Anomaly.of(plan.recipe.method).normal_label(plan.classes)
    rows = rows.loc[order].reset_index(drop=True)
    return MergedScores(
        rows=rows,
        anomalous=(rows["label"] != normal).to_numpy(),
        values=values,
        turned=turned,
        heads=heads,
    )


def _list_rows(
    plan: Plan, splits: pd.DataFrame, members: Sequence[Member]
) -> tuple[pd.DataFrame, Flags, Flags]:
    """Return a line a row and what it is to members, and flags of the manifest's rows.

    They are those that members are judged by, and those that one has trained on. A row may be both,
    to different members: it stands there twice.
    """
    judged, seen = np.zeros((2, len(splits)), dtype=bool)
    words = np.full(len(splits), "", dtype=object)
    for member in {member.fold: member for member in members}.values():
        marks, names = mark_scored(plan, splits, member)
        seen |= marks == names.index(SEEN)
        for name in JUDGED:
            mine = marks == names.index(name)
            words[mine] = name
            judged |= mine
    plain = splits.drop(columns=["split", "fold"])
    parts = [plain[judged].assign(split=words[judged]), plain[seen].assign(split=SEEN)]
    return pd.concat(parts, ignore_index=True).astype({"split": "str"}), judged, seen


def _find_scales(run: RunPaths, plan: Plan, splits: pd.DataFrame, member: Member) -> Floats:
    """Return middle and span (2, width) of a member's scores; those of turned images are alike."""
    frame = read_predictions(run, plan, splits, member, SCORES)
    scales = [find_scale(frame, name) for name in SCORES]
    return np.array([*scales, *scales]).T


def _rescale(member: Member, values: Floats, scales: Mapping[Member, Floats]) -> Floats:
    middle, span = scales[member]
    return np.asarray((values - middle) / span)


def find_scale(frame: pd.DataFrame, name: str) -> tuple[float, float]:
    """Return median and interquartile range of a member's score of its out-of-fold normal rows."""
    # Normal rows out-of-fold alone decide on scale and threshold: neither test rows nor those set
    # aside may move them.
    own = frame.loc[frame["split"] == "oof", name]
    low, middle, high = own.quantile([0.25, 0.5, 0.75])
    return middle, high - low if high > low else 1.0
