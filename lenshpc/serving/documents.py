"""Files of a folder of runs that a browser may have: reports, galleries, tables and figures."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BufferedReader
from pathlib import Path

from lenshpc.errors import LensHpcError
from lenshpc.files import open_regular
from lenshpc.report.html import hash_source

# A run or a study below the folder of runs, or a trial of a study; no part begins with a dot.
_PART = r"(?!\.)[^/\0]+"
_PLACE = rf"{_PART}(/trials/{_PART})?"
_KINDS = "html|md|json|csv|parquet|svg|png|gif|pdf|tex|bib|yaml"
_REPORT = rf"{_PLACE}/report[^/\0]*/((figures|tables)/)?{_PART}\.({_KINDS})"
_GALLERY = rf"{_PLACE}(/{_PART})?/(gallery\.html|candidates\.csv)"
SERVED = re.compile(rf"(?:{_REPORT})|(?:{_GALLERY})")

TYPES = {
    ".bib": "text/plain; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tex": "text/plain; charset=utf-8",
    ".yaml": "text/plain; charset=utf-8",
}
SAVED = {".csv", ".parquet"}  # and not shown
ALONE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
STYLED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A file that is open, and how a browser is to take it."""

    stream: BufferedReader
    num_bytes: int
    name: str
    type: str
    policy: str
    is_saved: bool


def open_document(folder: Path, name: str) -> Document | None:
    """Open a file by its path below the folder of runs; None where it is none of the served.

    What lies outside of the folder by a link is not served.
    """
    if not SERVED.fullmatch(name):
        return None
    try:
        stream = open_regular(folder / name)
    except (OSError, LensHpcError):
        return None
    # After it was opened, and of what is open: a name may become a link at any moment.
    place = Path(f"/proc/self/fd/{stream.fileno()}").resolve()
    if not place.is_relative_to(folder.resolve()):
        stream.close()
        return None
    path = Path(name)
    is_gallery = path.name == "gallery.html"
    return Document(
        stream=stream,
        num_bytes=os.fstat(stream.fileno()).st_size,
        name=path.name,
        type=TYPES[path.suffix],
        policy=_gallery_policy() if is_gallery else _report_policy(),
        is_saved=path.suffix in SAVED,
    )


@cache
def _gallery_policy() -> str:
    """Return the policy under which of all scripts only the gallery's own runs, by its hash."""
    script = (files("lenshpc.inference") / "gallery.js").read_text("utf-8")
    return f"{STYLED}; script-src '{hash_source(script)}'; {ALONE}"


@cache
def _report_policy() -> str:
    """Return the policy of a report: its own script, which sorts tables, and another origin.

    `sandbox` makes that: the origin has not our cookie.
    """
    script = (files("lenshpc.report") / "report.js").read_text("utf-8")
    return f"{STYLED}; script-src '{hash_source(script)}'; {ALONE}; sandbox allow-scripts"


def list_documents(folder: Path, place: Path) -> list[str]:
    """Return the pages of a run or a study, reports first, by their paths below the folder."""
    return [
        str(path.relative_to(folder))
        for path in _find_pages(place)
        if SERVED.fullmatch(str(path.relative_to(folder)))
    ]


def _find_pages(place: Path) -> Iterator[Path]:
    shown = (path for path in place.glob("report*/*") if path.suffix in {".html", ".yaml"})
    yield from sorted(shown)
    yield from sorted(place.glob("gallery.html"))
    yield from sorted(place.glob("*/gallery.html"))
