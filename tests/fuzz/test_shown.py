"""What came from files and logs is shown as text: on a terminal, in Markdown, in HTML."""

import json
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from synthetic_run import make_run
from tries import tried

import lenshpc.cli
from lenshpc.cli.main import main
from lenshpc.cli.show import cell
from lenshpc.cli.watch import render
from lenshpc.errors import printable_lines
from lenshpc.launch.failures import find_failure
from lenshpc.launch.jobs import JobRecord, record
from lenshpc.launch.states import MemberStatus, RunStatus
from lenshpc.report.content import (
    Banner,
    Column,
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
from lenshpc.report.figures import draw_figure
from lenshpc.report.html import render_html
from lenshpc.report.markdown import escape, render_markdown

EVIL = "<script>alert(1)</script>|\x1b[31m[red]`x`\u202e![i](http://evil.example/i.png)"
SHOWN = r"<script>alert(1)</script>|\x1b[31m[red]`x`\u202e![i](http://evil.example/i.png)"
SIGNLESS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # categories of Unicode
PIECES = ["\r\n", "    ", "# ", "- ", "1. ", "---", "&lt;", "]]>", "\t", "\x85", "\u2028"]
TRIES = [50, pytest.param(10_000, marks=pytest.mark.slow)]


WORDS = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from([*EVIL, *PIECES]), max_size=20).map("".join),
)


def find_acting(text, kept="\n\t"):
    """Return the characters of a text that would do more than be read."""
    return {one for one in text if unicodedata.category(one) in SIGNLESS and one not in kept}


