"""The verdict's rules, each way, on evidence made by hand; and what evidence is made of."""

from dataclasses import replace
from math import nan

import numpy as np
import pytest
from scipy.stats import chi2_contingency, norm
from sklearn.metrics import roc_auc_score

from lenshpc.report.evidence import find_gaps, measure_folds
from lenshpc.report.verdict import Check, Estimate, Evidence, Verdict, find_verdict, format_verdict
from lenshpc.statistics.measures import AUC, MeanMeasure


def about(value, reach=0.02, name=""):
    return Estimate(value=value, low=value - reach, high=value + reach, name=name)


GOOD = Evidence(
    subject="the ensemble",
    measure="AUC",
    test=about(0.95),
    small=0.01,
    large=0.05,
    wide=0.1,
    num_rows=200,
    rows="test images of lens",
    chance=0.5,
    baselines=(about(0.30, name="mean"), about(0.04, name="boosting")),
    turn=about(0.001, 0.005),
    oof=about(0.94),
    folds=(about(0.93), about(0.95), about(0.94)),
)


def judge(**changes):
    """Return the check that differs from those of a run which is good in all."""
    verdict, good = find_verdict(replace(GOOD, **changes)), find_verdict(GOOD)
    [check] = [one for one in verdict.checks if one not in good.checks] or [None]
    assert check is None or verdict.colour == (check.colour or "green")
    return check


def test_run_that_is_good_in_all_is_green_and_says_so():
    verdict = find_verdict(GOOD)
    assert verdict.colour == "green"
    assert [one.colour for one in verdict.checks] == ["green"] * 6
    assert verdict.sentence == (
        "The ensemble has a test AUC of 0.950, better than every baseline: it beats the "
        "closest one, boosting, by 0.040 [0.020, 0.060]. The other checks agree: "
        "chance, turn, out-of-fold, rows, folds."
    )
    assert [one.text for one in verdict.checks[1:]] == [
        "It is above chance (0.500): 0.950 [0.930, 0.970].",
        "Turning the images by 90° makes no difference that matters (0.001 [-0.004, 0.006]).",
        "Out-of-fold and test agree (0.940 out-of-fold, 0.950 on test rows).",
        "There are enough rows: 200 test images of lens give an interval 0.040 wide.",
        "The 3 folds differ by no more than the scatter of their rows (0.930 to 0.950).",
    ]
    assert format_verdict(verdict) == f"verdict: green. {verdict.sentence}"
    assert Verdict.from_json(verdict.as_json()) == verdict
    assert format_verdict(None) == "verdict: none. This task's report gives none."


@pytest.mark.parametrize(
    ("baselines", "colour", "text"),
    [
        (
            (about(0.01, name="boosting"), about(0.3, name="mean")),
            "amber",
            "Not shown to beat a baseline: the ensemble has a test AUC of 0.950; the difference "
            "from boosting is 0.010 [-0.010, 0.030], which includes 0.",
        ),
        (
            (about(-0.03, name="boosting"), about(0.3, name="mean")),
            "red",
            "A baseline is better: the ensemble has a test AUC of 0.950; boosting is better by "
            "0.030 [0.010, 0.050].",
        ),
        (
            (about(nan, name="boosting"), about(0.3, name="mean")),
            "amber",
            "Not shown to beat a baseline: boosting cannot be compared.",
        ),
        ((), "amber", "Not shown to beat a baseline: there is none here (no store)."),
        (None, None, "This task has no baseline to beat."),
    ],
)
def test_headline_has_to_beat_every_baseline(baselines, colour, text):
    check = judge(baselines=baselines, unjudged="no store")
    assert check == Check(name="baseline", colour=colour, text=text)


def test_baseline_that_is_not_beaten_is_said_first_even_before_what_is_worse():
    baselines = (about(0.01, name="boosting"),)
    verdict = find_verdict(replace(GOOD, test=about(0.51), oof=about(0.51), baselines=baselines))
    assert verdict.colour == "red"
    assert verdict.sentence == (
        "Not shown to beat a baseline: the ensemble has a test AUC of 0.510; the difference from "
        "boosting is 0.010 [-0.010, 0.030], which includes 0. It cannot be told apart from chance "
        "(0.500): the test AUC is 0.510 [0.490, 0.530]."
    )


@pytest.mark.parametrize(
    ("value", "colour"), [(0.53, "green"), (0.51, "red"), (0.4, "red"), (nan, "amber")]
)
def test_whole_interval_lies_above_chance(value, colour):
    verdict = find_verdict(replace(GOOD, test=about(value), oof=None))
    assert verdict.checks[1].colour == colour


def test_of_a_distance_the_whole_interval_lies_below_chance():
    below = replace(GOOD, best=-1, chance=1.0, oof=None)
    assert find_verdict(below).checks[1].colour == "green"
    assert find_verdict(replace(below, test=about(0.99))).checks[1].colour == "red"


@pytest.mark.parametrize(
    ("turn", "colour"),
    [
        (about(-0.009, 0.001), "green"),  # certain, and too small to matter
        (about(-0.04, 0.05), "green"),  # the interval holds 0
        (about(-0.03, 0.02), "amber"),
        (about(0.03, 0.02), "amber"),  # learnt orientation shows as a rise, too
        (about(-0.08, 0.02), "red"),
        (None, None),
        (about(nan), None),
    ],
)
def test_quarter_turn_changes_nothing(turn, colour):
    assert (judge(turn=turn) or find_verdict(GOOD).checks[2]).colour == colour


