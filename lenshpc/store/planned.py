"""The planned rows of a store: a table and an order, hashed and written block by block."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lenshpc.files import replacing
from lenshpc.store.buffers import column_buffers


@dataclass(frozen=True)
class PlannedRows:
    """The rows of a store to be, taken from their table block by block: never all at once."""

    table: pa.Table
    order: NDArray[np.integer]
    block_rows: int

    @property
    def schema(self) -> pa.Schema:
        """Return the columns' types, none of them a dictionary: each block would hold all of it."""
        kinds = {
            field.name: field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            for field in self.table.schema
        }
        return pa.schema(kinds)

    def blocks(self) -> Iterator[pa.Table]:
        """Yield the rows of each shard."""
        for start in range(0, len(self.order), self.block_rows):
            yield self.table.take(self.order[start : start + self.block_rows]).cast(self.schema)

    def digest(self, facts: Mapping[str, Any]) -> str:
        """Return the hash of some facts and the rows in their order.

        A draft must never be continued with other images.
        """
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        names = sorted(self.table.column_names)
        digest.update(json.dumps(names).encode())
        for block in self.blocks():
            for name in names:
                for buffer in column_buffers(block[name]):
                    digest.update(buffer)
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write the rows as Parquet, a row group a shard."""
        with replacing(path) as temporary, pq.ParquetWriter(temporary, self.schema) as file:
            for block in self.blocks():
                file.write_table(block, row_group_size=self.block_rows)
