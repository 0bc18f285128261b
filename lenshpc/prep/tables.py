"""Read some columns of a table: CSV, Parquet, FITS or VOTable, each with a row an object."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from lenshpc.errors import DataError
from lenshpc.prep.columns import BLOCK_ROWS, Block, OpenTable, find_column
from lenshpc.prep.content import check_content, first_line, naming_defects
from lenshpc.prep.fits_table import open_fits_table
from lenshpc.prep.rows import TEXT
from lenshpc.prep.texts import mend_texts, to_numbers, to_texts
from lenshpc.prep.votable import open_votable

MAX_BYTES = 2**33  # of all columns asked for, as they are kept
_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        ".csv": "csv",
        ".parquet": "parquet",
        ".fits": "fits table",
        ".fit": "fits table",
        ".fts": "fits table",
        ".xml": "votable",
        ".vot": "votable",
        ".votable": "votable",
    }
)


class Columns(NamedTuple):
    """Columns of a table, by the names asked for: texts, null where a row has none; numbers, NaN.

    `units` are those that the table says of its columns.
    """

    texts: Mapping[str, pa.ChunkedArray]
    numbers: Mapping[str, pa.ChunkedArray]
    units: Mapping[str, str]


def is_table(name: str) -> bool:
    """Tell whether a file's name has the ending of a table."""
    return name.lower().endswith(tuple(_FORMATS))


def read_table(path: Path, texts: Sequence[str], numbers: Sequence[str] = ()) -> Columns:
    """Return some columns of a table, and of no other column the values.

    A name is found whatever its case, if one column has it.
    """
    form = next((form for end, form in _FORMATS.items() if path.name.lower().endswith(end)), None)
    if form is None:
        endings = " ".join(_FORMATS)
        raise DataError(f"{path} has no ending that a table has ({endings}); save it as one")
    check_content(str(path), form)
    with naming_defects(str(path)):
        try:
            with _OPENERS[form](path) as table:
                return _read_columns(path, table, _unique(texts), _unique(numbers))
        except pa.ArrowException as error:
            names = ", ".join(_unique([*texts, *numbers]))
            raise DataError(
                f"{path} is no table with values for {names}: {first_line(error)}; "
                "correct it, or the dataset file"
            ) from error


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _read_columns(
    path: Path, table: OpenTable, texts: Sequence[str], numbers: Sequence[str]
) -> Columns:
    places = {name: find_column(path, name, table.names) for name in (*texts, *numbers)}
    wanted = [(name, to_texts) for name in texts] + [(name, to_numbers) for name in numbers]
    parts: list[list[pa.Array]] = [[] for _ in wanted]
    num_bytes = 0
    for block in table.read(
        _unique([places[name] for name in texts]), _unique([places[name] for name in numbers])
    ):
        for kept, (name, convert) in zip(parts, wanted, strict=True):
            kept.append(_convert(path, name, convert, block[places[name]]))
            num_bytes += kept[-1].nbytes
        if num_bytes > MAX_BYTES:
            raise DataError(
                f"{path} has more than {MAX_BYTES / 1e9:.1f} GB in {', '.join(places)}; "
                "leave out rows that name no image"
            )
    found = [
        pa.chunked_array(kept, TEXT if convert is to_texts else pa.float64())
        for kept, (_, convert) in zip(parts, wanted, strict=True)
    ]
    if path.name.lower().endswith(".csv"):
        found[: len(texts)] = map(mend_texts, found[: len(texts)])
    return Columns(
        texts=dict(zip(texts, found[: len(texts)], strict=True)),
        numbers=dict(zip(numbers, found[len(texts) :], strict=True)),
        units={name: table.units[place] for name, place in places.items() if place in table.units},
    )


def _convert(path: Path, name: str, convert: Callable[[Any], pa.Array], values: Any) -> pa.Array:
    try:
        return convert(values)
    except ValueError as error:
        told = first_line(error)
        raise DataError(f"{path}: column {name} has {told}; correct it, or DATASET") from error


@contextmanager
def _open_csv(path: Path) -> Iterator[OpenTable]:
    with csv.open_csv(path) as reader:
        names = reader.schema.names

    def read(texts: Sequence[str], numbers: Sequence[str]) -> Iterator[Block]:
        types = dict.fromkeys(numbers, pa.float64()) | dict.fromkeys(texts, TEXT)
        options = csv.ConvertOptions(include_columns=list(types), column_types=types)
        with csv.open_csv(path, convert_options=options) as reader:
            for batch in reader:
                yield dict(zip(types, batch.columns, strict=True))

    yield OpenTable(names=names, read=read)


@contextmanager
def _open_parquet(path: Path) -> Iterator[OpenTable]:
    schema = pq.read_schema(path)
    plain = [one for one in schema if not pa.types.is_nested(one.type)]
    # As dictionaries: a page of a few bytes may repeat one long text without end.
    of_texts = (pa.types.is_string, pa.types.is_large_string)
    packed = [one.name for one in plain if any(kind(one.type) for kind in of_texts)]
    with pq.ParquetFile(path, read_dictionary=packed) as file:

        def read(texts: Sequence[str], numbers: Sequence[str]) -> Iterator[Block]:
            columns = _unique([*texts, *numbers])
            for batch in file.iter_batches(BLOCK_ROWS, columns=columns):
                yield {name: batch[name] for name in columns}

        yield OpenTable(names=[one.name for one in plain], read=read)


_OPENERS: Mapping[str, Callable[[Path], AbstractContextManager[OpenTable]]] = MappingProxyType(
    {
        "csv": _open_csv,
        "parquet": _open_parquet,
        "fits table": open_fits_table,
        "votable": open_votable,
    }
)
