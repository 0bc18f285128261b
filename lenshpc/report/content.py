"""What a report is made of: sections of blocks, which one HTML and one Markdown renderer draw."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, Self

import pandas as pd

from lenshpc.report.verdict import Verdict

MAX_NAME = 60  # letters of a table's file


def name_uniquely(titles: Iterable[str]) -> Iterator[str]:
    """Yield a name for each title that serves in files and addresses: `on-the-test-rows`."""
    given: set[str] = set()
    for title in titles:
        plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:MAX_NAME] or "part"
        name = next(one for one in _count_up(plain) if one not in given)
        given.add(name)
        yield name


def _count_up(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))


@dataclass(frozen=True, kw_only=True)
class Prose:
    """A paragraph; a `soft` one explains what stands beside it."""

    kind: ClassVar[str] = "prose"
    text: str
    soft: bool = True


@dataclass(frozen=True, kw_only=True)
class Notes:
    """A list of sentences."""

    kind: ClassVar[str] = "notes"
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column's heading; numbers stand to the right, words to the left."""

    title: str
    words: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A table's line of finished words; `look` is `strong`, `weak` or plain."""

    cells: tuple[str, ...]
    look: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names the lines; `note` is a sentence below it."""

    kind: ClassVar[str] = "table"
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    note: str = ""

    @classmethod
    def of(cls, titles: Iterable[str], lines: Iterable[Iterable[str]]) -> Self:
        """Return a plain table of finished words."""
        columns = tuple(Column(title=title) for title in titles)
        return cls(columns=columns, rows=tuple(Row(cells=tuple(line)) for line in lines))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing; `name` is that of its files in figures/, and unique in a report.

    `text` says what it shows to a reader who does not see it; without one the caption does.
    """

    kind: ClassVar[str] = "figure"
    name: str
    caption: str
    svg: str
    text: str = ""
    pdf: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image as PNG or animated GIF, with what a reader who does not see it is told."""

    png: bytes
    text: str
    caption: str = ""

    @property
    def suffix(self) -> str:
        """Return the end of its file's name."""
        return "gif" if self.png.startswith(b"GIF8") else "png"


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures in panels; the pictures of a panel belong together and stand side by side."""

    kind: ClassVar[str] = "gallery"
    name: str
    title: str
    caption: str
    panels: tuple[tuple[Picture, ...], ...]

    def pictures_by_file(self) -> Iterator[tuple[str, Picture]]:
        """Yield each picture with the name of its file."""
        pictures = (picture for panel in self.panels for picture in panel)
        for number, picture in enumerate(pictures, start=1):
            yield f"{self.name}_{number:02d}.{picture.suffix}", picture


@dataclass(frozen=True, kw_only=True)
class KeyValues:
    """Keys with their values as words, under a title that folds and unfolds them."""

    kind: ClassVar[str] = "pairs"
    title: str
    pairs: tuple[tuple[str, str], ...]
    is_open: bool = False


@dataclass(frozen=True, kw_only=True)
class Log:
    """Lines of a log, folded under a title."""

    kind: ClassVar[str] = "log"
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Banner:
    """What must be read first: the report is not whole, or not to be trusted."""

    kind: ClassVar[str] = "banner"
    title: str
    text: str
    lines: tuple[str, ...] = ()
    command: str = ""


Block = Prose | Notes | Table | Figure | Gallery | KeyValues | Log | Banner


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of the page."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The one number that stands for a run, in words; `measure` is what it is in one or two.

    `note` is a sentence beneath it, without which the number misleads.
    """

    label: str
    value: str
    range: str = ""
    measure: str = ""
    note: str = ""

    @property
    def in_short(self) -> str:
        """Return it for a line of a list: `AUC 0.987`."""
        return f"{self.measure} {self.value}".strip()


@dataclass(frozen=True, kw_only=True)
class View:
    """What a notebook shows of one thing.

    A `title`; a `text`, with a bar before it where `total` is known; a headline; blocks; a link.
    """

    title: str = ""
    text: str = ""
    done: int = 0
    total: int = 0
    headline: Headline | None = None
    blocks: tuple[Block, ...] = ()
    link: str = ""
    link_text: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report.

    `content` is what report.json holds; `overview` the table that a command prints; `predictions`
    goes to predictions.parquet; `verdict` is what all figures amount to, where the task gives one.
    `method` has the task's sentences of the paragraph on methods, `methods` the whole of it, with
    marks of citations.
    """

    title: str
    reading: str
    banners: tuple[Banner, ...]
    headline: Headline
    overview: Table
    sections: tuple[Section, ...]
    content: Mapping[str, Any]
    predictions: pd.DataFrame
    verdict: Verdict | None = None
    method: str = ""
    methods: str = ""

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks of all sections."""
        for section in self.sections:
            yield from section.blocks

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Yield the tables, each with the name of its files, in the order of the page."""
        found = [
            (f"{section.title} {block.title}", block)
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Table)
        ]
        yield from zip(
            name_uniquely(title for title, _ in found), (one for _, one in found), strict=True
        )

    def figures(self) -> Iterator[Figure]:
        """Yield the drawings, in the order of the page."""
        return (block for block in self.blocks() if isinstance(block, Figure))

    def galleries(self) -> Iterator[Gallery]:
        """Yield the galleries, in the order of the page."""
        return (block for block in self.blocks() if isinstance(block, Gallery))
