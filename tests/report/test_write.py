"""A report's folder: replaced whole, by nothing poorer, and with other people's files in it."""

import shutil
from dataclasses import replace

import matplotlib
import pytest
from synthetic_run import make_run

from lenshpc.errors import IncompleteError
from lenshpc.report.figures import draw_figure
from lenshpc.report.write import check_fuller, compose, write
from lenshpc.run.paths import RunPaths
from lenshpc.run.results import gather
from lenshpc.worker import write_report


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Return a run over a store that has a number of each row, and its report."""
    run = make_run(
        tmp_path_factory.mktemp("reported"),
        models=("resnet18",),
        folds=2,
        num_train=70,
        num_test=20,
        numbers={"mass": [float(row) for row in range(90)]},
    )
    report = compose(gather(run.paths, run.plan, {}, allow_partial=False))
    write(report, run.paths.report)
    return run, report


@pytest.fixture
def run(reported, tmp_path, monkeypatch):
    """Return a copy of the run, in ./runs."""
    run, _ = reported
    root = shutil.copytree(run.paths.root, tmp_path / "runs" / run.paths.name)
    monkeypatch.chdir(tmp_path)
    return replace(run, paths=RunPaths(root))


def contents(run):
    return {path: path.read_bytes() for path in run.paths.report.rglob("*") if path.is_file()}


def test_report_with_fewer_members_replaces_none_without_a_word(run):
    run.paths.member(run.plan.members[1].name).done.unlink()
    before = contents(run)
    with pytest.raises(IncompleteError) as caught:
        write_report(run.paths, allow_partial=True)
    assert str(caught.value) == (
        f"the report in {run.paths.report} shows more than a new one would, such as member 1; put "
        "back what that came from, or replace the report anyway with: lenshpc aggregate "
        f"{run.paths.name} --force"
    )
    assert contents(run) == before


def test_report_without_the_stores_figures_replaces_none_that_has_them(run):
    store = run.plan.store
    results = gather(run.paths, run.plan, {}, allow_partial=False)
    store.rename(store.with_name("away"))
    try:
        told = rf"such as figures/number_0\.svg, as there is no store at {store};"
        with pytest.raises(IncompleteError, match=told):
            check_fuller(compose(results), results)
    finally:
        store.with_name("away").rename(store)
    check_fuller(compose(results), results)


def test_other_peoples_files_stay_in_the_folder(run, reported):
    mine = {"notes.txt": b"mine", "figures/mine.png": b"png", "talk/slides.pdf": b"pdf"}
    for name, content in mine.items():
        path = run.paths.report / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (run.paths.report / "link").symlink_to("nowhere")
    before = contents(run)
    write(reported[1], run.paths.report)
    assert contents(run) == before
    assert (run.paths.report / "link").readlink().name == "nowhere"


@pytest.mark.parametrize("content", ["", "[]", "null", '{"shows": 3}'])
def test_damaged_report_is_made_anew(run, reported, content):
    before = contents(run)
    (run.paths.report / "report.json").write_text(content)
    write(reported[1], run.paths.report)
    assert contents(run) == before


def test_report_that_a_kill_left_aside_is_put_back_before_it_is_compared(run):
    run.paths.member(run.plan.members[1].name).done.unlink()
    before = contents(run)
    # As after the first of the two renames by which a report is replaced.
    run.paths.report.rename(run.paths.root / ".report.host.123.abcd1234.old")
    with pytest.raises(IncompleteError, match="shows more than a new one would, such as member 1"):
        write_report(run.paths, allow_partial=True)
    assert contents(run) == before


def test_figures_are_drawn_in_one_style_whatever_a_matplotlibrc_says(monkeypatch):
    def draw(axes):
        axes.plot([0, 1], [0, 1])

    before = draw_figure("line", "", draw).svg
    monkeypatch.setitem(matplotlib.rcParams, "axes.xmargin", 0.4)
    monkeypatch.setitem(matplotlib.rcParams, "xtick.labelsize", 25)
    assert draw_figure("line", "", draw).svg == before


def test_label_of_two_lines_stays_one_of_two_lines_and_what_has_no_sign_is_written_out():
    def draw(axes):
        axes.set_yticks([0, 1], ["seven\nnumbers", "a\x1bb"])

    def lines(labels):
        return draw_figure("bars", "", lambda axes: axes.set_yticks([0, 1], labels)).svg

    assert draw_figure("bars", "", draw).svg == lines(["seven\nnumbers", r"a\x1bb"])
    assert lines(["seven\nnumbers", "b"]) != lines([r"seven\nnumbers", "b"])
