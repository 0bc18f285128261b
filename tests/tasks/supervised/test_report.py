import html
import json
import re
import sys
import webbrowser
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from click.testing import CliRunner
from networks import build
from sklearn.metrics import roc_auc_score
from synthetic_run import make_run

from lenshpc.cli.aggregate import aggregate
from lenshpc.errors import IncompleteError
from lenshpc.report.content import Prose, Table
from lenshpc.report.html import render_html
from lenshpc.report.markdown import render_markdown, render_table
from lenshpc.report.remarks import ON_BOUND
from lenshpc.report.write import compose
from lenshpc.report.write import write as write_folder
from lenshpc.run.gate import Standing
from lenshpc.run.results import gather
from lenshpc.statistics import scores as judging
from lenshpc.tasks.supervised.evidence import describe_classes
from lenshpc.tasks.supervised.explain import class_maps

FIGURES = {
    *("compare_auc", "compare_pr_auc", "roc", "roc_log", "precision_recall", "scores"),
    *("reliability", "confusion_test", "confusion_oof", "number_0", "history_loss", "history_auc"),
    *("confusion_resnet18", "confusion_resnet34"),
}
USE = {
    "gpus_asked": 2,
    "cpus_asked": 4,
    "memory_gb_asked": 16.0,
    "cpus": 1.1,
    "memory_gb": 3.0,
    "gpu_busy": 0.214,
    "gpu_busy_peak": 1.0,
    "gpu_memory_gb": 11.2,
    "gpu_memory_total_gb": 79.6,
    "tflops": 41.25,
    "peak_share": 0.132,
}
UNMEASURED = ("cpus", "memory_gb", "gpu_busy", "gpu_memory_gb", "tflops", "peak_share")
USAGE = {
    "unit": "GPU",
    "source": "sacct",
    "estimate_hours": 24.0,
    "total": {"attempts": 7, "hours": 3.2, "useful_hours": 2.9, "wasted_hours": 0.3, "use": USE},
    "models": {"resnet18": {"attempts": 7, "hours": 3.2, "useful_hours": 2.9, "wasted_hours": 0.3}},
    "members": {
        "0": {"attempts": 6, "hours": 3.0, "useful_hours": 2.9, "wasted_hours": 0.1, "use": USE},
        "1": {
            "attempts": 1,
            "hours": 0.2,
            "useful_hours": 0.0,
            "wasted_hours": 0.2,
            "use": {**USE, **dict.fromkeys(UNMEASURED)},
        },
    },
    "warnings": ["the GPUs of member 0 computed for 21 % of the time only"],
}
FAILURES = [
    {
        "member": 1,
        "attempt": 2,
        "name": "GPU OUT OF MEMORY",
        "action": "stop",
        "line": "CUDA out of memory",
        "tail": ["step 7", "CUDA out of memory"],
    }
]


@pytest.fixture(autouse=True, scope="module")
def _few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "NUM_RESAMPLES", 100)
        yield


class Page(HTMLParser):
    """What stands in a page, as its parser sees it; every element must be closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.titles, self.images, self.drawings, self.tables = [], [], [], 0, 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.images += [dict(attributes)] if tag == "img" else []
        self.drawings += tag == "svg"
        self.tables += tag == "table"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.titles.append(data)


def strict_json(path):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(path.read_text(), parse_constant=refuse)


def write(run, standings=None, *, allow_partial=False, **extras):
    results = gather(run.paths, run.plan, standings or {}, allow_partial=allow_partial, **extras)
    page = write_folder(compose(results), run.paths.report)
    return page, strict_json(run.paths.report / "report.json")


def look(_, rows):
    """Return maps that are hot on the left, of another size than the images."""
    return np.tile(np.linspace(1, 0, 8, dtype=np.float32), (len(rows), 8, 1))


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A complete run that makes mistakes, with its report; for reading only."""
    run = make_run(tmp_path_factory.mktemp("reported"), separation=0.5)
    write(run, tools={"explain": look}, usage=USAGE, failures=FAILURES)
    return run


def report_of(run, plan=None, **options):
    """Return the report of a run without writing it."""
    results = gather(run.paths, plan or run.plan, {}, **{"allow_partial": False, **options})
    report = compose(results)
    json.dumps(report.content, allow_nan=False)
    return report


