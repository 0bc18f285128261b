"""The best rows of a prediction: found part by part, and written as a table for spreadsheets."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pandas.api.types import is_numeric_dtype

from lenshpc.errors import DataError, one_line, read_error
from lenshpc.files import replacing
from lenshpc.inference.sources import POSITION
from lenshpc.report.latex import escape_cell

FIRST = ("id", *POSITION, "score")  # the columns that a table of candidates begins with
BATCH_ROWS = 16_384
# Of a column, and no more of it ahead: else the reader holds a whole row group.
_READING = {"buffer_size": 1 << 20, "pre_buffer": False}


def find_candidates(parts: Sequence[Path], num: int) -> pd.DataFrame:
    """Return the `num` rows of all parts with the largest finite `score`, best first.

    Of equal scores the smaller id comes first, so the order of parts and rows does not matter. It
    has all columns of one value a row; memory holds `num` rows and a batch. DataError where a part
    is no such table.
    """
    best: pa.Table | None = None
    for part in parts:
        for rows in _read_batches(part):
            best = rows.slice(0, 0) if best is None else best
            if rows.schema != best.schema:
                raise DataError(
                    f"{part} has other columns than the parts before it, so they belong to "
                    "different predictions; predict into a new folder"
                )
            best = _keep_best(best, rows, num)
    if best is None:
        raise DataError("no part of a prediction was given, expected at least one")
    frame: pd.DataFrame = best.to_pandas()
    return frame[_order_columns(frame)]


def _read_batches(part: Path) -> Iterator[pa.Table]:
    """Yield the rows of a part some at a time, at least once, with the columns of one value."""
    try:
        part.stat()  # which says why it cannot be read in fewer words than Arrow
        with pq.ParquetFile(part, **_READING) as file:
            schema = file.schema_arrow.remove_metadata()
            names = [one.name for one in schema if not pa.types.is_nested(one.type)]
            if not {"id", "score"} <= set(names):
                raise DataError(
                    f"{part} has columns {', '.join(map(one_line, schema.names))}, expected `id` "
                    "and `score` among them: it is not part of a prediction that ranks"
                )
            yield pa.schema([schema.field(name) for name in names]).empty_table()
            for batch in file.iter_batches(BATCH_ROWS, columns=names):
                yield pa.Table.from_batches([batch]).replace_schema_metadata()
    except pa.ArrowInvalid as error:
        raise DataError(f"{part} is damaged ({one_line(error)[:80]}); predict it again") from error
    except OSError as error:
        raise read_error(part, error) from error


def _keep_best(best: pa.Table, rows: pa.Table, num: int) -> pa.Table:
    # A row without a finite score has no rank: it is flagged in the parts.
    good = pc.is_finite(rows["score"])
    if best.num_rows == num:  # first of all, since few rows pass: what follows costs little
        good = pc.and_(good, pc.greater_equal(rows["score"], best["score"][num - 1]))
    rows = pa.concat_tables([best, rows.filter(good)])
    keys = [("score", "descending"), ("id", "ascending")]
    # Combined, else each batch leaves a chunk behind.
    return rows.take(pc.sort_indices(rows, sort_keys=keys)[:num]).combine_chunks()


def _order_columns(frame: pd.DataFrame) -> list[str]:
    first = [name for name in FIRST if name in frame]
    return first + [str(name) for name in frame if name not in first]


def write_candidates(frame: pd.DataFrame, path: Path) -> None:
    """Write candidates, best first, as CSV with their rank from 1.

    Numbers have all the digits that tell them from others. Text is as `escape_cell` makes it.
    """
    cells = frame[_order_columns(frame)]
    texts = [name for name in cells if not is_numeric_dtype(cells[name])]
    # These alone: to touch a float32 is to write it with the digits of a float64.
    cells = cells.assign(**{str(name): cells[name].map(escape_cell) for name in texts})
    cells.insert(0, "rank", np.arange(1, len(frame) + 1))
    with replacing(path) as temporary:
        cells.to_csv(temporary, index=False, lineterminator="\n")
