"""Runs side by side: the same figures as other libraries give, and refusals in one line."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anomaly_run import make_run as make_anomaly_run
from click.testing import CliRunner
from foundation_run import make_foundation_run
from generation_run import make_generation_run
from pairs_run import make_pairs_run
from rich.console import Console
from sklearn.metrics import roc_auc_score
from synthetic_run import make_run
from toy_run import results_of

import lenshpc
from lenshpc.cli.compare import draw_comparison
from lenshpc.cli.main import main
from lenshpc.errors import ConfigError, IncompleteError
from lenshpc.report.comparison import ComparedLine, LineFigure
from lenshpc.report.comparison_page import build_page
from lenshpc.report.html import render_html
from lenshpc.run.paths import RunPaths
from lenshpc.statistics import delong
from lenshpc.statistics.bootstrap import draw
from lenshpc.tasks.super_resolution.judge import evaluate as evaluate_images


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return two runs on equal stores; the second knows less, and had another learning rate."""
    one = make_run(tmp_path_factory.mktemp("one"))
    other = make_run(tmp_path_factory.mktemp("other"), separation=0.8, train={"lr": 3e-4})
    return one, other


@pytest.fixture(scope="module")
def found(runs):
    return lenshpc.compare(*(run.paths.root for run in runs))


def folder_of(path, name):
    (path / name).mkdir()
    return path / name


COSTS = ("process-hours", "core-hours, all")


def called(*arguments):
    """Return exit code, output and talk of a command in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def ensemble_of(run, split):
    """Return rows and the ensemble's probabilities of the second class, by pandas alone."""
    frames = [run.predictions(member.index) for member in run.plan.members]
    models = [member.model for member in run.plan.members]
    together = pd.concat(
        [one.assign(model=model) for one, model in zip(frames, models, strict=True)],
        ignore_index=True,
    )
    together = together[together["split"] == split].assign(
        p=np.exp(together["logp_1"].astype(float))
    )
    means = together.groupby(["row", "model"])["p"].mean().groupby("row").mean()
    labels = run.splits.set_index("row")["label"].loc[means.index]
    return labels, means


def test_figures_are_those_of_sklearn_on_the_members_predictions(runs, found):
    heads = [line for line in found.lines if line.is_headline]
    assert [line.name for line in heads] == ["A ensemble", "B ensemble"]
    for run, line in zip(runs, heads, strict=True):
        (figure,) = line.figures
        assert figure.value == pytest.approx(roc_auc_score(*ensemble_of(run, "test")), abs=1e-6)
        assert figure.oof == pytest.approx(roc_auc_score(*ensemble_of(run, "oof")), abs=1e-6)
        assert figure.low <= figure.value <= figure.high


def test_headlines_are_compared_as_the_report_compares_models(runs, found):
    (labels, one), (_, other) = (ensemble_of(run, "test") for run in runs)
    groups = runs[0].splits.set_index("row")["group"].loc[labels.index].to_numpy(object)
    labels = labels.to_numpy()
    resamples = draw(labels, groups, num_resamples=2000, seed=0)
    lines = {name: np.stack([1 - p, p], axis=1) for name, p in (("A", one), ("B", other))}
    (expected,) = delong.compare(labels, lines, resamples, groups)
    (pair,) = found.headlines
    assert (pair.first, pair.second) == ("A ensemble", "B ensemble")
    assert pair.difference == pytest.approx(expected.difference, abs=1e-6)
    assert pair.p_holm == pair.p_value == pytest.approx(expected.p_value, rel=1e-3)
    assert (pair.low, pair.high) == (
        pytest.approx(expected.low, abs=5e-3),
        pytest.approx(expected.high, abs=5e-3),
    )
    (labels, one), (_, other) = (ensemble_of(run, "oof") for run in runs)
    difference = roc_auc_score(labels, one) - roc_auc_score(labels, other)
    assert pair.oof_difference == pytest.approx(difference, abs=1e-6)


def test_single_models_of_different_runs_are_corrected_for_their_own_number(found):
    pairs = [(one.first, one.second) for one in found.models]
    assert pairs == [
        (f"A {mine}", f"B {theirs}")
        for mine in ("resnet18", "resnet34")
        for theirs in ("resnet18", "resnet34")
    ]
    assert [one.p_holm for one in found.models] == pytest.approx(
        delong.holm([one.p_value for one in found.models])
    )


def test_what_differs_and_what_it_cost_stand_beside(found):
    assert found.differences == {"train.lr": (1e-4, 3e-4)}
    assert found.unit == "process"
    # six members of 192 s a run, three of them a model's
    assert [line.hours for line in found.lines] == pytest.approx([0.16, 0.16, 0.32] * 2)
    assert found.runs[0].paid_hours is None
    assert (found.num_rows, found.num_oof) == (60, 90)