def forget(run, index):
    run.paths.member(run.plan.members[index].name).done.unlink()


def tables_of(report):
    return {
        block.title: [row.cells[0] for row in block.rows]
        for block in report.blocks()
        if isinstance(block, Table)
    }


def test_report_of_two_classes_and_two_models(reported):
    content = strict_json(reported.paths.report / "report.json")
    assert content["schema_version"] == 3
    assert [
        (one["name"], one["kind"]) for one in content["models"] if "ble (" not in one["name"]
    ] == [
        ("resnet18", "model"),
        ("resnet34", "model"),
        ("ensemble", "ensemble"),
        ("baseline (mean and std)", "baseline"),
        ("baseline (minus median pixel)", "baseline"),
        ("baseline (ring radius)", "baseline"),
        ("baseline (boosting on seven radial numbers)", "baseline"),
    ]
    assert content["counts"] == [
        {"class": "nonlens", "training": 0, "oof": 45, "excluded": 0, "test": 30},
        {"class": "lens", "training": 0, "oof": 45, "excluded": 0, "test": 30},
    ]
    assert [one["index"] for one in content["members"]] == list(range(6))
    assert content["members"][1]["val_auc"] == pytest.approx(1 - 0.3 * 0.7**3 - 0.01)
    assert content["missing"] == []
    assert content["usage"] == USAGE
    assert content["failures"] == FAILURES


def test_report_says_what_was_asked_for_and_not_used(reported):
    report = report_of(reported, usage=USAGE)
    section = next(one for one in report.sections if one.title == "Cost and failures")
    table = next(one for one in section.blocks if getattr(one, "title", "") == "Asked for and used")
    assert [row.cells for row in table.rows] == [
        ("0", "4", "1.1", "16", "3.0", "2", "21 %", "11.2", "79.6", "41.25", "13 %"),
        ("1", "4", "–", "16", "–", "2", "–", "–", "79.6", "–", "–"),
        ("all", "4", "1.1", "16", "3.0", "2", "21 %", "11.2", "79.6", "41.25", "13 %"),
    ]
    words = [block.text for block in section.blocks if isinstance(block, Prose)]
    assert "Warning: the GPUs of member 0 computed for 21 % of the time only." in words


def test_report_of_members_on_cpus_speaks_of_no_gpus(reported):
    use = {**USE, "gpus_asked": 0, **dict.fromkeys(UNMEASURED)}
    total = USAGE["total"] | {"use": use}
    usage = USAGE | {"unit": "core", "members": {}, "warnings": [], "total": total}
    report = report_of(reported, usage=usage)
    section = next(one for one in report.sections if one.title == "Cost and failures")
    costs, used = (block for block in section.blocks[:3] if isinstance(block, Table))
    assert [one.title for one in costs.columns] == [
        *("Model", "Attempts", "core-hours", "Useful", "Wasted")
    ]
    assert [one.title for one in used.columns] == [
        *("Member", "CPUs asked", "CPUs used", "GB asked", "GB used")
    ]
    assert [len(row.cells) for row in used.rows] == [5]
    words = [block.text for block in section.blocks if isinstance(block, Prose)]
    assert words[1] == (
        "Totals over all processes of a member: CPUs are means; memory is the peak. A dash "
        "means not measured."
    )
    assert not any("GPU" in one for one in words)


def test_json_keeps_the_keys_that_scripts_read(reported):
    content = strict_json(reported.paths.report / "report.json")
    assert {
        *("schema_version", "run", "fingerprint", "created", "task", "dataset", "classes"),
        *("image_shape", "store", "store_hash", "splits_hash", "code_version", "recipe", "counts"),
        *("num_members", "missing", "resume_command", "headline", "models", "members", "mistakes"),
        *("num_mistakes", "interval", "notes", "provenance", "verdict"),
    } <= set(content)
    assert set(content["headline"]) == {
        *("name", "auc", "auc_low", "auc_high", "num_rows", "num_covered")
    }
    assert {"auc", "auc_low", "pr_auc", "f1", "confusion", "num_covered"} <= set(
        content["models"][0]["test"]
    )
    assert set(content["mistakes"][0]) == {
        *("row", "id", "class", "predicted", "p_class", "p_predicted")
    }


