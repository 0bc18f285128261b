"""The report of a run that learnt one class."""

import json

import pytest
from anomaly_run import make_run

from lenshpc.report.write import compose, write
from lenshpc.run.results import gather


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
    assert {"roc_validation.svg", "roc_test.svg", "most_anomalous_24.png"} <= figures
    assert {
        f"scores_{part}_conv_ae_mse.svg" for part in ("training", "validation", "test")
    } <= figures
    page = (folder / "report.html").read_text()
    assert "whitened PCA" in page
    assert "load_model" in page


def test_json_has_every_line(written):
    _, folder = written
    content = json.loads((folder / "report.json").read_text())
    kinds = [line["kind"] for line in content["lines"]]
    assert kinds == ["model", "score", "score", *["baseline"] * 4]
    assert content["headline"]["name"] == "conv_ae rel_mse"
    assert content["headline"]["auc"] == content["lines"][0]["parts"]["test"]["auc"]
    assert content["normal"] == "class0"


def test_predictions_have_a_column_a_line(written):
    report, _ = written
    assert list(report.predictions)[:5] == ["id", "row", "label", "split", "conv_ae rel_mse"]
    assert "rot90 conv_ae rel_mse" in report.predictions
