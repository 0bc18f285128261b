"""Read some columns of a table: CSV, Parquet, FITS or VOTable, each with a row an object."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from lenshpc.errors import DataError
from lenshpc.prep.columns import BLOCK_ROWS, Block, OpenTable, find_column
from lenshpc.prep.content import check_content, first_line, naming_defects
from lenshpc.prep.fits_table import open_fits_table
from lenshpc.prep.rows import FILES, TEXT
from lenshpc.prep.texts import mend_texts, to_numbers, to_texts, to_words
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


Convert = Callable[[Any], pa.Array]


class Columns(NamedTuple):
    """Columns of a table, by the names asked for.

    Texts, null where a row has none; words, which are texts as a dictionary; numbers, NaN where a
    row has none. `units` are those that the table says of its columns.
    """

    texts: dict[str, pa.Array]
    words: dict[str, pa.DictionaryArray]
    numbers: dict[str, NDArray[np.float64]]
    units: Mapping[str, str]


def is_table(name: str) -> bool:
    """Tell whether a file's name has the ending of a table."""
    return name.lower().endswith(tuple(_FORMATS))


def read_table(
    path: Path, texts: Sequence[str] = (), words: Sequence[str] = (), numbers: Sequence[str] = ()
) -> Columns:
    """Return some columns of a table, and of no other column the values.

    A name is found whatever its case, if one column has it.
    """
    form = next((form for end, form in _FORMATS.items() if path.name.lower().endswith(end)), None)
    if form is None:
        endings = " ".join(_FORMATS)
        raise DataError(
            f"{path} does not have the file extension of a table ({endings}); save it as one of "
            "these"
        )
    check_content(str(path), form)
    names = _unique([*texts, *words, *numbers])
    with naming_defects(str(path)):
        try:
            with _OPENERS[form](path) as table:
                places = {name: find_column(path, name, table.names) for name in names}
                wanted = ((texts, to_texts), (words, to_words), (numbers, to_numbers))
                of_texts, of_words, of_numbers = _read_columns(path, table, places, wanted)
        except pa.ArrowException as error:
            raise DataError(
                f"{path} is not a table with values for {', '.join(names)}: {first_line(error)}; "
                "correct it, or the dataset file"
            ) from error
    units = {name: table.units[place] for name, place in places.items() if place in table.units}
    return Columns(of_texts, of_words, of_numbers, units)


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _read_columns(
    path: Path,
    table: OpenTable,
    places: Mapping[str, str],
    wanted: Sequence[tuple[Sequence[str], Convert]],
) -> list[dict[str, Any]]:
    """Return the columns of each kind that is wanted, each in one piece."""
    parts: list[dict[str, list[pa.Array]]] = [{name: [] for name in names} for names, _ in wanted]
    texts = _unique([places[name] for kind in parts[:2] for name in kind])
    num_bytes = 0
    for block in table.read(texts, _unique([places[name] for name in parts[2]])):
        for kind, (_, convert) in zip(parts, wanted, strict=True):
            for name, kept in kind.items():
                kept.append(_convert(path, name, convert, block[places[name]]))
                num_bytes += kept[-1].nbytes
        if num_bytes > MAX_BYTES:
            raise DataError(
                f"{path} has more than {MAX_BYTES / 1e9:.1f} GB in {', '.join(places)}; "
                "leave out rows that name no image"
            )
    is_csv = path.name.lower().endswith(".csv")
    return [
        {name: _join(kind.pop(name), convert, is_csv) for name in list(kind)}
        for kind, (_, convert) in zip(parts, wanted, strict=True)
    ]


def _join(parts: list[pa.Array], convert: Convert, is_csv: bool) -> Any:
    """Return the parts of a column in one piece."""
    if convert is to_numbers:
        return np.concatenate([part.to_numpy() for part in parts]) if parts else np.empty(0)
    if convert is to_texts:
        texts = pa.chunked_array(parts, TEXT).combine_chunks()
        return mend_texts(texts) if is_csv else texts
    words = pa.chunked_array(parts, FILES).unify_dictionaries().combine_chunks()
    if not is_csv:
        return words
    return pa.DictionaryArray.from_arrays(words.indices, mend_texts(words.dictionary))


def _convert(path: Path, name: str, convert: Convert, values: Any) -> pa.Array:
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
