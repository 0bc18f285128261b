"""Convert a source folder to a store: scan and order, then read and write shard by shard.

A conversion that was cut short goes on when the same one is started again; the store is then equal,
byte for byte, to one that was never disturbed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lenshpc.errors import IncompleteError, LensHpcError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import refusal
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.parallel import Count, Progress, share
from lenshpc.prep.read import SourceBlock, SourceReader
from lenshpc.prep.rules import order_rows
from lenshpc.prep.scan import scan
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
from lenshpc.store.layout import CHUNK_ROWS, Codec

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the store is laid out; `shard_rows` of None fits the shards to the images' size."""

    seed: int = 0
    codec: Codec = "lz4"
    chunk_rows: int = CHUNK_ROWS
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
        try:
            convert_shards(draft, range(len(draft.blocks)), workers=workers, progress=progress)
            _finish(draft, workers)
        finally:
            draft.abandon()
    except (OSError, LensHpcError) as error:
        # An equal command may have made it in the meantime, and removed the draft under this one.
        refuse_existing(target)
        if isinstance(error, LensHpcError):
            raise
        raise IncompleteError(
            f"cannot write {target}: {error}; mend it and repeat the command, "
            "which goes on where it stopped"
        ) from error
    return open_store(target)


def _finish(draft: Draft, workers: int) -> None:
    try:
        draft.finish()
    except IncompleteError:
        missing = draft.missing()
        if not missing:  # another process finishes it
            raise
        # Their files were not what had been written, and are dropped.
        convert_shards(draft, missing, workers=workers)
        draft.finish()


def draft_store(
    dataset: Dataset, root: Path, target: Path, options: Options, *, tell: Tell | None = None
) -> Draft:
    """Return the draft of the store to be made, begun now or by an equal command before."""
    refuse_existing(target)
    # Scanned by one process and kept in the draft: processes that listed the folder themselves
    # could see another one.
    sources = scan(root, dataset)
    if tell:
        for line in sources.told:
            tell(line)
    target.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "root": str(root.resolve()),
        "allow_pickle": options.allow_pickle,
    }
    order = order_rows(sources.table, options.seed)
    return begin(target, _spec(dataset, options), sources.table, order, settings)


def convert_shards(
    draft: Draft, shards: Sequence[int], *, workers: int, progress: Progress | None = None
) -> None:
    """Read the sources of some shards and write those that are not made of just these bytes yet."""
    num_rows = sum(draft.blocks[shard].stop - draft.blocks[shard].start for shard in shards)
    share(_Conversion(draft.folder), shards, workers=workers, num_rows=num_rows, progress=progress)


@dataclass(frozen=True)
class _Conversion:
    """The work of one process: it keeps the draft and the reader open from shard to shard."""

    folder: Path

    def __call__(self, shard: int, count: Count) -> None:
        rows = self._draft.rows(shard)
        if self._is_made_of(rows, self._draft.sources(shard)):
            count(rows.num_rows)
        else:
            self._draft.write(shard, self._chunks(rows, count))

    def _is_made_of(self, rows: pa.Table, hashes: NDArray[np.uint8] | None) -> bool:
        """Return whether a shard was made of the sources as they are now, by all their bytes.

        Sizes and times tell less: both stay where a file is copied over another with its times.
        """
        return hashes is not None and np.array_equal(self._reader.digest(rows), hashes)

    def _chunks(self, rows: pa.Table, count: Count) -> Iterator[WrittenChunk]:
        """Yield the chunks of a shard."""
        step = self._draft.spec.chunk_rows
        for start in range(0, rows.num_rows, step):
            block = self._reader.read(rows.slice(start, step))
            if block.defects:
                raise refusal(block.defects)
            yield _chunk(block)
            count(len(block.pixels))

    @cached_property
    def _draft(self) -> Draft:
        return open_draft(self.folder)

    @cached_property
    def _reader(self) -> SourceReader:
        settings = self._draft.settings
        return SourceReader(
            Dataset.model_validate(self._draft.spec.source),
            Path(settings["root"]),
            allow_pickle=settings["allow_pickle"],
            scratch=self.folder,
        )


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


def _chunk(block: SourceBlock) -> WrittenChunk:
    pixels = {"images": block.pixels, "targets": block.targets, "masks": block.masks}
    return WrittenChunk(
        pixels={name: array for name, array in pixels.items() if array is not None},
        sha256=block.sha256,
        size=block.size,
        values=block.values,
    )