def test_folder_has_every_figure_and_picture(reported):
    folder = reported.paths.report
    found = {path.name for path in (folder / "figures").iterdir()}
    content = strict_json(folder / "report.json")
    for suffix in (".svg", ".pdf"):
        assert {name.removesuffix(suffix) for name in found if name.endswith(suffix)} == FIGURES
    confusion = np.array(content["models"][2]["test"]["confusion"])
    worst = [min(12, confusion[0, 1]), min(12, confusion[1, 0])]
    pictures = {
        "mistakes_0": worst[0],
        "mistakes_1": worst[1],
        "explained": 2 * sum(min(4, number) for number in worst),
    }
    assert max(worst) > 0
    for name, number in pictures.items():
        assert sum(one.startswith(name) for one in found) == number
    assert {path.name for path in folder.iterdir()} == {
        *("figures", "predictions.parquet", "report.html", "report.json", "report.md"),
        *("methods.tex", "references.bib", "tables"),
    }
    tables = sorted(path.name for path in (folder / "tables").iterdir())
    assert {"models-on-the-test-rows.csv", "models-on-the-test-rows.tex", "training.csv"} <= set(
        tables
    )
    frame = pd.read_csv(folder / "tables" / "models-on-the-test-rows.csv")
    assert list(frame)[:5] == ["Model", "AUC", "AUC low", "AUC high", "PR AUC"]
    assert frame["AUC"].tolist() == pytest.approx(
        [one["test"]["auc"] for one in content["models"] if one["kind"] != "combination"], abs=1e-4
    )


def test_report_without_captum_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    model = build("test_resnet", image_shape=(1, 32, 32), num_outputs=2).eval()
    run = make_run(tmp_path, models=("resnet18",), separation=0.5)

    def explain(_, rows):
        return class_maps(model, {"image": torch.zeros(len(rows))})

    page, _ = write(run, tools={"explain": explain})
    assert (
        "No picture of what the network looked at: Grad-CAM needs captum, which is not installed; "
        "install it with: pip install 'lenshpc[explain]'."
    ) in html.unescape(page.read_text())
    assert not list((run.paths.report / "figures").glob("explained*"))


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
    assert f"{expected:.4f}" in (reported.paths.report / "report.html").read_text()


def test_page_parses_and_needs_no_other_file(reported):
    text = (reported.paths.report / "report.html").read_text()
    page = Page(text)
    assert page.titles == [
        *("Models", "Curves", "Confusion matrices", "Most confident mistakes"),
        *("Images and features", "Training", "Data", "Cost and failures", "Methods"),
        *("How to read this", "Where it came from"),
    ]
    assert page.drawings == len(FIGURES)
    assert all(one["src"].startswith("data:image/png;base64,") for one in page.images)
    assert all(one["alt"] for one in page.images)
    assert not re.search("<script [^>]|<link|@import|PARTIAL", text)
    targets = re.findall(r'href\s*=\s*"([^"]*)"', text) + re.findall(r"url\(([^)]*)", text)
    assert {target[0] for target in targets} == {"#"}
    assert {target[1:] for target in targets if target.startswith("#section")} <= set(
        re.findall(r'\sid="([^"]+)"', text)
    )
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_markdown_has_the_tables_and_links_that_exist(reported):
    text = (reported.paths.report / "report.md").read_text()
    titles = re.findall("^### (.*)$", text, re.MULTILINE)
    assert {
        *("On the test rows", "Few false positives, and calibration", "Out-of-fold", "Decisions"),
        *("Combinations of models", "Paired comparisons", "Each class, ensemble, test rows"),
        *("Usage", "Asked for and used", "Failed attempts", "Recipe", "Hashes", "Provenance"),
    } <= set(titles)
    assert "GPU OUT OF MEMORY" in text
    links = re.findall(r"\]\((.*?)\)", text)
    drawn = [one for one in (reported.paths.report / "figures").iterdir() if one.suffix != ".pdf"]
    assert len(links) == len(set(links)) == len(drawn)
    assert all((reported.paths.report / link).is_file() for link in links)


