"""What stands beside an AUC that misleads alone."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from lenshpc.report.remarks import describe_perfect, explain_boosting, note_constant


def rows(num_positive, num_negative):
    return np.repeat([True, False], [num_positive, num_negative])


@pytest.mark.parametrize(
    ("positives", "negatives", "pairs", "told"),
    [
        (50, 150, 50, "0.941"),
        (150, 50, 50, "0.941"),
        (1, 9, 1, "0.050"),
        (30_000, 40_000, 30_000, "0.999900"),
    ],
)
def test_perfect_order_is_bounded_by_as_many_pairs_as_share_no_image(
    positives, negatives, pairs, told
):
    assert describe_perfect(rows(positives, negatives), None) == (
        f"No test image is out of order among {positives:,} positives and {negatives:,} negatives: "
        f"with 95% confidence the true AUC is above {told}."
    )
    exact = binomtest(pairs, pairs, alternative="greater").proportion_ci(0.95, "exact").low
    assert exact - 10 ** -len(told[2:]) < float(told) <= exact


def test_images_of_a_group_count_once():
    crowds = np.array(["a"] * 25 + ["b"] * 25 + ["c"] * 30 + ["d"] * 30)
    told = "No test image is out of order among 50 positives and 60 negatives: with 95% confidence "
    assert describe_perfect(rows(50, 60), crowds) == f"{told}the true AUC is above 0.223."
    mixed = np.array((["a", "b", "c"] * 40)[:110])  # three groups with rows of both kinds
    assert describe_perfect(rows(50, 60), mixed) == f"{told}the true AUC is above 0.050."


def test_lines_with_one_score_for_all_rows_are_named_with_the_reason():
    same, other = (SimpleNamespace(auc=0.5, auc_low=low, auc_high=1 - low) for low in (0.5, 0.4))
    lines = {"boosting": same, "resnet18": same, "ring radius": other}
    assert note_constant(lines, {"boosting": explain_boosting(39)}) == (
        "One score for all rows, and so an AUC of 0.5: boosting, as boosting needs 40 training "
        "images and has 39; resnet18."
    )
    assert note_constant({"ring radius": other}, {}) == ""
    assert explain_boosting(40) == "what it is told of the images is alike in all"
