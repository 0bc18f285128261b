"""The report of a run that learnt one class."""

import json
from pathlib import Path

import pandas as pd
import pytest
from anomaly_run import make_run

from lenshpc.report.write import compose, write
from lenshpc.run.results import gather

KINDS = ("svg", "pdf")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("strange"), models=("conv_ae",))
    results = gather(run.paths, run.plan, {}, allow_partial=False)
    report = compose(results)
    return report, write(report, run.paths.report).parent


def test_report_has_what_the_challenge_asks_for(written):
    report, folder = written
    sections = [section.title for section in report.sections]
    assert sections[:5] == [
        "Scores",
        "ROC curves",
        "Distributions",
        "Most and least anomalous",
        "The models as files",
    ]
    figures = {path.name for path in (folder / "figures").iterdir()}
    rocs = {f"roc_{part}.{kind}" for part in ("training", "validation", "test") for kind in KINDS}
    assert rocs | {"most_anomalous_24.png"} <= figures
    assert {
        f"scores_{part}_conv_ae_mse.{kind}"
        for part in ("training", "validation", "test")
        for kind in KINDS
    } <= figures
    page = (folder / "report.html").read_text()
    assert "whitened PCA" in page
    assert "load_model" in page


def test_every_deliverable_of_the_challenge_is_a_file(written):
    """What the table names is there: distributions of the loss, ROC, AUC, for both parts."""
    report, folder = written
    [table] = [one for _, one in report.tables() if one.title == "Deliverables of the challenge"]
    named = [name for row in table.rows[:4] for name in row.cells[1].split(", ")]
    assert len(named) == 2 + 2 + 2 + 1
    for name in named:
        first, _, second = name.removesuffix(")").partition(" (")
        assert (folder / first).is_file()
        assert not second or (folder / first).with_suffix(second).is_file()
    for part in ("training", "validation"):
        frame = pd.read_csv(folder / "tables" / f"scores-on-the-{part}-rows.csv", index_col=0)
        lines = {one["name"]: one["parts"] for one in report.content["lines"]}
        for line in ("conv_ae rel_mse", "conv_ae mse"):
            found = frame.loc[line, ["AUC", "AUC low", "AUC high"]].tolist()
            expected = [lines[line][part][key] for key in ("auc", "auc_low", "auc_high")]
            assert found == pytest.approx(expected, abs=1e-4)
    weights = table.rows[4].cells[1]
    root, _, pattern = weights.partition("/members/")
    assert len(list((Path(root) / "members").glob(pattern))) == 2


def test_json_has_every_line(written):
    _, folder = written
    content = json.loads((folder / "report.json").read_text())
    kinds = [line["kind"] for line in content["lines"]]
    assert kinds == ["model", "score", "score", *["baseline"] * 4]
    assert content["headline"]["name"] == "conv_ae rel_mse"
    assert content["headline"]["auc"] == content["lines"][0]["parts"]["test"]["auc"]
    assert content["normal"] == "class0"


def test_verdict_does_not_ask_to_beat_what_is_told_the_classes(written):
    report, _ = written
    [baseline, chance, turn, oof, *_] = report.verdict.checks
    assert "boosting" not in baseline.text
    assert chance.text.startswith("It is above chance (0.500): ")
    head = report.content["lines"][0]
    validation, test = (head["parts"][part]["auc"] for part in ("validation", "test"))
    assert oof.text == (
        f"Out-of-fold and test agree ({validation:.3f} out-of-fold, {test:.3f} on test rows)."
    )
    assert turn.colour == "green"


def test_predictions_have_a_column_a_line(written):
    report, _ = written
    assert list(report.predictions)[:5] == ["id", "row", "label", "split", "conv_ae rel_mse"]
    assert "rot90 conv_ae rel_mse" in report.predictions
