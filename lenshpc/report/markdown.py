"""Render any report as Markdown; figures and pictures are linked from the folder beside it."""

import re
from collections.abc import Iterator
from urllib.parse import quote

from lenshpc.errors import one_line, printable_lines
from lenshpc.report.content import (
    Banner,
    Block,
    Figure,
    Gallery,
    KeyValues,
    Log,
    Notes,
    Prose,
    Report,
    Section,
    Table,
)
from lenshpc.report.verdict import Verdict

MARKUP = re.compile(r"[\\`*_\[\]<>|#$~&@]|(?<=\w):(?=//)|(?<=www)\.")
BEGINNING = re.compile(r"[-+=](?=[\s=-]|$)|[0-9]+(?=[.)](?:\s|$))")  # of a list, or of a rule


def render_markdown(report: Report) -> str:
    """Return the report as Markdown."""
    head = report.headline
    parts = [
        f"# {escape(report.title)}",
        *_verdict(report.verdict),
        escape(report.reading),
        *map(_block, report.banners),
        f"**{escape(head.label)}: {escape(head.value)}** {escape(head.range)}".rstrip(),
        *([escape(head.note)] if head.note else []),
        *(part for section in report.sections for part in _section(section)),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(verdict: Verdict | None) -> Iterator[str]:
    if verdict is not None:
        yield f"> **{verdict.colour.capitalize()}.** {escape(verdict.sentence)}"
        told = (
            (f"{one.name}, {one.colour}" if one.colour else one.name, one) for one in verdict.checks
        )
        yield "\n".join(f"- {escape(name)}: {escape(one.text)}" for name, one in told)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is: in one line, without markup, links or HTML."""
    marked = MARKUP.sub(r"\\\g<0>", one_line(text))
    begins = BEGINNING.match(marked)
    if begins is None:
        return marked
    # `\- one`, `1\. one`
    at = begins.end() if begins[0].isdigit() else 0
    return f"{marked[:at]}\\{marked[at:]}"


def render_table(table: Table) -> str:
    """Return a Markdown table, padded so that it reads well as plain text too, and its note."""
    head = [escape(column.title) for column in table.columns]
    cells = [head, *([escape(cell) for cell in row.cells] for row in table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    return "\n".join([*lines, *(["", escape(table.note)] if table.note else [])])


def _link(name: str) -> str:
    return f"figures/{quote(name)}"


def _section(section: Section) -> Iterator[str]:
    yield f"## {escape(section.title)}"
    yield from map(_block, section.blocks)


def _block(block: Block) -> str:
    match block:
        case Prose():
            return escape(block.text)
        case Notes():
            return "\n".join(f"- {escape(line)}" for line in block.lines)
        case Table():
            return _add_title(block.title, render_table(block))
        case Figure():
            return f"![{escape(block.text or block.caption)}]({_link(block.name)}.svg)"
        case Gallery():
            return _add_title(block.title, _pictures(block))
        case KeyValues():
            lines = (f"- {escape(key)}: {escape(text)}" for key, text in block.pairs)
            return _add_title(block.title, "\n".join(lines))
        case Log():
            return _add_title(
                block.title,
                "\n".join(f"    {one}" for one in printable_lines(block.text).split("\n")),
            )
        case Banner():
            return _banner(block)


def _add_title(title: str, text: str) -> str:
    return f"### {escape(title)}\n\n{text}" if title else text


def _pictures(gallery: Gallery) -> str:
    links = (f"![{escape(one.text)}]({_link(name)})" for name, one in gallery.pictures_by_file())
    return "\n".join([escape(gallery.caption), "", *links])


def _banner(banner: Banner) -> str:
    lines = f" {escape('; '.join(banner.lines))}." if banner.lines else ""
    command = f" Rerun with: {escape(banner.command)}" if banner.command else ""
    return f"> **{escape(banner.title)}** {escape(banner.text)}{lines}{command}"
