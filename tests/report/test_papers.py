"""What a report leaves for papers: tables as CSV and LaTeX, citations, figures, the paragraph."""

import io
import re
from dataclasses import replace

import pandas as pd
import pytest
from synthetic_run import make_run

from lenshpc.report.content import Column, Row, Table, name_uniquely
from lenshpc.report.figures import add_legend, draw_figure, draw_histories
from lenshpc.report.latex import escape_latex, render_csv, render_latex, render_prose
from lenshpc.report.references import cite, format_citations, list_cited, read_references
from lenshpc.report.write import compose
from lenshpc.run.results import gather
from lenshpc.statistics import scores as judging

TABLE = Table(
    title="On 5 % of rows",
    columns=(
        Column(title="Model"),
        Column(title="AUC [interval]"),
        Column(title="Rows"),
        Column(title="TPR₀ at 10⁻³"),
        Column(title="Note", words=True),
    ),
    rows=(
        Row(cells=("a_b", "-0.98 [0.97, 0.99]", "1,234", "0.5", "=1+1")),
        Row(cells=("x & y", "0.5", "12", "–", "10 ± 2 µm²")),
    ),
)


def test_csv_has_a_column_a_number_and_no_formula():
    assert render_csv(TABLE).splitlines() == [
        "Model,AUC,AUC low,AUC high,Rows,TPR₀ at 10⁻³,Note",
        "a_b,-0.98,0.97,0.99,1234,0.5,'=1+1",
        "x & y,0.5,,,12,,10 ± 2 µm²",
    ]
    frame = pd.read_csv(io.StringIO(render_csv(TABLE)))
    assert frame["AUC high"].tolist() == pytest.approx([0.99, float("nan")], nan_ok=True)


def test_latex_has_the_rules_of_booktabs_and_no_sign_that_latex_reads():
    assert render_latex(TABLE, "some-rows").splitlines() == [
        r"\begin{table}",
        r"  \centering",
        r"  \caption{On 5 \% of rows}",
        r"  \label{tab:some-rows}",
        r"  \begin{tabular}{lrrrl}",
        r"    \toprule",
        r"    Model & AUC [interval] & Rows & TPR$_{0}$ at 10$^{-3}$ & Note \\",
        r"    \midrule",
        r"    a\_b & $-$0.98 [0.97, 0.99] & 1,234 & 0.5 & =1+1 \\",
        r"    x \& y & 0.5 & 12 & -- & 10 $\pm$ 2 µm$^{2}$ \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    assert escape_latex("\\^~{}#$<|") == (
        r"\textbackslash{}\textasciicircum{}\textasciitilde{}\{\}\#\$$<$$|$"
    )


def test_names_of_files_are_plain_and_never_twice():
    titles = ["On the test rows", "On the test rows", "Images turned by 90°", "−", "x" * 90]
    assert list(name_uniquely(titles)) == [
        *("on-the-test-rows", "on-the-test-rows-2", "images-turned-by-90", "part", "x" * 60)
    ]


def test_citations_stand_as_people_write_them_and_as_natbib_does():
    text = f"By DeLong's test{cite('statistic/delong')}, of resnet34{cite('network/resnet34')}."
    assert format_citations(text) == (
        "By DeLong's test (DeLong et al. 1988; Sun & Xu 2014), of resnet34 (He et al. 2016)."
    )
    assert render_prose(text) == (
        "By DeLong's test~\\citep{delong1988,sun2014}, of resnet34~\\citep{he2016}.\n"
    )
    assert [one.key for one in list_cited(text)] == ["delong1988", "he2016", "sun2014"]
    assert cite("network/unheard_of") == ""
    assert cite("network/vit_tiny", "network/mobilevit_s") == " [@dosovitskiy2021; @mehta2022]"


def test_references_are_whole():
    for one in read_references():
        assert re.fullmatch(r"@\w+{[a-z]+\d{4}[a-z]*,\n(  \w+ = {.+},\n)+}\n", one.bibtex)
        assert one.bibtex.count("{") == one.bibtex.count("}")
        assert one.key.startswith(one.label[:2].lower())
        assert re.fullmatch(r"[^{}\\]+ \d{4}: [^{}\\]+", one.line), one.line
        assert "keywords" not in one.bibtex


