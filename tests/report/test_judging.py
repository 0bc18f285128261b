"""A run judged otherwise: another report beside the first, from the same members."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anomaly_run import make_run as make_anomaly_run
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score
from toy_run import results_of

import lenshpc
from lenshpc.cli.main import main
from lenshpc.errors import ConfigError
from lenshpc.launch.runs import summarise
from lenshpc.launch.states import ask_for_all
from lenshpc.run.completion import missing_members
from lenshpc.run.judging import Judging, judge_otherwise
from lenshpc.run.paths import RunPaths
from lenshpc.statistics import scores
from lenshpc.tasks.anomaly.judge import evaluate


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "NUM_RESAMPLES", 100)
        yield


@pytest.fixture(scope="module")
def reported(pristine_run, tmp_path_factory):
    """Return a run that has its own report, and one of stacking beside it."""
    root = tmp_path_factory.mktemp("judged") / pristine_run.paths.name
    shutil.copytree(pristine_run.paths.root, root)
    lenshpc.aggregate(root)
    before = contents(root / "report")
    report = lenshpc.aggregate(root, {"ensemble": "stacking", "method.test_prior": 0.01})
    return replace(pristine_run, paths=RunPaths(root)), before, report


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def called(*arguments):
    """Return exit code, output and talk of a command in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_first_report_stays_byte_for_byte_and_another_lies_beside_it(reported):
    run, before, report = reported
    assert report.folder == run.paths.root / "report-stacking-test_prior-0.01"
    assert contents(run.paths.report) == before
    assert {path.name for path in run.paths.root.iterdir() if "report" in path.name} == {
        "report",
        "report-stacking-test_prior-0.01",
    }


def test_page_says_first_which_judging_it_shows(reported):
    _, _, report = reported
    assert report.banners[0].lines == (
        "ensemble is stacking here, and mean in the run's own",
        "method.test_prior is 0.01 here, and – in the run's own",
    )
    content = json.loads((report.folder / "report.json").read_text())
    assert content["judging"] == {
        "ensemble": {"run": "mean", "here": "stacking"},
        "method.test_prior": {"run": None, "here": 0.01},
    }
    assert (
        "Evaluated with other settings than the run" in (report.folder / "report.html").read_text()
    )


def test_headline_is_that_of_the_line_in_the_first_report(reported):
    """There, stacking stands beside the mean; here it is the headline, by the same figures."""
    run, _, report = reported
    own = json.loads((run.paths.report / "report.json").read_text())
    beside = next(one for one in own["models"] if one["name"] == "ensemble (stacking)")
    head = next(one for one in report.content["models"] if one["name"] == "ensemble")
    assert head["test"]["auc"] == beside["test"]["auc"]
    frame = pd.read_parquet(report.folder / "predictions.parquet")
    test = frame[frame["split"] == "test"]
    *_, column = (one for one in test if one.startswith("ensemble"))
    found = roc_auc_score(test["label"], test[column])
    assert found == pytest.approx(head["test"]["auc"])


def test_list_and_status_read_the_first_report(reported):
    run, _, _ = reported
    own = json.loads((run.paths.report / "report.json").read_text())
    assert summarise(run.paths, ask_for_all([run.paths])).headline == own["in_short"]


def test_repeated_command_writes_the_same(reported):
    run, _, report = reported
    before = contents(report.folder)
    code, out, _ = called(
        *("aggregate", run.paths.root, "--set", "method.test_prior=1e-2"),
        *("--set", "ensemble=stacking"),
    )
    assert (code, out.splitlines()[-1]) == (0, f"report: {report.folder / 'report.html'}")
    after = contents(report.folder)
    assert {path for path in after if after[path] != before.get(path)} <= {
        report.folder / name for name in ("report.html", "report.md", "report.json")
    }  # which say when they were written


