import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score
from synthetic_run import make_run

from lenshpc.aggregate import classification
from lenshpc.cli.aggregate import aggregate
from lenshpc.errors import IncompleteError
from lenshpc.report.findings import gather
from lenshpc.report.summary import summarise
from lenshpc.report.words import flatten, word_auc, word_covered, word_duration, word_number
from lenshpc.report.write import write_report

FILES = [
    "figures/confusion_oof.svg",
    "figures/confusion_test.svg",
    "figures/history_auc.svg",
    "figures/history_loss.svg",
    "figures/precision_recall.svg",
    "figures/roc.svg",
    "figures/roc_log.svg",
    "figures/scores.svg",
    "predictions.parquet",
    "report.html",
    "report.json",
    "report.md",
]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(classification, "NUM_RESAMPLES", 100)


def strict_json(path):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(path.read_text(), parse_constant=refuse)


def write(run, **options):
    page = write_report(run.paths, run.plan, reasons={}, **options)
    return page, strict_json(run.paths.report / "report.json")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A complete run with its report; for reading only."""
    run = make_run(tmp_path_factory.mktemp("reported"))
    write(run)
    return run


def content_of(run, plan=None, **options):
    """Return what report.json would hold, without drawing figures."""
    plan = plan or run.plan
    findings = gather(run.paths, plan, {}, **{"allow_partial": False, **options})
    content = summarise(run.paths, plan, findings)
    json.dumps(content, allow_nan=False)
    return content


def forget(run, index):
    run.paths.member(run.plan.members[index].name).done.unlink()


def test_report_of_two_classes_and_two_models(reported):
    folder = reported.paths.report
    content = strict_json(folder / "report.json")
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == FILES
    assert [(one["name"], one["kind"]) for one in content["models"]] == [
        ("resnet18", "model"),
        ("resnet34", "model"),
        ("ensemble", "ensemble"),
        ("baseline (mean and deviation)", "baseline"),
    ]
    assert content["counts"] == [
        {"class": "nonlens", "training": 0, "oof": 45, "test": 30},
        {"class": "lens", "training": 0, "oof": 45, "test": 30},
    ]
    assert [one["index"] for one in content["members"]] == list(range(6))
    assert content["members"][1]["val_auc"] == pytest.approx(1 - 0.3 * 0.7**3 - 0.01)
    assert content["missing"] == []
    text = (folder / "report.html").read_text()
    assert "PARTIAL" not in text
    assert f"{content['headline']['auc']:.4f}" in text


def test_headline_agrees_with_the_predictions_table(reported):
    content = strict_json(reported.paths.report / "report.json")
    table = pd.read_parquet(reported.paths.report / "predictions.parquet")
    assert list(table) == [
        *("id", "row", "label", "split"),
        *("resnet18:p_nonlens", "resnet18:p_lens", "resnet34:p_nonlens", "resnet34:p_lens"),
        *("ensemble:p_nonlens", "ensemble:p_lens"),
    ]
    assert len(table) == 150
    test = table[table["split"] == "test"]
    expected = roc_auc_score(test["label"], test["ensemble:p_lens"])
    assert content["headline"]["auc"] == pytest.approx(expected)


def test_report_of_three_classes_and_one_model(tmp_path):
    run = make_run(tmp_path, classes=("no", "sphere", "vort"), models=("resnet18",), seeds=(0, 1))
    page, content = write(run)
    assert [one["name"] for one in content["models"]] == [
        "resnet18",
        "baseline (mean and deviation)",
    ]
    assert content["headline"]["name"] == "resnet18"
    assert [one["threshold"] for one in content["models"]] == [None, None]
    assert np.array(content["models"][0]["test"]["confusion"]).sum() == 60
    assert "Each class" in page.read_text()


def test_page_is_self_contained(reported):
    text = (reported.paths.report / "report.html").read_text()
    assert "<script" not in text
    assert "<link" not in text
    assert "@import" not in text
    assert len(re.findall("<svg", text)) == 8
    targets = re.findall(r'(?:href|src)\s*=\s*"([^"]*)"', text) + re.findall(r"url\(([^)]*)", text)
    assert targets
    assert {target[0] for target in targets} == {"#"}
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_names_are_escaped(tmp_path):
    name = "<b>$_x$|"
    run = make_run(tmp_path, classes=("no", name), models=("resnet18",))
    page, content = write(run)
    assert content["classes"] == ["no", name]
    assert "<b>" not in page.read_text()
    assert "&lt;b&gt;$_x$|" in page.read_text()
    markdown = (run.paths.report / "report.md").read_text()
    assert "<b>" not in markdown.replace("\\<", "").replace("\\>", "")
    assert "\\<b\\>\\$\\_x\\$\\|" in markdown


def test_second_report_replaces_the_first(run):
    run.paths.report.mkdir()
    (run.paths.report / "stale.txt").write_text("of an earlier report")
    write(run)
    assert not (run.paths.report / "stale.txt").exists()
    assert not list(run.paths.root.glob(".report*"))


def test_missing_member_fails_and_leaves_the_old_report(run):
    run.paths.report.mkdir()
    (run.paths.report / "report.html").write_text("old")
    forget(run, 3)
    with pytest.raises(IncompleteError, match="member 3 "):
        write(run)
    assert (run.paths.report / "report.html").read_text() == "old"


def test_failure_while_writing_leaves_the_old_report(run, monkeypatch):
    def fail(*_, **options):
        raise OSError("no space left")

    run.paths.report.mkdir()
    (run.paths.report / "report.html").write_text("old")
    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OSError, match="no space left"):
        write(run)
    assert (run.paths.report / "report.html").read_text() == "old"
    assert not list(run.paths.root.glob(".report*"))


def test_partial_report_says_so_everywhere(run):
    forget(run, 1)
    page = write_report(
        run.paths, run.plan, reasons={1: "job 7_1 ended TIMEOUT"}, allow_partial=True
    )
    content = strict_json(page.with_name("report.json"))
    lack = "has no predictions (job 7_1 ended TIMEOUT)"
    member = {"index": 1, "model": "resnet18", "fold": 1, "seed": 0, "lack": lack}
    assert content["missing"] == [member]
    assert "PARTIAL: 1 of 6 members are missing." in page.read_text()
    assert "PARTIAL: 1 of 6 members are missing." in page.with_name("report.md").read_text()
    by_name = {one["name"]: one["oof"]["num_covered"] for one in content["models"]}
    fold = int((run.splits["fold"] == 1).sum())
    assert by_name == {
        "resnet18": 90 - fold,
        "resnet34": 90,
        "ensemble": 90 - fold,
        "baseline (mean and deviation)": 90,
    }
    table = pd.read_parquet(page.with_name("predictions.parquet"))
    assert table["ensemble:p_lens"].isna().sum() == fold


def test_partial_report_without_a_whole_model_has_null(run):
    for index in range(3):
        forget(run, index)
    page, content = write(run, allow_partial=True)
    assert content["headline"]["auc"] is None
    assert [one["test"]["auc"] is None for one in content["models"]] == [True, False, True, False]
    assert "PARTIAL: 3 of 6" in page.read_text()


def test_partial_report_of_nothing_is_refused(run):
    for index in range(6):
        forget(run, index)
    with pytest.raises(IncompleteError, match="5 more members are not done"):
        write(run, allow_partial=True)


def test_run_outlives_its_store(run):
    plan = run.plan.model_copy(update={"store": run.paths.root / "gone"})
    content = content_of(run, plan)
    assert [one["kind"] for one in content["models"]] == ["model", "model", "ensemble"]
    assert any(note.startswith("No baseline stands in the table: ") for note in content["notes"])


def test_perfect_separation_is_commented(tmp_path):
    run = make_run(tmp_path, models=("resnet18",), separation=20.0)
    content = content_of(run)
    assert content["headline"]["auc_low"] == 1
    assert content["mistakes"] == []
    assert "gives an interval of no width" in content["notes"][-1]


def test_words():
    scores = {"auc": 0.98123, "auc_low": 0.975, "auc_high": None}
    assert word_auc(scores) == "0.9812 [0.9750, –]"
    assert word_auc({"auc": None}) == "–"
    assert word_number(0.5, 1) == "0.5"
    assert word_covered({"num_covered": 1200, "num_rows": 1500}) == "1,200 of 1,500"
    assert [word_duration(value) for value in (None, 45, 192.4, 3900)] == [
        *("–", "45 s", "3 min 12 s", "1 h 05 min")
    ]
    assert flatten({"a": {"b": [1, 2]}, "c": None}) == [("a.b", "1, 2"), ("c", "–")]


def test_command_prints_the_table_and_the_place(run):
    done = CliRunner().invoke(aggregate, [run.paths.name], catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("| model ")
    assert lines[-1] == f"report: {run.paths.report / 'report.html'}"


def test_command_prints_json_only(run):
    forget(run, 0)
    command = [run.paths.name, "--json", "--allow-partial"]
    done = CliRunner().invoke(aggregate, command, catch_exceptions=False)
    assert json.loads(done.stdout) == strict_json(run.paths.report / "report.json")