def test_runs_that_know_the_same_are_not_told_apart(runs, tmp_path):
    copy = shutil.copytree(runs[0].paths.root, tmp_path / runs[0].paths.name)
    same = lenshpc.compare(runs[0].paths.root, copy)
    assert same.verdicts == (
        "A ensemble and B ensemble are not told apart: AUC +0.0000 [+0.0000, +0.0000], "
        "p (Holm) 1.000",
    )
    assert same.differences == {}
    assert "Nothing: the runs were planned" in str(build_page(same).sections)


def test_better_run_is_named_whichever_stands_first(runs, tmp_path):
    weak = make_run(tmp_path, separation=0.1, train={"lr": 5e-4})
    for order, best, worst in (((runs[0], weak), "A", "B"), ((weak, runs[0]), "B", "A")):
        told = lenshpc.compare(*(run.paths.root for run in order))
        (pair,) = told.headlines
        ends = sorted(map(abs, (pair.low, pair.high)))
        assert told.verdicts == (
            f"{best} ensemble is better than {worst} ensemble: AUC higher by "
            f"{abs(pair.difference):.4f} [{ends[0]:.4f}, {ends[1]:.4f}], p (Holm) < 0.001",
        )


# --- rows that differ ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    """Return a run whose store has the first 40 of the 60 test images, in another order."""
    return make_run(tmp_path_factory.mktemp("smaller"), num_test=40, models=("resnet18",))


def test_runs_of_other_test_rows_are_refused_with_the_counts(runs, smaller):
    with pytest.raises(ConfigError) as caught:
        lenshpc.compare(runs[0].paths.root, smaller.paths.root)
    assert str(caught.value) == (
        "the test rows differ: A has 60, B has 40; 40 with the same image and label are in all; "
        "compare the runs on these with --common"
    )


def test_common_rows_are_matched_by_what_they_are(runs, smaller):
    found = lenshpc.compare(runs[0].paths.root, smaller.paths.root, common=True)
    assert (found.num_rows, found.is_partial) == (40, True)
    labels, means = ensemble_of(runs[0], "test")
    ids = runs[0].splits.set_index("row")["id"].loc[labels.index]
    mine = ids.isin(smaller.splits["id"]).to_numpy()
    assert mine.sum() == 40
    head = next(line for line in found.lines if line.name == "A ensemble")
    assert head.figures[0].value == pytest.approx(
        roc_auc_score(labels[mine], means[mine]), abs=1e-6
    )
    notes = build_page(found).sections[-1].blocks[0].lines
    assert notes[0].startswith("The runs have different test rows (A has 60, B has 40). They")


def test_rows_of_another_image_are_no_common_ones(runs, tmp_path):
    stranger = make_run(tmp_path, sky=1)  # the same ids
    with pytest.raises(
        ConfigError, match="the runs have no test row in common: A has 60, B has 60; 0"
    ):
        lenshpc.compare(runs[0].paths.root, stranger.paths.root, common=True)


# --- refusals --------------------------------------------------------------------------------


def test_one_run_and_a_run_twice_are_refused(runs):
    root = runs[0].paths.root
    for arguments in ((root,), (root, root)):
        with pytest.raises(ConfigError) as caught:
            lenshpc.compare(*arguments)
        assert str(caught.value) == (
            f"compare needs two or more different runs, and got {root}; give others"
        )


def test_runs_of_different_tasks_are_refused(runs, tmp_path):
    strange = make_anomaly_run(tmp_path)
    code, out, err = called("compare", runs[0].paths.root, strange.paths.root)
    assert (code, out) == (2, "")
    assert err == (
        f"lenshpc: runs of different tasks cannot be compared ({runs[0].plan.run_name} of task "
        f"lens-finding, {strange.plan.run_name} of task anomaly); give runs of one task\n"
    )


def test_run_that_is_not_done_is_incomplete(runs, tmp_path):
    root = shutil.copytree(runs[0].paths.root, tmp_path / runs[0].paths.name)
    RunPaths(root).member(runs[0].plan.members[2].name).done.unlink()
    with pytest.raises(
        IncompleteError, match=r"member 2 \(resnet18 fold 2 seed 0\) of run .* has no"
    ):
        lenshpc.compare(root, runs[1].paths.root)
    assert called("compare", root, runs[1].paths.root)[0] == 1


