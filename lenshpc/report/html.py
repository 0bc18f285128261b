"""Render a report as one HTML page, or a view of a notebook; neither needs any other file."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from lenshpc.errors import printable_lines
from lenshpc.report.content import Block, Figure, Picture, Report, View, name_uniquely

_HERE = Path(__file__).parent


def render_html(report: Report) -> str:
    """Return the page of a report."""
    style, script = ((_HERE / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return _template("report.html").render(
        report=report,
        sections=list(
            zip(
                name_uniquely(f"section {one.title}" for one in report.sections),
                report.sections,
                strict=True,
            )
        ),
        style=Markup(style),  # noqa: S704 - our own file, as the script is
        script=Markup(script),  # noqa: S704
        # No other script is run, whatever a name or an id brings into the page.
        script_hash=hash_source(script),
    )


def render_view(view: View) -> str:
    """Return a part of a page, as a notebook shows it below a cell."""
    return _template("view.html").render(view=view)


def hash_source(text: str) -> str:
    """Return the hash of an inline script or style as a Content-Security-Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _template(name: str) -> Template:
    environment = make_environment(_HERE)
    environment.filters |= {
        "grouped": _group,
        "inline_image": _inline_image,
        "inline_svg": _scalable,
    }
    return environment.get_template(name)


def make_environment(folder: Path) -> Environment:
    """Return what fills the pages in a folder; all that is put into one is shown as text."""
    return Environment(
        loader=FileSystemLoader(folder),
        # File names, classes and labels come from users' data and must not become markup.
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_finalise,
    )


def _finalise(value: object) -> object:
    """Return a value as it goes into a page; our own drawings, and what is escaped, as it is."""
    return value if isinstance(value, Markup) else printable_lines(value)


def _group(blocks: Iterable[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Yield neighbours of one kind together: figures share a grid."""
    for kind, some in groupby(blocks, key=lambda block: block.kind):
        yield kind, list(some)


def _inline_image(picture: Picture) -> str:
    return f"data:image/{picture.suffix};base64,{base64.b64encode(picture.png).decode()}"


def _scalable(figure: Figure) -> Markup:
    """Drop the fixed size of the root element, so that the page decides, and say what it shows."""
    head, close, rest = figure.svg.partition(">")
    told = f' role="img" aria-label="{escape(printable_lines(figure.text or figure.caption))}"'
    size = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return Markup(size + told + close + rest)  # noqa: S704 - our own SVG