@pytest.mark.parametrize(
    ("oof", "colour"),
    [
        (0.96, "green"),  # within the scatter of both
        (0.975, "green"),
        (0.985, "amber"),  # 0.035, above two standard deviations of 0.0144
        (0.999, "amber"),
        (1.02, "red"),
        (0.91, "green"),  # test rows have the mean over folds, which is better
        (0.85, "amber"),
        (None, None),
    ],
)
def test_test_rows_are_like_those_out_of_fold(oof, colour):
    check = judge(oof=None if oof is None else about(oof))
    assert check.colour == colour


@pytest.mark.parametrize(
    ("changes", "colour", "text"),
    [
        (
            {"num_rows": 19},
            "amber",
            "Too few rows to tell: 19 test images of lens, and at least 20 are needed.",
        ),
        (
            {"wide": 0.03},
            "amber",
            "Too few rows to tell: 200 test images of lens give an interval 0.040 wide, above "
            "0.030.",
        ),
        (
            {"test": about(0.95, 0)},
            "amber",
            "All resamples of the 200 test images of lens give the same score, so the interval "
            "says too little.",
        ),
    ],
)
def test_rows_suffice_to_tell(changes, colour, text):
    [check] = [one for one in find_verdict(replace(GOOD, **changes)).checks if one.name == "rows"]
    assert check == Check(name="rows", colour=colour, text=text)


def test_what_few_rows_seem_to_say_is_read_after_their_number():
    few = replace(GOOD, num_rows=10, turn=about(-0.08, 0.02))
    assert find_verdict(few).colour == "amber"
    assert find_verdict(few).sentence == (
        "Too few rows to tell: 10 test images of lens, and at least 20 are needed. Turning the "
        "images by 90° changes the AUC by -0.080 [-0.100, -0.060]: scores depend on orientation."
    )


def test_chance_out_of_fold_is_told_beside_test_rows_above_it():
    check = find_verdict(replace(GOOD, test=about(0.7, 0.1), oof=about(0.48, 0.1))).checks[1]
    assert check.colour == "amber"
    assert check.text == (
        "It is above chance (0.500) on test rows alone: 0.700 [0.600, 0.800], and out-of-fold "
        "0.480 [0.380, 0.580]."
    )


def test_folds_are_alike_as_a_test_of_equal_shares_says():
    """Cochran's Q of shares is Pearson's chi-squared up to how variances are pooled."""
    hits, num = np.array([80, 95, 88]), 100
    shares = hits / num
    folds = tuple(
        Estimate.of(share, (share * (1 - share) / num) ** 0.5) for share in shares.tolist()
    )
    assert chi2_contingency(np.array([hits, num - hits]))[1] < 0.01
    check = judge(folds=folds)
    assert check == Check(
        name="folds",
        colour="amber",
        text="The folds differ by more than the scatter of their rows: 0.800 to 0.950.",
    )
    assert judge(folds=tuple(about(one.value, 0.2) for one in folds)).colour == "green"
    assert judge(folds=(about(0.9), about(0.905))).colour == "green"  # too little to matter
    assert judge(folds=(about(0.9, 0), about(0.95, 0))).colour == "amber"
    assert judge(folds=(about(0.9), about(nan))).colour is None


def test_run_that_is_not_whole_is_not_green():
    assert judge(num_missing=2) == Check(
        name="members", colour="amber", text="The run is incomplete: 2 members missing."
    )


def test_task_without_anything_to_judge_says_so():
    empty = replace(
        GOOD,
        baselines=None,
        chance=None,
        turn=None,
        oof=None,
        folds=(),
        test=about(nan),
    )
    verdict = find_verdict(empty)
    assert [one.colour for one in verdict.checks] == [None, None, None, None, "green", None]
    assert verdict.sentence == "There are enough rows: 200 test images of lens."


def test_gaps_are_those_of_delong_by_hand():
    """The variance of a difference of AUCs, from its placement values (DeLong et al. 1988)."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [60, 40])
    score = rng.normal(size=100) + labels
    other = 0.5 * score + rng.normal(size=100)
    head, rival = (np.stack([-one, one], axis=1) for one in (score, other))
    [gap] = find_gaps(labels, head, {"rival": rival}, None, AUC)

    def place(one):
        beats = one[labels == 1][:, None] > one[labels == 0][None]
        return beats.mean(axis=1), beats.mean(axis=0)

    apart = [a - b for a, b in zip(place(score), place(other), strict=True)]
    std = sum(one.var(ddof=1) / len(one) for one in apart) ** 0.5
    value = roc_auc_score(labels, score) - roc_auc_score(labels, other)
    low, high = norm.interval(0.95, value, std)
    found = [gap.value, gap.low, gap.high]
    assert (gap.name, found) == ("rival", pytest.approx([value, low, high]))
    assert not find_gaps(labels * 0, head, {"rival": rival}, None, AUC)[0].is_known


def test_folds_have_a_mean_and_its_standard_error_each():
    values = np.random.default_rng(1).normal(size=30)
    values[4] = nan
    folds = np.arange(30) % 2
    found = measure_folds(
        folds, np.zeros(30, np.int64), values, None, MeanMeasure(name="error", best=-1)
    )
    parts = [values[0::2][np.isfinite(values[0::2])], values[1::2]]
    assert [one.value for one in found] == pytest.approx([part.mean() for part in parts])
    assert [one.std for one in found] == pytest.approx(
        [part.std(ddof=1) / len(part) ** 0.5 for part in parts]
    )
