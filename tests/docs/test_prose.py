"""The pages are short-lined, their tables have headings, and their words are plain."""

import re
from pathlib import Path

import pytest
import yaml

import lenshpc

ROOT = Path(__file__).parents[2]
SKIPPED = {"build", ".venv", "dist"}
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part in SKIPPED or part.startswith(".venv") for part in path.parts)
}
MAX_LINE, MAX_README = 140, 120
AVOIDED = [
    r"\bmend(s|ed|ing)?\b",
    r"\blame\b",
    r"\bis no store\b",
    r"\bleave\b.{1,30}\baway\b",
    r"\bpromises?\b",
    r"\bpromised\b",
]
CODE = re.compile(r"^```[\s\S]*?^```", re.MULTILINE)
RULE = re.compile(r"\|[-|: ]+\|")


def read(name):
    return PAGES[name].read_text(encoding="utf-8")


def read_prose(name):
    """Return a page on one line, without code."""
    return " ".join(CODE.sub("", read(name)).split())


@pytest.mark.parametrize("name", PAGES)
def test_page_has_short_lines_and_headings_on_its_tables(name):
    lines = read(name).splitlines()
    assert [line for line in lines if len(line) > MAX_LINE] == []
    heads = [lines[number - 1] for number, line in enumerate(lines) if RULE.fullmatch(line)]
    assert [head for head in heads if re.search(r"\|\s*\|", head)] == []


@pytest.mark.parametrize("name", PAGES)
def test_page_has_none_of_the_words_that_need_a_translation(name):
    prose = read_prose(name)
    assert [found[0] for word in AVOIDED for found in re.finditer(word, prose, re.IGNORECASE)] == []


@pytest.mark.parametrize("name", PAGES)
def test_list_stands_apart_from_the_paragraph_before(name):
    """Else GitHub shows a list, and the site a paragraph with dashes in it."""
    lines = CODE.sub("", read(name)).splitlines()
    begins = [re.match(r"[-*] |\d+\. ", line) for line in lines]
    wrong = [
        line
        for before, line, is_item, was_item in zip(
            lines, lines[1:], begins[1:], begins, strict=False
        )
        if is_item and not was_item and before.strip() and not before.startswith("  ")
    ]
    assert wrong == []


def test_glossary_has_few_words_and_the_front_page_leads_to_it():
    words = re.findall(r"^\| ([a-z-]+) \| (?!meaning)", read("docs/glossary.md"), re.MULTILINE)
    assert len(words) == len(set(words))
    assert 10 <= len(words) <= 15
    assert "](docs/glossary.md)" in read("README.md")


def test_front_page_is_short_and_has_the_two_commands():
    text = read("README.md")
    assert len(text.splitlines()) <= MAX_README
    assert "\n    make demo\n" in text
    assert "\n    make test\n" in text


def test_citation_is_of_this_version():
    entry = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert entry["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} < {*entry}
    assert entry["version"] == lenshpc.__version__
