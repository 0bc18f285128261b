"""Convert a source folder to a store: scan and order, then read and write shard by shard.

A conversion that was cut short goes on when the same one is started again; the store is then equal,
byte for byte, to one that was never disturbed.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lenshpc.errors import IncompleteError, LensHpcError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.labelling import SplitName
from lenshpc.prep.parallel import Count, Progress, share
from lenshpc.prep.read import SourceReader
from lenshpc.prep.scan import ScannedImage, scan
from lenshpc.prep.truth import compare_truth, digest_truth
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
from lenshpc.store.layout import CHUNK_ROWS, SPLITS, Codec

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
    sources = order_sources(scan(root, dataset), options.seed)
    matches = compare_truth(root, dataset.truth, {source.id for source in sources})
    if tell and matches:
        tell(matches)
    target.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "root": str(root.resolve()),
        "allow_pickle": options.allow_pickle,
        # In the hash of the draft: numbers edited between two calls must not be mixed in one store.
        "truth": digest_truth(root, dataset.truth),
    }
    return begin(target, _spec(dataset, options), _rows(sources), np.arange(len(sources)), settings)


def convert_shards(
    draft: Draft, shards: Sequence[int], *, workers: int, progress: Progress | None = None
) -> None:
    """Read the sources of some shards and write those that are not made of just these bytes yet."""
    num_rows = sum(draft.blocks[shard].stop - draft.blocks[shard].start for shard in shards)
    share(_Conversion(draft.folder), shards, workers=workers, num_rows=num_rows, progress=progress)


def order_sources(sources: Sequence[ScannedImage], seed: int) -> list[ScannedImage]:
    """Return the sources split by split, each in a permutation fixed by `seed` and the ids.

    A hash gives it rather than a random generator, whose stream may change with numpy's version.
    """

    def key(source: ScannedImage) -> tuple[int, bytes]:
        text = f"{seed}/{source.id}"
        return SPLITS.index(source.split), hashlib.sha256(text.encode()).digest()

    return sorted(sources, key=key)


@dataclass(frozen=True)
class _Conversion:
    """The work of one process: it keeps the draft and the reader open from shard to shard."""

    folder: Path

    def __call__(self, shard: int, count: Count) -> None:
        rows = self._draft.rows(shard)
        if self._is_made_of(rows, self._draft.sources(shard)):
            count(len(rows))
        else:
            self._draft.write(shard, self._chunks(rows, count))

    def _is_made_of(self, rows: pa.Table, hashes: NDArray[np.uint8] | None) -> bool:
        """Return whether a shard was made of the sources as they are now, by all their bytes.

        Sizes and times tell less: both stay where a file is copied over another with its times.
        """
        return hashes is not None and all(
            self._reader.digest(_source(row)) == found.tobytes()
            for row, found in zip(rows.to_pylist(), hashes, strict=True)
        )

    def _chunks(self, rows: pa.Table, count: Count) -> Iterator[WrittenChunk]:
        """Yield the chunks of a shard, each to be used before the next is asked for."""
        step = self._draft.spec.chunk_rows
        for start in range(0, len(rows), step):
            planned = rows.slice(start, step)
            yield self._read(planned)
            count(len(planned))

    def _read(self, rows: pa.Table) -> WrittenChunk:
        columns, pixels = self._draft.spec.columns, self._pixels
        hashes = np.empty((len(rows), 32), dtype=np.uint8)
        sizes = np.empty(len(rows), dtype=np.int64)
        values = np.empty((len(rows), len(columns)))
        for at, row in enumerate(rows.to_pylist()):
            image = self._reader.read(_source(row))
            pixels["images"][at], sizes[at] = image.pixels, image.num_bytes
            if image.target is not None:
                pixels["targets"][at] = image.target
            hashes[at] = np.frombuffer(image.sha256, dtype=np.uint8)
            values[at] = [image.values[name] for name in columns]
        whole = {name: array[: len(rows)] for name, array in pixels.items()}
        return WrittenChunk(pixels=whole, sha256=hashes, size=sizes, values=values)

    @cached_property
    def _draft(self) -> Draft:
        return open_draft(self.folder)

    @cached_property
    def _pixels(self) -> dict[str, NDArray[Any]]:
        """Return room for a chunk of each pixel array: fresh memory each time would cost time."""
        spec = self._draft.spec
        return {
            name: np.empty((spec.chunk_rows, *pixels.shape), dtype=pixels.dtype)
            for name, pixels in spec.arrays.items()
        }

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
        columns=dataset.columns,
        seed=options.seed,
        source=dataset.model_dump(mode="json", by_alias=True, exclude={"simulate"}),
        codec=options.codec,
        chunk_rows=options.chunk_rows,
        shard_rows=options.shard_rows,
    )


def _pixels(image: ImageFormat) -> Pixels:
    return Pixels(shape=image.shape, dtype=image.dtype, channels=image.channels)


def _rows(sources: Sequence[ScannedImage]) -> pa.Table:
    def texts(name: str) -> pa.Array:
        values = [getattr(source, name) or "" for source in sources]
        return pa.array(values, pa.large_string())

    at = [-1 if source.index is None else source.index for source in sources]
    return pa.table(
        {
            "id": texts("id"),
            "label": pa.array([source.label for source in sources], pa.int16()),
            "split": pa.array([SPLITS.index(source.split) for source in sources], pa.uint8()),
            "group": texts("group"),
            "file": texts("file").dictionary_encode(),
            "at": pa.array(at, pa.int64()),
            "partner": texts("partner").dictionary_encode(),
        }
    )


def _source(row: dict[str, Any]) -> ScannedImage:
    """Return the source that `_rows` made this row of."""
    at, split = row["at"], cast(SplitName, SPLITS[row["split"]])
    same = {name: row[name] for name in ("id", "label", "group", "file")}
    return ScannedImage(
        **same, split=split, index=None if at < 0 else at, partner=row["partner"] or None
    )