def test_members_marks_are_read_by_the_plan_of_another_judging(reported):
    run, _, _ = reported
    other = judge_otherwise(run.plan, [("ensemble", "greedy"), ("method.calibration", "isotonic")])
    assert other.name == "greedy-calibration-isotonic"
    assert other.plan.fingerprint() != run.plan.fingerprint()
    assert [other.plan.member_fingerprint(one) for one in other.plan.members] == [
        run.plan.member_fingerprint(one) for one in run.plan.members
    ]
    assert missing_members(run.paths, other.plan) == {}


@pytest.mark.slow
def test_partial_replaced_and_another_folder_go_on_working(reported, tmp_path):
    run, _, _ = reported
    root = shutil.copytree(run.paths.root, tmp_path / run.paths.name)
    RunPaths(root).member(run.plan.members[0].name).done.unlink()
    changes = ("--set", "ensemble=stacking", "--set", "method.test_prior=0.01")
    code, _, err = called("aggregate", root, *changes, "--allow-partial")
    assert code == 1
    assert err.endswith(
        f"lenshpc aggregate {root} --set ensemble=stacking --set method.test_prior=0.01 --force\n"
    )
    assert called("aggregate", root, *changes, "--allow-partial", "--force")[0] == 0
    before = contents(root)
    code, out, _ = called("aggregate", root, *changes, "--allow-partial", "--out", tmp_path / "x")
    page = tmp_path / "x" / "report-stacking-test_prior-0.01" / "report.html"
    assert (code, out.splitlines()[-1]) == (0, f"report: {page}")
    assert contents(root) == before


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        (
            "train.lr=1",
            "train.lr changes the training: submit a recipe that has it; aggregate --set takes "
            "ensemble, method.test_prior, method.calibration of run {name}",
        ),
        (
            "method.tta=d4",
            "method.tta changes the training: submit a recipe that has it; aggregate --set takes "
            "ensemble, method.test_prior, method.calibration of run {name}",
        ),
        (
            "ensembel=greedy",
            "unknown key 'ensembel'; did you mean ensemble? known: ensemble, method.test_prior, "
            "method.calibration",
        ),
        (
            "method.test_prior=2",
            "run {name}: method.test_prior: expected less than 1 (found 2)",
        ),
        (
            "ensemble=mean",
            "the report of run {name} has these values already; set others",
        ),
    ],
)
def test_what_is_no_judging_is_refused_in_one_line(run, assignment, told):
    code, out, err = called("aggregate", run.paths.root, "--set", assignment)
    assert (code, out, err) == (2, "", f"lenshpc: {told.format(name=run.plan.run_name)}\n")
    assert not list(run.paths.root.glob("report*"))


def test_quantile_judges_anomalies_and_nothing_combines_them(tmp_path):
    run = make_anomaly_run(tmp_path)
    judging = judge_otherwise(run.plan, [("method.quantile", 0.5)])
    assert judging.find_place(run.paths).report == run.paths.root / "report-quantile-0.5"
    own, other = (
        evaluate(replace(results_of(run), plan=plan)).lines[0] for plan in (run.plan, judging.plan)
    )
    assert other.threshold < own.threshold
    # about as many normal rows lie above the median of others as below it
    assert other.parts["test"].false_positives == pytest.approx(0.5, abs=0.25)
    with pytest.raises(ConfigError) as caught:
        lenshpc.aggregate(run.paths.root, {"ensemble": "greedy"})
    assert str(caught.value) == (
        "ensemble has nothing to combine here: aggregate --set takes method.quantile of run "
        f"{run.plan.run_name}"
    )


def test_name_of_a_folder_is_short_and_harmless(pristine_run):
    changes = {"method.a": (0, "../x y"), "method.b": (0, None)}
    judging = Judging(plan=pristine_run.plan, changes=changes)
    assert judging.name == "a-.._x_y-b-none"
    many = {f"method.key{at}": (0, at) for at in range(30)}
    name = replace(judging, changes=many).name
    assert len(name) == 60
    assert name != replace(judging, changes={**many, "method.z": (0, 1)}).name
    assert np.char.isalnum(name[-8:])
