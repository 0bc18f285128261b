"""The split manifest as a file: hashed by its columns, so that some can be read without the others.

The file's own schema has the hash of each column; the Plan has the hash of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lenshpc.errors import DataError, one_line
from lenshpc.files import hash_value, open_regular, read_whole, replacing

if TYPE_CHECKING:  # they cost a second, which `status` need not pay
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

NUMBERS = ("row", "label", "split", "fold")  # all that a training needs
PARTS = ("dev", "test", "unlabelled", "excluded")
BLOCK_ROWS = 2**17
_HASHES = b"lenshpc_sha256"


def splits_hash(splits: pd.DataFrame) -> str:
    """Return the SHA-256 of a split manifest's content."""
    return hash_value(_hash_columns(_table(splits)))


def write_splits(path: Path, splits: pd.DataFrame) -> None:
    """Replace the file at `path` by a split manifest."""
    import pyarrow.parquet as pq

    table = _table(splits)
    hashes = json.dumps(_hash_columns(table)).encode()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _HASHES: hashes})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, row_group_size=BLOCK_ROWS, use_dictionary=["split"])


def read_splits(path: Path, digest: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a split manifest that has this hash, or some of its columns."""
    try:
        splits = _read_checked(path, digest, columns)
    except DataError:
        raise
    except Exception as error:  # whatever pyarrow raises for wrong bytes
        read_whole(path)  # what the system does not hand out is not damaged
        raise DataError(f"{path} is damaged ({one_line(error)[:80]})") from error
    # Rows in another fold would leak from validation into training, and no other check would see
    # it.
    if splits is None:
        raise DataError(f"{path} is not the manifest of its Plan; submit the recipe again")
    return splits


def _read_checked(path: Path, digest: str, columns: Sequence[str] | None) -> pd.DataFrame | None:
    """Return some columns of a file; None where these, or what it says of all, are others."""
    import pyarrow.parquet as pq

    with open_regular(path) as stream, pq.ParquetFile(stream) as file:
        hashes = json.loads((file.schema_arrow.metadata or {}).get(_HASHES, b"{}"))
        if hash_value(hashes) != digest:
            return None
        table = _read_columns(file, hashes, columns or file.schema_arrow.names)
    found = _hash_columns(table)
    if any(found[name] != hashes[name] for name in found):
        return None
    # In here too: a text that is no UTF-8 is found when it is first looked at.
    return _frame(table)


def _table(splits: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pandas(splits, preserve_index=False)


def _read_columns(
    file: pq.ParquetFile, hashes: Mapping[str, str], columns: Sequence[str]
) -> pa.Table:
    """Return some columns of the file; groups that are the ids as the very same texts."""
    import pyarrow as pa

    same = "group" in columns and "id" in columns and hashes["group"] == hashes["id"]
    names = [name for name in columns if not (same and name == "group")]
    # Group by group: read at once, a large manifest takes half as much memory again.
    groups = range(file.num_row_groups)
    table = pa.concat_tables([file.read_row_group(at, names, use_threads=False) for at in groups])
    if same:
        table = table.append_column("group", table["id"])
    return table.select(columns)


def _frame(table: pa.Table) -> pd.DataFrame:
    import pandas as pd

    splits: pd.DataFrame = table.to_pandas()
    if "split" in splits:
        splits["split"] = pd.Categorical(splits["split"], list(PARTS))
    return splits


def _hash_columns(table: pa.Table) -> dict[str, str]:
    """Return the SHA-256 of each column, whatever its chunks."""
    from lenshpc.store.buffers import is_text
    from lenshpc.store.identity import ColumnHash

    found = {}
    for name in table.column_names:
        column = table[name]
        plain = column if is_text(column) else column.to_numpy()
        digest = ColumnHash(plain)
        for start in range(0, len(plain), BLOCK_ROWS):
            digest.update(plain[start : start + BLOCK_ROWS])
        found[name] = digest.hexdigest()
    return found