def test_legend_lies_below_the_axes_and_the_figure_tells_what_it_names():
    boxes = {}

    def draw(axes):
        for at in range(7):
            axes.plot([0, 1], [at, at], label=f"a line with the number {at}")
        axes.set(xlabel="Epoch", ylabel="AUC")
        add_legend(axes, "Lines")
        figure = axes.get_figure()
        figure.draw_without_rendering()
        boxes.update(legend=figure.legends[0].get_window_extent(), axes=axes.get_tightbbox())
        assert axes.get_legend() is None

    found = draw_figure("lines", "Lines of all members.", draw)
    assert boxes["legend"].y1 <= boxes["axes"].y0
    assert boxes["axes"].height > 150
    named = "; ".join(f"a line with the number {at}" for at in range(7))
    assert found.text == f"Lines of all members. AUC against Epoch. Shown: {named}."
    assert found.pdf.startswith(b"%PDF")
    assert found.pdf == draw_figure("lines", "Lines of all members.", draw).pdf


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("judged"), separation=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "NUM_RESAMPLES", 100)
        results = gather(run.paths, run.plan, {}, allow_partial=False)
        return run, results, compose(results)


def test_methods_say_what_was_done_with_the_numbers_of_the_run(judged):
    run, _, report = judged
    text = format_citations(report.methods)
    fingerprint = run.plan.fingerprint()[:8]
    for part in (
        "We used the data set lens_finding, images of 1 × 4 × 4 pixels: 90 for training and "
        "validation and 60 for testing (nonlens 45 and 30; lens 45 and 30).",
        "The former were divided into 3 folds, stratified by class with groups kept whole; with "
        "each fold held out each network was trained once, 6 trainings in all.",
        "The networks were resnet18 (He et al. 2016) and resnet34 (He et al. 2016), in PyTorch "
        "(Paszke et al. 2019; Wightman 2019).",
        "Each was trained for at most 15 epochs in batches of 32 by AdamW (Loshchilov & Hutter "
        "2019) with a learning rate of 0.0001, weight decay 0.0001 and a cosine schedule "
        "(Loshchilov & Hutter 2017), on images augmented by flips and quarter turns; the weights "
        "of the epoch with the best AUC on the held-out fold were kept (in the median epoch 4).",
        "The threshold has the largest F1 on out-of-fold images.",
        f"Test ROC AUC of the ensemble was {report.headline.value} ({report.headline.range}).",
        "The trainings took 19 min 12 s in all, each on 1 × cpu.",
        f"(run {fingerprint}, store {run.plan.store_hash[:12]}).",
    ):
        assert part in text
    assert [section.title for section in report.sections][-3:] == [
        *("Methods", "How to read this", "Where it came from")
    ]


def test_epochs_are_counted_from_one(judged):
    """The engine writes epochs 0 to 3, of which 3 is the best: people say 1 to 4, and 4."""
    _, results, report = judged
    assert {one["best_epoch"] for one in report.content["members"]} == {4}
    [table] = [one for name, one in report.tables() if name == "training"]
    at = [column.title for column in table.columns].index("Best epoch")
    assert {row.cells[at] for row in table.rows} == {"4"}
    drawn = draw_histories(["resnet18"], results.trainings[:1])
    later = results.trainings[0].history.assign(epoch=lambda one: one["epoch"] + 5)
    moved = replace(
        results.trainings[0], history=later, done={**results.trainings[0].done, "best_epoch": 8}
    )
    ticks = [read_ticks(one) for one in (drawn[0], draw_histories(["resnet18"], [moved])[0])]
    assert ticks == [[1, 2, 3, 4], [6, 7, 8, 9]]


def read_ticks(figure):
    """Return the whole numbers along the x axis: matplotlib notes a text beside its paths."""
    ticks = re.findall(r'id="[\w-]*xtick_\d+">.*?<!-- (\d+) -->', figure.svg, re.DOTALL)
    return [int(tick) for tick in ticks]


def test_resources_say_what_was_asked_for_and_what_was_used(judged):
    _, _, report = judged
    origin = {one.title: dict(one.pairs) for one in report.sections[-1].blocks}
    assert not any(key.startswith("resources") for key in origin["Recipe"])
    assert origin["Resources"]["asked: nodes"] == "1"
    assert origin["Resources"]["used: 1 × cpu, single"] == "6 members"
