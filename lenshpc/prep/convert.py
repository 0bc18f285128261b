"""Convert a source folder to a store: scan and order, then read and write shard by shard.

A conversion that was cut short goes on when the same one is started again; the store is then equal,
byte for byte, to one that was never disturbed.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lenshpc.errors import DataError, IncompleteError, LensHpcError
from lenshpc.prep.cutouts import CutoutStacks, begin_stacks, open_reader, open_stacks
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import (
    Defect,
    RefusedError,
    ShardLists,
    list_path,
    refusal,
    refuse_foreign_list,
    remove_list,
)
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.mosaics import write_outside
from lenshpc.prep.parallel import Count, Progress, share
from lenshpc.prep.read import SourceBlock, SourceReader, block_rows
from lenshpc.prep.rules import order_rows
from lenshpc.prep.scan import scan
from lenshpc.prep.stacks import drop_damaged
from lenshpc.prep.stamps import CHANGED, check_stamps, read_stamps, stamp_labels, write_stamps
from lenshpc.store import (
    Draft,
    Pixels,
    Store,
    StoreSpec,
    WrittenChunk,
    begin,
    open_draft,
    open_store,
    refuse_existing,
)
from lenshpc.store.layout import Codec

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the store is laid out; chunks and shards of 0 and None fit the images' size."""

    seed: int = 0
    codec: Codec = "lz4"
    chunk_rows: int = 0
    shard_rows: int | None = None
    allow_pickle: bool = False