def test_task_without_a_value_a_row_says_so(tmp_path):
    paths, *_ = make_generation_run(tmp_path)
    copy = shutil.copytree(paths.root, tmp_path / "copy" / paths.name)
    with pytest.raises(ConfigError) as caught:
        lenshpc.compare(paths.root, copy)
    assert str(caught.value) == (
        "task diffusion has no values for single rows, by which runs are compared; put their "
        "reports side by side"
    )


def test_page_has_a_place(runs):
    roots = [run.paths.root for run in runs]
    assert called("compare", *roots, "--report", "page.txt")[::2] == (
        2,
        "lenshpc: cannot write a report at page.txt: give a name that ends in .html\n",
    )


# --- other tasks -----------------------------------------------------------------------------


def test_images_are_compared_image_by_image(tmp_path):
    one = make_pairs_run(folder_of(tmp_path, "one"))
    other = make_pairs_run(folder_of(tmp_path, "other"), models=("rcan",))
    found = lenshpc.compare(one.paths.root, other.paths.root)
    assert [measure.name for measure in found.measures][:3] == ["PSNR (dB)", "SSIM", "MSE"]
    tables = [
        evaluate_images(replace(results_of(run), out=RunPaths(tmp_path))).scores
        for run in (one, other)
    ]
    rows = [table.rows[table.rows["split"] == "test"].set_index("id") for table in tables]
    apart = rows[0]["ensemble:psnr"] - rows[1]["rcan:psnr"]
    pair = found.headlines[0]
    assert (pair.measure, pair.first, pair.second) == ("PSNR (dB)", "A ensemble", "B rcan")
    assert pair.difference == pytest.approx(apart.mean())
    assert pair.std == pytest.approx(apart.std() / np.sqrt(len(apart)))
    assert not one.paths.merged.exists()


def test_anomaly_scores_are_compared_by_their_auc(tmp_path):
    one = make_anomaly_run(folder_of(tmp_path, "one"))
    other = make_anomaly_run(folder_of(tmp_path, "other"), models=("wae",))
    found = lenshpc.compare(one.paths.root, other.paths.root)
    assert [line.name for line in found.lines] == ["A conv_ae", "A wae", "A ensemble", "B wae"]
    assert [measure.test for measure in found.measures] == ["DeLong"]
    assert (found.num_rows, found.num_oof) == (60, 80)
    assert all(line.figures[0].value > 0.8 for line in found.lines)


def test_errors_of_pretraining_are_compared_row_by_row(tmp_path):
    run = make_foundation_run(tmp_path)
    copy = shutil.copytree(run.paths.root, tmp_path / "copy" / run.paths.name)
    found = lenshpc.compare(run.paths.root, copy)
    assert found.lines[0].figures[0].value == pytest.approx(0.2)
    assert found.headlines[0].difference == 0


# --- what is shown ---------------------------------------------------------------------------


def test_front_has_what_no_other_beats_at_its_cost(found):
    marks = {"a": (1.0, 0.9), "b": (2.0, 0.95), "c": (3.0, 0.94), "d": (1.0, 0.8)}
    lines = tuple(
        ComparedLine(
            run="A",
            line=name,
            is_headline=False,
            hours=hours,
            figures=(LineFigure(measure="AUC", value=value, low=0, high=1, oof=0),),
        )
        for name, (hours, value) in marks.items()
    )
    assert replace(found, lines=lines).front == {"A a", "A b"}


def test_terminal_gets_tables_of_80_columns(found, capsys):
    console = Console(width=80, force_terminal=True, no_color=True)
    draw_comparison(console, found)
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    (head,) = (line for line in lines if line.startswith("Run "))
    assert re.split("  +", head) == ["Run", "Name", "Test rows", "Out-of-fold rows", *COSTS]
    assert "Difference               Measure  Test [interval]" in "\n".join(lines)


def test_pipe_gets_all_columns(runs, tmp_path):
    roots = [run.paths.root for run in runs]
    page = tmp_path / "page.html"
    code, out, _ = called("compare", *roots, "--report", page)
    assert code == 0
    assert "p (Holm)  Out-of-fold ± std. err." in out
    assert "\ntrain.lr  0.0001  0.0003\n" in out
    assert out.endswith(f"report: {page}\n")


def test_json_is_whole(runs, found):
    code, out, _ = called("compare", *(run.paths.root for run in runs), "--json")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(found.as_json()))


def test_page_stands_alone_and_says_that_test_rows_decide_nothing(found):
    page = build_page(found)
    html = render_html(page)
    assert "Do not choose the best of several lines by its test score" in html
    assert html.count("<svg") == 1
    assert not any(word in html for word in ("<script ", "<link", 'src="http', "url(http"))


def test_notebook_shows_the_verdict(found):
    assert repr(found).startswith("<Comparison of lens-")
    assert found.verdicts[0] in found._repr_html_()
