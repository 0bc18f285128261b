"""A member's predictions as files: values a row in a table, arrays a row in zarr.

The rows are predicted block by block, so that images, too, need little memory: each block is one
shard of `arrays.zarr`, which belongs to this member alone.
"""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

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
from lenshpc.run.tables import TableWriter

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
    with replacing(paths.predictions) if process.is_main else nullcontext() as temporary:
        with TableWriter(temporary) if temporary else nullcontext() as table:
            # All ranks go through the blocks together, since `predict_rows` gathers: no rank holds
            # more than a block of all rows, and rank 0 writes each as it comes.
            for start in range(0, len(scored), BLOCK_ROWS):
                block = scored.iloc[start : start + BLOCK_ROWS]
                columns = predict_rows(infer, data, block["row"].to_numpy(), process, size)
                if table:
                    table.add(_list_values(columns, block, data))
                    _write_arrays(draft, columns, start, len(scored))
        if process.is_main:
            lease.check()
            # Arrays before the table: `open_array` takes the order of an array's rows from the
            # table, so a table must never stand beside older arrays. Killed between, both are made
            # again.
            _publish(draft, paths.arrays)
    distributed.barrier()


def _list_values(columns: Columns, block: pd.DataFrame, data: FoldData) -> pd.DataFrame:
    """Return the lines of a block for the table: row, id, split and a column a number."""
    # Rests on scored rows being ascending, as merged ones are: table and arrays have one order.
    values = {name: column for name, column in columns.items() if column.ndim == 1}
    ids = data.store.text("id", block["row"].to_numpy()).to_pandas()
    split = block["split"].astype("str").to_numpy()
    return pd.DataFrame({"row": values.pop("row"), "id": ids, "split": split, **values})


def _write_arrays(folder: Path, arrays: Columns, start: int, num_rows: int) -> None:
    """Write one shard of each array of more dimensions; the first one makes the array."""
    for name, values in arrays.items():
        if values.ndim == 1:
            continue
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
