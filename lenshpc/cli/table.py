"""Tables in words that are read on a terminal of any width, and by programs in a pipe.

On a terminal a row is one line: columns give way before a word is folded, and what a row has to say
beyond its words stands below it. In a pipe nothing is cut, and an empty word is a dash, so that
columns are the same in every line; what a row has to say ends its line.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.text import Text

from lenshpc.cli.show import cell
from lenshpc.errors import printable_lines

GAP = "  "
INDENT = "    "


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column; where the width is too small, the one of the greatest `rank` gives way first.

    Rank 0 stays. A column without a word gives way to any.
    """

    word: str
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row: its words, `styles` of them, and a note below it; None in tables without notes."""

    words: tuple[str, ...]
    note: str | None = None
    styles: tuple[str, ...] = ()


def find_width(console: Console) -> int | None:
    """Return the columns of a terminal; None of a pipe or a file, which has no width."""
    return console.width if console.is_terminal else None


def draw_table(columns: Sequence[Heading], rows: Sequence[Line], width: int | None) -> Group:
    """Return a line of headings and one a row; `width` is a terminal's, None is a pipe's."""
    if width is None:
        heads = Line(words=tuple(one.word for one in columns), note="note")
        noted = any(row.note is not None for row in rows)
        told = [(*row.words, *[row.note or ""] * noted) for row in [heads, *rows]]
        dashed = [Line(words=tuple(word or "-" for word in words)) for words in told]
        return Group(*_align(dashed, _measure(dashed)))
    head = Line(words=tuple(one.word for one in columns), styles=("bold",) * len(columns))
    shown = _choose(columns, [_measure([head, *rows]), _measure(rows)], width)
    kept = [_keep(row, shown) for row in [head, *rows]]
    widths = _measure(kept)
    # Of what may not give way, the first column names the row: it is cut in its middle.
    widths[0] -= max(0, sum(widths) + len(GAP) * (len(widths) - 1) - width)
    lines = _align([_shorten(row, widths[0]) for row in kept], widths)
    return Group(lines[0], *_with_notes(lines[1:], [row.note or "" for row in rows], width))


def draw_lines(text: str, width: int | None, *, indent: str = "", style: str = "") -> Group:
    """Return a text in lines of at most `width`, folded between words alone."""
    shown = printable_lines(text, kept="\t").expandtabs()
    if width is None or cell_len(indent + shown) <= width:
        return Group(_whole(Text(indent + shown, style=style)))
    folded = textwrap.wrap(
        shown,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return Group(*(_whole(Text(line, style=style)) for line in folded))


def _choose(columns: Sequence[Heading], measured: Sequence[Sequence[int]], width: int) -> list[int]:
    """Return the columns that are shown, given their widths with headings and without."""
    widths, filled = measured
    shown = [at for at, words in enumerate(filled) if words]
    while sum(widths[at] + len(GAP) for at in shown) - len(GAP) > width:
        last = max(shown, key=lambda at: columns[at].rank)
        if columns[last].rank == 0:
            break
        shown.remove(last)
    return shown


def _keep(row: Line, shown: Sequence[int]) -> Line:
    styles = [*row.styles, *[""] * (len(row.words) - len(row.styles))]
    return Line(
        words=tuple(row.words[at] for at in shown), styles=tuple(styles[at] for at in shown)
    )


def _measure(rows: Sequence[Line]) -> list[int]:
    """Return the width of each column."""
    return [max(map(_len, words)) for words in zip(*(row.words for row in rows), strict=True)]


def _len(word: str) -> int:
    return cell_len(cell(word).plain)


def _shorten(row: Line, width: int) -> Line:
    first, *others = row.words
    plain = cell(first).plain
    if cell_len(plain) > width:
        # The beginning numbers a member, the end has its fold and seed.
        end = max(width // 2, 1)
        plain = f"{set_cell_size(plain, max(width - end - 1, 0))}…{plain[-end:]}"
    return Line(words=(plain, *others), styles=row.styles)


def _align(rows: Sequence[Line], widths: Sequence[int]) -> list[Text]:
    """Return the rows with each word in its column; the last one of a row is not filled up."""
    lines = []
    for row in rows:
        line = Text()
        for at, word in enumerate(row.words):
            shown = cell(word, row.styles[at] if row.styles else "")
            line.append_text(shown).append(" " * (widths[at] - cell_len(shown.plain)) + GAP)
        line.rstrip()
        lines.append(_whole(line))
    return lines


def _with_notes(lines: Sequence[Text], notes: Sequence[str], width: int) -> list[Text | Group]:
    """Return lines with their notes; one that the next line has too stands below that alone."""
    found: list[Text | Group] = []
    for line, note, following in zip(lines, notes, [*notes[1:], ""], strict=True):
        found.append(line)
        if note and note != following:
            found.append(draw_lines(note, width, indent=INDENT, style="dim"))
    return found


def _whole(line: Text) -> Text:
    """Return a line that is never folded or cut, whatever the console believes of its width."""
    line.no_wrap, line.overflow = True, "ignore"
    return line