def test_report_of_three_classes_and_one_model(tmp_path):
    run = make_run(tmp_path, classes=("no", "sphere", "vort"), models=("resnet18",), seeds=(0, 1))
    report = report_of(run)
    models = report.content["models"]
    assert [one["name"] for one in models if one["kind"] == "model"] == ["resnet18"]
    assert report.content["headline"]["name"] == "resnet18"
    assert {one["threshold"] for one in models} == {None}
    assert np.array(models[0]["test"]["confusion"]).sum() == 60
    tables = tables_of(report)
    assert tables["Each class, resnet18, test rows"] == ["no", "sphere", "vort"]
    assert {"Each class", "Calibration"} <= set(tables)
    assert not {"Decisions", "Combinations of models"} & set(tables)


def test_each_of_several_models_has_its_confusion_matrix_and_roc_curves(tmp_path):
    run = make_run(tmp_path, classes=("no", "sphere", "vort"), folds=1)
    report = report_of(run)
    figures = {one.name: one for one in report.figures()}
    assert {f"{kind}_resnet{size}" for kind in ("confusion", "roc") for size in (18, 34)} <= set(
        figures
    )
    aucs = report.content["models"][0]["test"]["classes"]
    named = "; ".join(
        f"{name}  {one['auc']:.4f}" for name, one in zip(run.plan.classes, aucs, strict=True)
    )
    assert figures["roc_resnet18"].text.endswith(f" Shown: {named}.")


def test_features_and_turned_images_are_shown_where_members_wrote_them(run):
    for member in run.plan.members:
        frame = run.predictions(member.index)
        turned = frame[["logp_0", "logp_1"]].rename(columns=lambda name: f"rot90_{name}")
        run.finish(member.index, pd.concat([frame, turned], axis=1))
        group = zarr.open_group(run.paths.member(member.name).root / "arrays.zarr", mode="w")
        values = np.random.default_rng(0).normal(size=(len(frame), 6)).astype(np.float16)
        group.create_array("embedding", data=values)
    report = report_of(run)
    assert {one.name for one in report.figures()} == FIGURES | {"embedding"}
    assert tables_of(report)["Images turned by 90°"][:3] == ["resnet18", "resnet34", "ensemble"]
    assert [one["rotation"]["change"] for one in report.content["models"][:3]] == [0, 0, 0]


def test_declared_prior_gives_a_second_decision(run):
    method = run.plan.recipe.method.model_copy(update={"test_prior": 0.01})
    recipe = run.plan.recipe.model_copy(update={"method": method})
    results = gather(run.paths, run.plan, {}, allow_partial=False)
    plan = run.plan.model_copy(update={"recipe": recipe})
    report = compose(replace(results, plan=plan))
    assert tables_of(report)["Decisions"] == ["best F1 out-of-fold", "prior-corrected"]
    assert "confusion_corrected" in {one.name for one in report.figures()}
    assert report.content["test_prior"] == 0.01


def test_names_are_escaped(tmp_path):
    name = "<b>$_x$|"
    run = make_run(tmp_path, classes=("no", name), models=("resnet18",), separation=0.5)
    page, content = write(run)
    assert content["classes"] == ["no", name]
    assert "<b>" not in page.read_text()
    assert "&lt;b&gt;$_x$|" in page.read_text()
    markdown = (run.paths.report / "report.md").read_text()
    assert "<b>" not in markdown.replace("\\<", "").replace("\\>", "")
    assert "\\<b\\>\\$\\_x\\$\\|" in markdown


def test_second_report_replaces_the_first(run):
    stale = run.paths.report / "figures" / "stale.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("of an earlier report")
    (run.paths.report / "report.json").write_text('{"shows": ["figures/stale.svg"]}')
    write(run)
    assert not stale.exists()
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
    failed = Standing(state="FAILED", reason="job 7_1 ended TIMEOUT", step="resume")
    page, content = write(run, {1: failed}, allow_partial=True)
    lack = "has no predictions (job 7_1 ended TIMEOUT)"
    member = {"index": 1, "model": "resnet18", "fold": 1, "seed": 0, "lack": lack}
    assert content["missing"] == [member]
    assert content["verdict"]["checks"][-1] == {
        "name": "members",
        "colour": "amber",
        "text": "The run is incomplete: 1 member missing.",
    }
    assert "PARTIAL: 1 of 6 members are missing." in page.read_text()
    assert "PARTIAL: 1 of 6 members are missing." in page.with_name("report.md").read_text()
    by_name = {one["name"]: one["oof"]["num_covered"] for one in content["models"]}
    fold = int((run.splits["fold"] == 1).sum())
    assert by_name["resnet18"] == by_name["ensemble"] == 90 - fold
    assert by_name["resnet34"] == by_name["baseline (mean and std)"] == 90
    table = pd.read_parquet(page.with_name("predictions.parquet"))
    assert table["ensemble:p_lens"].isna().sum() == fold


