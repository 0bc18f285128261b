"""A member's predictions as a file: sorted by row, a row group a range of rows of the store.

So all members' groups of a range lie at the same rows, and are read, checked and merged together.
Files of layout 1, which earlier versions wrote, have rows in any order; they are sorted as they are
read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from lenshpc.run.completion import check_output, refusal_of
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member

if TYPE_CHECKING:  # they cost a second, which `status` need not pay
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

RANGE_ROWS = 2**17  # of the store, that a row group covers
LAYOUT = 2
_LAYOUT = b"lenshpc_layout"


class TableWriter:
    """Writes a table block by block; it holds the lines of one range of `range_rows`."""

    def __init__(self, path: Path, range_rows: int = RANGE_ROWS) -> None:
        self._path, self._range_rows = path, range_rows
        self._held: list[pd.DataFrame] = []
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        """Begin; nothing is written before the first block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Write the last range, unless something went wrong, and close the file."""
        if kind is None:
            self._write_range()
        if self._file is not None:
            self._file.close()

    def add(self, block: pd.DataFrame) -> None:
        """Add lines with a `row` each, ascending, all above those that were added before."""
        ranges = block["row"].to_numpy() // self._range_rows
        for at in np.unique(ranges):
            if self._held and self._held[0]["row"].iloc[0] // self._range_rows != at:
                self._write_range()
            self._held.append(block[ranges == at])

    def _write_range(self) -> None:
        import pandas as pd
        import pyarrow as pa

        if not self._held:
            return
        table = pa.Table.from_pandas(pd.concat(self._held), preserve_index=False)
        self._held = []
        if self._file is None:
            self._file = _open_writer(self._path, table.schema)
        self._file.write_table(table)


def _open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(
        path,
        schema.with_metadata({**(schema.metadata or {}), _LAYOUT: str(LAYOUT).encode()}),
        # A quarter of the defaults' time and half of their bytes, of ids that all differ.
        use_dictionary=["split"],
        column_encoding={"row": "DELTA_BINARY_PACKED", "id": "DELTA_BYTE_ARRAY"},
        write_page_checksum=True,
    )


class MemberTable:
    """The table of a done member, whose bytes have the hash that the member's mark names."""

    def __init__(self, run: RunPaths, member: Member) -> None:
        import pyarrow.parquet as pq

        self._path = run.member(member.name).predictions
        check_output(run, member, self._path)
        self._metadata = pq.read_metadata(self._path)

    @property
    def layout(self) -> int:
        """Return the version of the file's layout."""
        return int((self._metadata.metadata or {}).get(_LAYOUT, b"1"))

    @property
    def num_rows(self) -> int:
        """Return the number of lines."""
        return int(self._metadata.num_rows)

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._metadata.schema.to_arrow_schema().names)

    @cached_property
    def _bounds(self) -> npt.NDArray[np.int64]:
        """Return the first and the last row of each group (G, 2)."""
        place = self.columns.index("row")
        groups = (self._metadata.row_group(at) for at in range(self._metadata.num_row_groups))
        found = (one.column(place).statistics for one in groups)
        return np.array([(one.min, one.max) for one in found], dtype=np.int64).reshape(-1, 2)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return some columns (all if none are named), in the order of the file."""
        return self._read(list(range(self._metadata.num_row_groups)), columns)

    def read_range(self, columns: Sequence[str], first: int, last: int) -> pa.Table:
        """Return some columns, `row` among them, of the rows from `first` to `last`."""
        import pyarrow.compute as pc

        low, high = self._bounds.T
        groups = np.flatnonzero((low <= last) & (high >= first))
        table = self._read(groups.tolist(), columns)
        if (low[groups] >= first).all() and (high[groups] <= last).all():
            return table
        within = pc.and_(pc.greater_equal(table["row"], first), pc.less_equal(table["row"], last))
        return table.filter(within)

    def _read(self, groups: list[int], columns: Sequence[str] | None) -> pa.Table:
        import pyarrow.parquet as pq

        absent = [name for name in columns or () if name not in self.columns]
        if absent:
            raise KeyError(f"no column {absent[0]!r}")
        # Opened anew by each reader: a thread reads it, and a thousand members must not hold as
        # many open files. What changed since it was hashed does not have its page checksums.
        with pq.ParquetFile(
            self._path,
            metadata=self._metadata,
            read_dictionary=[name for name in ("split",) if name in self.columns],
            page_checksum_verification=True,
        ) as file:
            wanted = None if columns is None else list(columns)
            return file.read_row_groups(groups, wanted, use_threads=False)


def sort_rows(table: pa.Table) -> pa.Table:
    """Return the lines of a table in the order of `row`."""
    rows = table["row"].to_numpy()
    if (rows[1:] >= rows[:-1]).all():
        return table
    return table.take(np.argsort(rows, kind="stable"))


def open_tables(run: RunPaths, members: Sequence[Member]) -> list[MemberTable]:
    """Return the members' tables; DataError where two versions of lenshpc laid them out."""
    tables = [MemberTable(run, member) for member in members]
    layouts = {table.layout: member for table, member in zip(tables, members, strict=True)}
    if len(layouts) > 1:
        (new, member), (old, other) = sorted(layouts.items(), reverse=True)[:2]
        raise refusal_of(
            run,
            other,
            f"has predictions of layout {old}, which another version of lenshpc wrote, and "
            f"member {member.index} of layout {new}",
        )
    return tables
