"""Tables and texts of a report for papers: LaTeX (booktabs, natbib) and CSV."""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from lenshpc.errors import one_line, printable_lines
from lenshpc.report.content import Table
from lenshpc.report.format import ABSENT
from lenshpc.report.references import MARK

# What a spreadsheet takes for a formula, or for the mark of a text; a plain number is neither.
_FORMULA = re.compile(r"['=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_INTERVAL = re.compile(r"([^\[\]]+) \[([^\[\],]+), ([^\[\],]+)\]")
_SPECIAL = re.compile(r"[&%$#_{}~^\\<>|\"]")
_SPELT = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"${sign}$" for sign in "<>|"
}
_SIGNS = {
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "°": r"$^\circ$",
    "≤": r"$\leq$",
    "θ": r"$\theta$",
    "γ": r"$\gamma$",
    "″": "$''$",
    "–": "--",
    "…": r"\ldots{}",
    '"': "''",
}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


def escape_cell(value: Any) -> Any:
    """Return a value so that no spreadsheet takes a text for a formula.

    A text that begins with `=`, `+`, `-`, `@`, a tab or a carriage return gets a `'` in front, the
    spreadsheets' mark of a text, unless it is a plain number. One that begins with `'` gets
    another: who takes one leading `'` away has the text as it was.

    >>> escape_cell("=1+1"), escape_cell("-12.5"), escape_cell("a-b.fits"), escape_cell("'a")
    ("'=1+1", '-12.5', 'a-b.fits', "''a")
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def render_csv(table: Table) -> str:
    """Return a table as CSV: a figure with its interval in three columns, a dash as nothing."""
    columns = [[row.cells[at] for row in table.rows] for at in range(len(table.columns))]
    expanded = [
        column
        for heading, cells in zip(table.columns, columns, strict=True)
        for column in _expand(heading.title, cells)
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([escape_cell(title) for title, _ in expanded])
    writer.writerows(zip(*(cells for _, cells in expanded), strict=True))
    return out.getvalue()


def _expand(title: str, cells: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield a column as it is, or value, low and high of one with intervals."""
    found = [_INTERVAL.fullmatch(cell) for cell in cells]
    if not any(found):
        yield title, [_format_cell(cell) for cell in cells]
        return
    name = title.removesuffix(" [interval]")
    parts = [
        one.groups() if one else (cell, "", "") for one, cell in zip(found, cells, strict=True)
    ]
    for at, heading in enumerate((name, f"{name} low", f"{name} high")):
        yield heading, [_format_cell(part[at]) for part in parts]


def _format_cell(text: str) -> str:
    text = one_line(text)
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+", text):
        return text.replace(",", "")
    return "" if text == ABSENT else str(escape_cell(text))


def render_latex(table: Table, name: str) -> str:
    """Return a table as LaTeX, which needs the package booktabs."""
    sides = "".join("l" if at == 0 or one.words else "r" for at, one in enumerate(table.columns))
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(table.title)}}}",
        rf"  \label{{tab:{name}}}",
        rf"  \begin{{tabular}}{{{sides}}}",
        r"    \toprule",
        _line([one.title for one in table.columns]),
        r"    \midrule",
        *(_line(row.cells) for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Any) -> str:
    return f"    {' & '.join(escape_latex(one_line(cell)) for cell in cells)} \\\\"


def escape_latex(text: str) -> str:
    """Return text that LaTeX shows as it is."""
    text = _SPECIAL.sub(lambda sign: _SPELT.get(sign[0], rf"\{sign[0]}"), printable_lines(text))
    text = re.sub(r"(?<![\w$])-(?=\d)", "$-$", text)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda some: f"$^{{{some[0].translate(_RAISED)}}}$", text)
    text = re.sub(r"[₀-₉]+", lambda some: f"$_{{{some[0].translate(_LOWERED)}}}$", text)
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def render_prose(text: str) -> str:
    """Return a text with citations as LaTeX, for natbib."""
    parts = MARK.split(text)
    for at, part in enumerate(parts):
        keys = ",".join(re.findall(r"@(\w+)", part))
        parts[at] = rf"~\citep{{{keys}}}" if at % 2 else escape_latex(part)
    return "".join(parts) + "\n"