def test_partial_report_without_a_whole_model_has_null(run):
    for index in range(3):
        forget(run, index)
    page, content = write(run, allow_partial=True)
    assert content["headline"]["auc"] is None
    assert [one["test"]["auc"] is None for one in content["models"][:3]] == [True, False, True]
    assert "PARTIAL: 3 of 6" in page.read_text()


def test_partial_report_of_nothing_is_refused(run):
    for index in range(6):
        forget(run, index)
    with pytest.raises(IncompleteError, match="5 more members are not done"):
        write(run, allow_partial=True)


def test_run_outlives_its_store(run):
    plan = run.plan.model_copy(update={"store": run.paths.root / "gone"})
    report = report_of(run, plan)
    assert "baseline" not in {one["kind"] for one in report.content["models"]}
    assert report.verdict.colour == "amber"
    assert report.verdict.sentence.startswith("Not shown to beat a baseline: there is none here (")
    notes = report.content["notes"]
    assert any(note.startswith("The table has no baselines: ") for note in notes)
    assert list(report.galleries()) == []


def test_perfect_separation_is_commented(tmp_path):
    report = report_of(make_run(tmp_path, models=("resnet18",), separation=20.0))
    assert report.content["headline"]["auc_low"] == 1
    assert report.content["mistakes"] == []
    assert ON_BOUND in report.content["notes"]
    assert report.headline.note == (
        "No test image is out of order among 30 positives and 30 negatives: with 95% confidence "
        "the true AUC is above 0.687."  # of 8 groups of each class
    )
    assert f"<div>{report.headline.note}</div>" in render_html(report)
    assert f"\n\n{report.headline.note}\n\n" in render_markdown(report)


def test_baseline_that_had_too_few_images_is_told_below_the_table(tmp_path):
    run = make_run(tmp_path, models=("resnet18",), folds=2, num_train=70)
    report = report_of(run)
    (boosting,) = (one for one in report.content["models"] if "boosting" in one["name"])
    assert [boosting["test"][key] for key in ("auc", "auc_low", "auc_high")] == [0.5] * 3
    note = (
        "One score for all rows, and so an AUC of 0.5: baseline (boosting on seven radial "
        "numbers), as boosting needs 40 training images and has 35."
    )
    assert report.overview.note == note
    assert f'<p class="soft">{note}</p>' in render_html(report)
    assert render_table(report.overview).splitlines()[-2:] == ["", note]


def test_command_prints_the_table_and_the_place(run, monkeypatch):
    asked = []
    monkeypatch.setattr(webbrowser, "open", asked.append)  # returns what says that there is none
    done = CliRunner().invoke(aggregate, [run.paths.name, "--open"], catch_exceptions=False)
    assert done.exit_code == 0
    page = run.paths.report / "report.html"
    assert asked == [page.resolve().as_uri()]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("| Model ")
    told = strict_json(run.paths.report / "report.json")["verdict"]
    assert lines[-2] == f"verdict: {told['colour']}. {told['sentence']}"
    assert lines[-1] == f"report: {page}"
    *told, last = done.stderr.splitlines()
    assert last == f"no browser can be opened here; the page is {page}"
    stages = [line.partition(": ") for line in told]
    names = ["gate", "merge", "baselines", "scores", "pictures"]
    assert [stage for stage, _, _ in stages] == names
    assert list(strict_json(run.paths.report / "report.json")["stages"]) == names


def test_command_prints_json_only(run):
    forget(run, 0)
    command = [run.paths.name, "--json", "--allow-partial"]
    done = CliRunner().invoke(aggregate, command, catch_exceptions=False)
    assert json.loads(done.stdout) == strict_json(run.paths.report / "report.json")


@pytest.mark.parametrize("models", [("resnet18",), ("resnet18", "d4_net")])
def test_methods_tell_of_a_test_between_models_only_where_there_are_some(tmp_path, models):
    text = describe_classes(make_run(tmp_path, models=models).plan)
    assert ("AUCs of models were compared by DeLong's test" in text) == (len(models) == 2)
    assert "Baselines are of scikit-learn" in text
