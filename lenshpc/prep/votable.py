"""Columns of the first table of a VOTable, with astropy; it leads to no other file."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lenshpc.errors import DataError
from lenshpc.prep.columns import Block, OpenTable
from lenshpc.prep.texts import MAX_TEXT_BYTES
from lenshpc.run.extras import require

_TEXTS = ("char", "unicodeChar")
_KINDS = ("boolean", "bit", "unsignedByte", "short", "int", "long", "float", "double", *_TEXTS)


@contextmanager
def open_votable(path: Path) -> Iterator[OpenTable]:
    """Yield the first table of a VOTable; columns of several values a row are no part of it."""
    require("fits", "VOTable")
    fields = _list_fields(path)
    places = {field.get("name", ""): place for place, field in enumerate(fields)}
    scalars = [field for field in fields if _is_scalar(field)]

    def read(texts: Sequence[str], numbers: Sequence[str]) -> Iterator[Block]:
        from astropy.io.votable import parse

        names = list(dict.fromkeys([*texts, *numbers]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # astropy warns of all that bends the standard
            found = parse(
                str(path), columns=[places[name] for name in names], table_number=0, verify="ignore"
            )
        table = found.get_first_table()
        keys = [one.ID for one in table.all_fields]  # what astropy calls the columns
        yield {name: table.array[keys[places[name]]] for name in names}

    yield OpenTable(
        names=[field.get("name", "") for field in scalars],
        read=read,
        units={field["name"]: field["unit"] for field in scalars if field.get("unit")},
    )


def _is_scalar(field: dict[str, str]) -> bool:
    size = field.get("arraysize", "1").strip()
    if field.get("datatype") in _TEXTS:
        width = size.removesuffix("*") or "1"
        return width.isdecimal() and int(width) <= MAX_TEXT_BYTES
    return field.get("datatype") in _KINDS and size == "1"


def _list_fields(path: Path) -> list[dict[str, str]]:
    """Return what the file declares of the first table's columns; raise on what is not read.

    All of the file is looked at: astropy would follow a stream's address to wherever it leads.
    """
    from astropy.utils.xml.iterparser import get_xml_iterator

    fields: list[dict[str, str]] = []
    num_tables, promised = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with get_xml_iterator(str(path)) as elements:
            for begins, tag, data, _ in elements:
                if not begins:
                    continue
                num_tables += tag == "TABLE"
                if tag == "TABLE" and num_tables == 1:
                    promised = _count(data.get("nrows", "0"))
                if tag == "FIELD" and num_tables == 1:
                    fields.append(dict(data))
                _refuse_other_files(path, tag, data)
    # A row has a byte at least, wherever it lies.
    if promised > path.stat().st_size:
        raise DataError(f"{path} is damaged: it should have {promised} rows; copy it again")
    if not fields:
        raise DataError(f"{path} is not a VOTable with a table and fields; save it as one")
    return fields


def _count(text: str) -> int:
    return int(text) if text.strip().isdecimal() and len(text) < 20 else 0


def _refuse_other_files(path: Path, tag: str, data: Any) -> None:
    if tag in {"FITS", "PARQUET"} or (tag == "STREAM" and "href" in data):
        raise DataError(
            f"{path} has its rows in another file or as {tag}, which is not read; save it with "
            "the rows as TABLEDATA or BINARY2"
        )