def convert(
    dataset: Dataset,
    root: Path,
    target: Path,
    options: Options | None = None,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Store:
    """Return the store made at `target` from the images under `root`.

    `progress` is called with the number of images done and the number of all that were left to do,
    `tell` with what is worth knowing of the sources.
    """
    try:
        draft = draft_store(dataset, root, target, options or Options(), tell=tell)
        stacks = open_stacks(draft)
        try:
            if stacks:
                progress = _cut(draft, stacks, workers, progress)
            _convert(draft, range(len(draft.blocks)), workers, progress)
            _finish(draft, workers)
        finally:
            draft.abandon(keep=stacks is not None and stacks.has_any)
    except LensHpcError:
        # An equal command may have made it in the meantime, and removed the draft under this one.
        refuse_existing(target)
        raise
    return open_store(target)


def _cut(
    draft: Draft, stacks: CutoutStacks, workers: int, progress: Progress | None
) -> Progress | None:
    """Make the cut-outs that are missing; return the progress of what follows, which counts on."""
    missing = stacks.missing()
    num, show = stacks.num_cutouts(missing), progress or (lambda *_: None)
    with _naming_failures(draft.path), _listing(draft.path):
        stacks.make(
            missing, workers=workers, progress=lambda done, _: show(done, num + draft.num_rows)
        )
    return lambda done, whole: show(num + done, num + whole)


def _finish(draft: Draft, workers: int) -> None:
    try:
        join_draft(draft)
    except IncompleteError:
        missing = draft.missing()
        if not missing:  # another process finishes it
            raise
        # Their files were not what had been written, and are dropped.
        _convert(draft, missing, workers)
        join_draft(draft)


def draft_store(
    dataset: Dataset, root: Path, target: Path, options: Options, *, tell: Tell | None = None
) -> Draft:
    """Return the draft of the store to be made, begun now or by an equal command before."""
    with _naming_failures(target):
        refuse_existing(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        refuse_foreign_list(target)
        # Scanned by one process and kept in the draft: processes that listed the folder themselves
        # could see another one.
        labels = stamp_labels(root, dataset)
        with _listing(target):
            sources = scan(root, dataset)
        outside = write_outside(target, sources.mosaics) if sources.mosaics else ()
        if tell:
            for line in (*sources.told, *outside):
                tell(line)
        settings = {
            "root": str(root.resolve()),
            "allow_pickle": options.allow_pickle,
            "mosaics": sources.mosaics.plan.facts if sources.mosaics else None,
        }
        order = order_rows(sources.table, options.seed)
        draft = begin(target, _spec(dataset, options), sources.table, order, settings)
        # What an earlier call found is found anew.
        shutil.rmtree(_shard_lists(draft.folder).folder, ignore_errors=True)
        drop_damaged(draft.folder)
        if dataset.image.is_stack:
            write_stamps(draft.folder, root, sources.table, labels)
        if sources.mosaics:
            begin_stacks(draft.folder, root, dataset, sources.mosaics.plan)
        return draft


def convert_shards(
    draft: Draft, shards: Sequence[int], *, workers: int, progress: Progress | None = None
) -> None:
    """Read the sources of some shards and write those that are not made of just these bytes yet.

    Raise once all are read where some sources cannot be used: their shards are not written.
    """
    _convert(draft, shards, workers, progress)
    _raise_refused(draft, shards)


def join_draft(draft: Draft) -> None:
    """Make the store of a draft that is converted; raise with all that was refused of its sources.

    The list of what was refused lies beside the store until it is made.
    """
    with _naming_failures(draft.path):
        _raise_refused(draft, range(len(draft.blocks)), list_path(draft.path))
        draft.finish()
        remove_list(draft.path)


def _convert(
    draft: Draft, shards: Sequence[int], workers: int, progress: Progress | None = None
) -> None:
    stacks = open_stacks(draft)
    if stacks:
        stacks.check_whole()
    num_rows = sum(draft.blocks[shard].stop - draft.blocks[shard].start for shard in shards)
    work = _Conversion(draft.folder)
    with _naming_failures(draft.path):
        share(work, shards, workers=workers, num_rows=num_rows, progress=progress)
    # Those too that only the scan has read: labels go with the rows that were read by now.
    stamps = read_stamps(draft.folder)
    check_stamps(draft.settings["root"], stamps, stamps)


def _raise_refused(draft: Draft, shards: Iterable[int], listed: Path | None = None) -> None:
    lists = _shard_lists(draft.folder)
    if any(True for _ in lists.read(shards)):
        raise refusal(lists.read(shards), listed)


def _shard_lists(folder: Path) -> ShardLists:
    """Return the lists of what was refused, in the folder of a draft."""
    return ShardLists(folder / "refused")


@contextmanager
def _listing(target: Path) -> Iterator[None]:
    """Write what is refused in the block to the list beside the store to be."""
    try:
        yield
    except RefusedError as error:
        raise refusal(error.defects, list_path(target)) from error


@contextmanager
def _naming_failures(target: Path) -> Iterator[None]:
    """Turn what the system refuses into an error of the store that is being written."""
    try:
        yield
    except OSError as error:
        refuse_existing(target)
        place = f" at {os.fsdecode(error.filename)}" if error.filename else ""
        raise IncompleteError(
            f"{target} cannot be written: {error.strerror or error}{place}; correct that and "
            "repeat the command, which continues where it stopped"
        ) from error


@dataclass(frozen=True)
class _Conversion:
    """The work of one process: it keeps the draft and the reader open from shard to shard."""

    folder: Path

    def __call__(self, shard: int, count: Count) -> None:
        defects: Sequence[Defect] = ()
        rows = self._draft.rows(shard)
        if self._is_made_of(rows, self._draft.sources(shard)):
            count(rows.num_rows)
        else:
            try:
                self._draft.write(shard, self._chunks(rows, count))
            except RefusedError as error:
                defects = error.defects
                for defect in defects:
                    if defect.cause == CHANGED:  # the first failure ends the command
                        raise DataError(defect.error, cause=CHANGED) from error
        _shard_lists(self.folder).write(shard, defects)

    def _is_made_of(self, rows: pa.Table, hashes: NDArray[np.uint8] | None) -> bool:
        """Return whether a shard was made of the sources as they are now, by all their bytes.

        Sizes and times tell less: both stay where a file is copied over another with its times.
        """
        return hashes is not None and np.array_equal(self._reader.digest(rows), hashes)

    def _chunks(self, rows: pa.Table, count: Count) -> Iterator[WrittenChunk]:
        """Yield the chunks of a shard; raise once all of it is read where some cannot be used."""
        step = self._draft.spec.chunk_rows
        defects: list[Defect] = []
        for start in range(0, rows.num_rows, self._block_rows):
            block = self._reader.read(rows.slice(start, self._block_rows))
            defects += block.defects
            for first in range(0, len(block.pixels), step):
                if not defects:
                    yield _chunk(block, slice(first, first + step))
            count(len(block.pixels))
        if defects:
            raise RefusedError("", defects=defects)

    @cached_property
    def _block_rows(self) -> int:
        """Return how many rows are read at once: whole chunks."""
        spec = self._draft.spec
        row_bytes = sum(pixels.num_bytes for pixels in spec.arrays.values())
        return block_rows(spec.chunk_rows, row_bytes)

    @cached_property
    def _draft(self) -> Draft:
        return open_draft(self.folder)

    @cached_property
    def _reader(self) -> SourceReader:
        settings = self._draft.settings
        dataset = Dataset.model_validate(self._draft.spec.source)
        allow_pickle = settings["allow_pickle"]
        return open_reader(dataset, Path(settings["root"]), self.folder, allow_pickle=allow_pickle)


def _spec(dataset: Dataset, options: Options) -> StoreSpec:
    return StoreSpec(
        dataset=dataset.name,
        classes=tuple(entry.name for entry in dataset.classes),
        image=_pixels(dataset.image),
        target=_pixels(dataset.target) if dataset.target else None,
        masks=dataset.image.bad_pixels != "refuse",
        columns=dataset.columns,
        seed=options.seed,
        source=dataset.model_dump(mode="json", by_alias=True, exclude={"simulate"}),
        codec=options.codec,
        chunk_rows=options.chunk_rows,
        shard_rows=options.shard_rows,
    )


def _pixels(image: ImageFormat) -> Pixels:
    return Pixels(shape=image.shape, dtype=image.dtype, channels=image.channels)


def _chunk(block: SourceBlock, rows: slice) -> WrittenChunk:
    return WrittenChunk(
        pixels={name: array[rows] for name, array in block.arrays.items()},
        sha256=block.sha256[rows],
        size=block.size[rows],
        values=block.values[rows],
    )