class Reader(HTMLParser):
    """The tags, attributes' names and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.values = set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add((tag, *sorted(name for name, _ in attrs)))
        self.values += [value for _, value in attrs]

    def handle_data(self, data):
        self.text.append(data)


def report(word):
    """Return a report that has a word in each of its places."""
    picture = Picture(png=b"", text=word, caption=word)
    table = Table(title=word, columns=(Column(title=word),), rows=(Row(cells=(word,)),))
    blocks = (
        Prose(text=word),
        table,
        Gallery(name="pairs", title=word, caption=word, panels=((picture,),)),
        Notes(lines=(word,)),
        KeyValues(title=word, pairs=((word, word),)),
        Log(title=word, text=word),
        Banner(title=word, text=word, lines=(word,), command=word),
    )
    return Report(
        title=word,
        reading=word,
        banners=(),
        headline=Headline(label=word, measure=word, value=word, range=word),
        overview=table,
        sections=(Section(title=word, blocks=blocks),),
        content={},
        predictions=pd.DataFrame(),
    )


@pytest.mark.parametrize("tries", TRIES)
def test_page_has_the_same_tags_whatever_the_words(tries):
    tags = Reader(render_html(report("word"))).tags

    @tried(tries)
    @given(WORDS)
    def check(word):
        # a caption or a title that is empty has no tag
        page = render_html(report(f"x{word}"))
        found = Reader(page)
        assert found.tags == tags
        assert printable_lines(f"x{word}") in [*found.text, *found.values]
        assert find_acting(page) == set()

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_markdown_has_the_same_lines_whatever_the_words(tries):
    kinds = [line[:2] for line in render_markdown(report("x")).split("\n")]

    @tried(tries)
    @given(WORDS)
    def check(word):
        word = f"x{' '.join(word.split())}"
        lines = render_markdown(report(word)).replace("pairs_01", "pairs").split("\n")
        assert len(lines) == len(kinds)
        bare = re.compile(r"(?<!\\)(?:\\\\)*([<>`|\[\]*_&@]|\w://)")
        for line, kind in zip(lines, kinds, strict=True):
            assert line[:2] in {kind, "> ", "##", "- ", "| ", "**", "!["} or kind == "x"
            if line.startswith("    "):
                continue  # a log stands as it is
            # what is left are the marks of the report itself
            marks = [mark for mark in bare.findall(line) if mark not in {"|", "*", "[", "]", ">"}]
            assert marks == []

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_terminal_gets_no_more_than_lines_tabs_and_text(tries):
    @tried(tries)
    @given(WORDS)
    def check(word):
        assert find_acting(printable_lines(word)) == set()
        shown = cell(word)
        assert (find_acting(shown.plain, ""), shown.spans) == (set(), [])

    check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EVIL, r"\<script\>alert(1)\</script\>\|\\x1b\[31m\[red\]\`x\`\\u202e!\[i\](http\://evil"),
        ("- one", r"\- one"),
        ("1. one", r"1\. one"),
        ("---", r"\---"),
        ("-0.5", "-0.5"),
        ("a\n\n# b", r"a \# b"),
        ("&lt;b&gt; me@x.org www.x.org", r"\&lt;b\&gt; me\@x.org www\.x.org"),
    ],
)
def test_markdown_shows_markup_as_text(text, expected):
    assert escape(text).startswith(expected)


def test_log_in_markdown_keeps_its_lines_below_its_title():
    found = render_markdown(report("x\n# y\x1b[31m\r\n<b>\x0bz"))
    assert "\n    x\n    # y\\x1b[31m\n    <b>\\x0bz\n" in found


def test_table_of_states_shows_escapes_and_brackets():
    failure = replace(find_failure("PYTHON ERROR"), line=EVIL, tail=(f"\t{EVIL}",), node=EVIL)
    line = MemberStatus(
        index=0, name=EVIL, state=EVIL, job=EVIL, node=EVIL, reason=f"{EVIL}.", failure=failure
    )
    status = RunStatus(run=EVIL, members=(line,), report=EVIL, report_job=EVIL, silence=EVIL)
    for width in (2000, None):
        console = Console(width=2000, force_terminal=True)
        with console.capture() as captured:
            console.print(render(status, width), crop=False)
        told = re.sub(r"\x1b\[[0-9;]*m", "", captured.get())
        assert told.count(SHOWN) == 10
        assert find_acting(told) == set()


def test_words_in_a_figure_are_paths_and_its_name_is_a_files():
    def draw(axes):
        axes.plot([0], [0], label=EVIL)
        axes.set_xticks([0], [EVIL])
        axes.set_title(EVIL)
        axes.legend()

    figure = draw_figure('../x" onload="y', "", draw)
    assert figure.name == "___x__onload__y"
    assert "<script" not in figure.svg
    assert "onload=" not in figure.svg
    assert find_acting(figure.svg) == set()


def test_page_may_load_nothing():
    page = render_html(report("x"))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert page.count("<script") == 1  # its own, which the policy names by its hash
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", page)


def test_commands_print_through_one_function():
    folder = Path(lenshpc.cli.__file__).parent
    found = [
        path.name
        for path in folder.glob("*.py")
        if re.search(r"click\.s?echo\(|\bprint\(", path.read_text())
    ]
    assert found == ["show.py"]


@pytest.mark.slow
def test_class_of_such_a_name_is_text_from_store_to_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "<script>alert(1)</script>|\x1b[31m"
    run = make_run(tmp_path, classes=("nonlens", name), models=("resnet18",), folds=2)
    outputs = []
    for arguments in (["info", "store"], ["aggregate", run.paths.name], ["status", run.paths.name]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.stderr
        outputs.append(done.stdout)
        assert find_acting(done.stdout) == set()
    assert r"<script>alert(1)</script>|\x1b[31m" in outputs[0]
    page = (run.paths.report / "report.html").read_text(encoding="utf-8")
    text = (run.paths.report / "report.md").read_text(encoding="utf-8")
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;|\x1b[31m" in page
    assert escape(name) in text
    for shown in (page, text, *(one.read_text() for one in run.paths.report.rglob("*.svg"))):
        assert "<script" not in shown.replace("\\<", "")
        assert find_acting(shown) == set()


def test_log_is_shown_with_its_lines_and_tabs_and_escapes_as_text(run):
    run.paths.slurm.mkdir()
    queue = {"states": {"0": "FAILED"}, "jobs": {"0": "9"}}
    (run.paths.slurm / "queue.json").write_text(json.dumps(queue))
    facts = {"scheduler": "local", "site": "x", "submitted": "2026"}
    record(run.paths, JobRecord(job_id="9", members=(0,), **facts))
    log = run.paths.slurm / "9_0_log.out"
    log.write_bytes(b"a\tb\r\n\x1b[2J\x1b]0;title\x07\xff\xc3\xa9\n[red]10 %\r20 %\n")
    done = CliRunner().invoke(main, ["logs", run.paths.name, "--member", "0"])
    assert (done.exit_code, done.stdout) == (
        0,
        "a\tb\n\\x1b[2J\\x1b]0;title\\x07\ufffd\xe9\n[red]10 %\n20 %\n",
    )
