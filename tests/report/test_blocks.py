"""The renderers and the small parts of a report, on values made by hand."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lenshpc.report.common import _failures, _usage
from lenshpc.report.content import (
    Banner,
    Column,
    Figure,
    Gallery,
    Headline,
    KeyValues,
    Log,
    Notes,
    Picture,
    Prose,
    Report,
    Row,
    Section,
    Table,
)
from lenshpc.report.embedding import draw_rows, map_embedding
from lenshpc.report.format import (
    flatten,
    format_count,
    format_coverage,
    format_duration,
    format_interval,
    format_metric,
    format_number,
    format_p_value,
)
from lenshpc.report.html import render_html
from lenshpc.report.markdown import render_markdown, render_table
from lenshpc.report.pictures import colours, encode_png, overlay, stretch_of
from lenshpc.report.summary import without_nan
from lenshpc.report.verdict import Check, Verdict
from lenshpc.report.write import write
from lenshpc.tasks.supervised.numbers import bin_scores

TABLE = Table(
    title="Enlargement",
    columns=(Column(title="Model"), Column(title="PSNR"), Column(title="Note", words=True)),
    rows=(Row(cells=("edsr", "31.2", "a|b"), look="strong"), Row(cells=("bicubic", "28.9", "–"))),
)


@pytest.fixture
def report():
    """A report of another task, with a block of every kind."""
    picture = Picture(png=encode_png(np.zeros((4, 4, 3), np.uint8)), text="low", caption="LR")
    blocks = (
        Prose(text="Pairs of <images>."),
        TABLE,
        Figure(
            name="psnr",
            caption="PSNR by model.",
            svg='<svg width="3pt"><g/></svg>',
            text="PSNR of edsr: 31.2",
            pdf=b"%PDF",
        ),
        Figure(name="ssim", caption="SSIM by model.", svg='<svg width="3pt"><g/></svg>'),
        Gallery(name="pairs", title="Pairs", caption="As seen.", panels=((picture, picture),)),
        Notes(lines=("one", "two")),
        KeyValues(title="Hashes", pairs=(("store", "ab12"),)),
        Log(title="Log of member 3", text="line 1\nline 2"),
        Banner(title="BEWARE.", text="Not whole.", lines=("member 1",), command="lenshpc resume x"),
    )
    return Report(
        title="sr-1234",
        reading="Super-resolution.",
        banners=(),
        headline=Headline(label="PSNR", value="31.2", range="30.9 to 31.5"),
        overview=TABLE,
        sections=(Section(title="All blocks", blocks=blocks),),
        content={"psnr": 31.2},
        predictions=pd.DataFrame({"row": [0]}),
        verdict=Verdict(
            colour="amber",
            sentence="Not shown.",
            checks=(
                Check(name="rows", colour="amber", text="Not shown."),
                Check(name="chance", colour=None, text="None."),
            ),
        ),
        methods="Compared by DeLong's test [@delong1988] at 5 %.",
    )


def test_markdown_draws_every_block(report):
    assert render_markdown(report).splitlines() == [
        *("# sr-1234", "", "> **Amber.** Not shown.", ""),
        *("- rows, amber: Not shown.", "- chance: None.", ""),
        *("Super-resolution.", "", "**PSNR: 31.2** 30.9 to 31.5", ""),
        *("## All blocks", "", "Pairs of \\<images\\>.", "", "### Enlargement", ""),
        "| Model   | PSNR | Note |",
        "| ------- | ---- | ---- |",
        "| edsr    | 31.2 | a\\|b |",
        "| bicubic | 28.9 | –    |",
        *(
            "",
            "![PSNR of edsr: 31.2](figures/psnr.svg)",
            "",
            "![SSIM by model.](figures/ssim.svg)",
            "",
        ),
        *("### Pairs", "", "As seen.", ""),
        *("![low](figures/pairs_01.png)", "![low](figures/pairs_02.png)"),
        *("", "- one", "- two", "", "### Hashes", "", "- store: ab12", ""),
        *("### Log of member 3", "", "    line 1", "    line 2", ""),
        "> **BEWARE.** Not whole. member 1. Rerun with: lenshpc resume x",
    ]
    assert render_table(TABLE).startswith("| Model ")


def test_page_draws_every_block(report):
    page = render_html(report)
    for part in (
        '<section id="section-all-blocks">',
        "<h2>All blocks</h2>",
        '<a href="#section-all-blocks">All blocks</a>',
        '<div class="verdict amber">',
        "<strong>Amber.</strong> Not shown.",
        "<li><strong>rows, amber:</strong> Not shown.</li>",
        "<li><strong>chance:</strong> None.</li>",
        '<p class="soft">Pairs of &lt;images&gt;.</p>',
        '<tr class="strong">',
        '<td class="text">a|b</td>',
        '<svg role="img" aria-label="PSNR of edsr: 31.2"><g/></svg>',
        '<svg role="img" aria-label="SSIM by model."><g/></svg>',
        "<figcaption>SSIM by model.</figcaption>",
        "<summary>Hashes</summary>",
        '<pre tabindex="0">line 1\nline 2</pre>',
        "<strong>BEWARE.</strong>",
        "<code>lenshpc resume x</code>",
        '<div class="value">31.2</div>',
    ):
        assert part in page
    assert page.count('<div class="grid">') == 1
    assert page.count("data:image/png;base64,") == 2


def test_folder_holds_what_the_report_names(report, tmp_path):
    page = write(report, tmp_path / "report")
    found = sorted(str(path.relative_to(page.parent)) for path in page.parent.rglob("*.*"))
    assert found == [
        *("figures/pairs_01.png", "figures/pairs_02.png"),
        *("figures/psnr.pdf", "figures/psnr.svg", "figures/ssim.svg", "methods.tex"),
        *("predictions.parquet", "references.bib", "report.html", "report.json", "report.md"),
        *("tables/all-blocks-enlargement.csv", "tables/all-blocks-enlargement.tex"),
    ]
    written = json.loads((page.parent / "report.json").read_text())
    ours = {"predictions.parquet", "report.html", "report.json", "report.md"}
    assert set(written["files"]) == set(found) - ours
    assert Verdict.from_json(written["verdict"]) == report.verdict
    assert (page.parent / "methods.tex").read_text() == (
        "Compared by DeLong's test~\\citep{delong1988} at 5 \\%.\n"
    )
    bibliography = (page.parent / "references.bib").read_text()
    assert bibliography.startswith("@article{delong1988,\n  author = {DeLong, Elizabeth R. and ")
    assert bibliography.count("@") == 1
    write(replace(report, sections=(), methods=""), tmp_path / "report")
    left = {path.name for path in page.parent.rglob("*") if path.is_file()}
    assert left == ours


def test_words():
    assert format_interval(0.98123, 0.975, None) == "0.9812 [0.9750, –]"
    assert format_interval(None, None, None) == "–"
    assert format_interval(0.5, None, float("nan")) == "0.5000"
    assert format_number(0.5, 1) == "0.5"
    assert format_number(float("nan")) == "–"
    assert format_coverage(1200, 1500) == "1,200 of 1,500"
    assert [format_duration(value) for value in (None, 45, 192.4, 3900)] == [
        *("–", "45 s", "3 min 12 s", "1 h 05 min")
    ]
    assert [format_p_value(value) for value in (None, 0.0004, 0.0312)] == ["–", "< 0.001", "0.031"]
    assert [format_metric(name) for name in ("pr_auc", "theta_e")] == ["PR AUC", "theta e"]
    assert [format_count(number, "row") for number in (1, 1200)] == ["1 row", "1,200 rows"]
    assert list(flatten({"a": {"b": [1, 2], "d": []}, "c": None, "e": [{"kind": "d4"}]})) == [
        *(("a.b", "1, 2"), ("a.d", "none"), ("c", "–"), ("e", "kind d4"))
    ]


def test_numbers_that_json_cannot_hold_become_none():
    found = without_nan({"a": (1.0, float("nan")), "b": {"c": float("inf")}})
    assert found == {"a": [1.0, None], "b": {"c": None}}


def test_stretch_is_asinh_between_faint_and_bright():
    images = np.linspace(0, 1, 2 * 100 * 100).reshape(2, 1, 100, 100)
    stretch = stretch_of(images)
    assert stretch.low.item() == pytest.approx(0.01, abs=1e-4)
    assert stretch.high.item() == pytest.approx(0.75, abs=1e-4)
    middle = stretch.low + (stretch.high - stretch.low) / 2
    levels = stretch.levels(np.array([-1.0, 2.0, middle.item()]).reshape(1, 1, 3))
    expected = 255 * np.arcsinh(10) / np.arcsinh(20)
    assert levels.ravel().tolist() == [0, 255, int(expected)]


def test_last_of_three_channels_is_red():
    levels = np.array([10, 20, 30], dtype=np.uint8).reshape(3, 1, 1)
    assert colours(levels).tolist() == [[[30, 20, 10]]]
    assert colours(levels[:1]).tolist() == [[[10, 10, 10]]]


def test_cold_map_covers_nothing():
    pixels = np.full((6, 6, 3), 77, np.uint8)
    assert (overlay(pixels, np.zeros((3, 3))) == pixels).all()
    assert (overlay(pixels, np.ones((3, 3))) != pixels).any()


def test_pictures_are_bounded_and_grey_where_they_can_be():
    image = Image.open(io.BytesIO(encode_png(np.full((300, 200, 3), 9, np.uint8))))
    assert (image.size, image.mode) == ((85, 128), "L")


def test_rows_of_a_rare_class_are_all_drawn():
    labels = np.array([0] * 500 + [1] * 20)
    drawn = draw_rows(labels, num=60)
    assert (len(drawn), labels[drawn].sum()) == (60, 20)
    assert np.array_equal(drawn, np.unique(drawn))
    assert np.array_equal(drawn, draw_rows(labels, num=60))


def test_embedding_map_separates_what_is_far_apart_and_is_seeded():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 5)) + 20 * np.repeat([0, 1], 20)[:, None]
    first = map_embedding(values)
    assert np.array_equal(first, map_embedding(values))
    centres = first[:20].mean(axis=0), first[20:].mean(axis=0)
    nearer = [np.linalg.norm(first - centre, axis=1) for centre in centres]
    assert ((nearer[1] < nearer[0]) == np.repeat([False, True], 20)).all()


def test_scores_are_binned_by_equal_counts():
    number = np.arange(80.0)
    found = bin_scores(number[::-1], number[::-1] / 80)
    assert found["number"].tolist() == [4.5 + 10 * bin_ for bin_ in range(8)]
    assert found["median"].to_numpy() == pytest.approx(found["number"].to_numpy() / 80)
    assert bin_scores(np.array([1.0, 2.0]), np.array([0.0, 1.0]))["median"].tolist() == [0.0, 1.0]


def test_run_without_attempts_or_failures_shows_neither():
    total = {"attempts": 0, "hours": 0, "useful_hours": 0, "wasted_hours": 0}
    assert _usage(None) == _usage({"unit": "GPU", "total": total}) == ()
    assert _failures([]) == ()
