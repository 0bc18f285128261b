"""A member's predictions as files: values a row in a table, arrays a row in zarr.

The rows are predicted block by block, so that images, too, need little memory: each block is one
shard of `arrays.zarr`, which belongs to this member alone.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import zarr

from lenshpc.data.fold import FoldData
from lenshpc.engine import distributed
from lenshpc.engine.distributed import Process
from lenshpc.engine.lease import Lease
from lenshpc.engine.loop import Columns, predict_rows
from lenshpc.files import flush_tree, replacing
from lenshpc.registry import Batch
from lenshpc.run.paths import MemberPaths

BLOCK_ROWS = 1024
CHUNK_ROWS = 32


def write_predictions(
    paths: MemberPaths,
    infer: Callable[[Batch], dict[str, torch.Tensor]],
    data: FoldData,
    process: Process,
    lease: Lease,
    size: int,
) -> None:
    """Predict all rows that the member has to, on all ranks, and write them from rank 0.

    A rank predicts `size` of them at once.
    """
    scored = data.scored
    draft = paths.arrays.with_name(f".{paths.arrays.name}.{lease.attempt}.tmp")
    tables = []
    # All ranks go through the blocks together, since `predict_rows` gathers; only what is done with
    # the rows is rank 0's.
    for start in range(0, len(scored), BLOCK_ROWS):
        block = scored.iloc[start : start + BLOCK_ROWS]
        columns = predict_rows(infer, data, block["row"].to_numpy(), process, size)
        if process.is_main:
            ordered = _reorder(columns, block)
            values = {name: column for name, column in ordered.items() if column.ndim == 1}
            ids = data.store.text("id", block["row"].to_numpy()).to_pandas()
            block = block.reset_index(drop=True).assign(id=ids)
            tables.append(block[["row", "id", "split"]].assign(**values))
            arrays = {name: column for name, column in ordered.items() if column.ndim > 1}
            _write_arrays(draft, arrays, start, len(scored))
    if process.is_main:
        lease.check()
        # Arrays before the table: `open_array` takes the order of an array's rows from the table,
        # so a table must never stand beside older arrays. Killed between, both are made again.
        _publish(draft, paths.arrays)
        with replacing(paths.predictions) as temporary:
            pd.concat(tables, ignore_index=True).to_parquet(temporary, index=False)
    distributed.barrier()


def _reorder(columns: Columns, block: pd.DataFrame) -> Columns:
    """Return the columns in the order of the block; merged ones come by ascending row."""
    # Rests on merged rows being ascending and each there once; the table and the arrays then have
    # one order.
    places = np.searchsorted(columns.pop("row"), block["row"].to_numpy())
    return {name: values[places] for name, values in columns.items()}


def _write_arrays(folder: Path, arrays: Columns, start: int, num_rows: int) -> None:
    """Write one shard of each array; the first one makes the array."""
    for name, values in arrays.items():
        # The draft is this attempt's alone, and emptied when the member began: an older array of
        # another length would be written into.
        if start == 0:
            inner = values.shape[1:]
            zarr.create_array(
                folder,
                name=name,
                shape=(num_rows, *inner),
                chunks=(CHUNK_ROWS, *inner),
                shards=(BLOCK_ROWS, *inner),
                dtype=values.dtype,
            )
        array = zarr.open_array(folder, path=name, mode="r+", zarr_format=3)
        array[start : start + len(values)] = values


def _publish(draft: Path, arrays: Path) -> None:
    """Put the arrays into their place, whole."""
    # Also where there is no draft: arrays that a task no longer gives must not stay beside new
    # predictions.
    shutil.rmtree(arrays, ignore_errors=True)
    if draft.exists():
        flush_tree(draft)
        draft.rename(arrays)
