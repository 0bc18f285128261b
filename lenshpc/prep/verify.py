"""Prove that a store is what was written and, where the sources still lie, what was read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.cutouts import begin_stacks, open_reader
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import refusal
from lenshpc.prep.parallel import Count, Progress, share
from lenshpc.prep.read import SourceReader
from lenshpc.prep.scan import scan
from lenshpc.store import Store, open_store
from lenshpc.store.identity import RowTally, pixel_hashes, sum_sources
from lenshpc.store.layout import SPLITS, damage_error, pixel_moments


def verify(
    path: Path,
    *,
    against: Path | None = None,
    allow_pickle: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Store:
    """Return the store at `path` if every hash holds and every pixel equals its source's bits.

    All that was computed from pixels is computed again: each row's hash and moments, statistics,
    counts, and the content hash.
    """
    store = open_store(path)
    _check_derived(store)
    found = scan(against, _dataset(store)) if against else None
    sources = _sources(store, against, found.table) if against and found else None
    size = store.shard_rows
    items = [
        (shard, sources.slice(shard * size, size) if sources else None)
        for shard in range(store.num_shards)
    ]
    with TemporaryDirectory(prefix="lenshpc-verify-") as scratch:
        if against and found and found.mosaics:
            stacks = begin_stacks(Path(scratch), against, _dataset(store), found.mosaics.plan)
            stacks.make(stacks.missing(), workers=workers)
        work = _Verification(path, against, allow_pickle, Path(scratch))
        share(work, items, workers=workers, num_rows=store.num_rows, progress=progress)
    return store


def _sources(store: Store, root: Path, found: pa.Table) -> pa.Table:
    """Return each row's source; raise unless the folder gives just the rows of the store."""
    ids = store.text("id")
    strangers = sorted(set(found["id"].to_pylist()) ^ set(ids.to_pylist()))
    if strangers:
        raise DataError(
            f"{strangers[0]} is only in one of {store.path} and {root}, as are "
            f"{len(strangers) - 1} more; prepare under another name"
        )
    found = found.take(pc.index_in(ids, found["id"]))
    splits = np.array(SPLITS, object)[found["split"].to_numpy()]
    sources = zip(found["label"].to_pylist(), splits, found["group"].to_pylist(), strict=True)
    rows = store.rows[["id", "label", "split", "group"]]
    for (identifier, *kept), given in zip(
        rows.itertuples(index=False, name=None), sources, strict=True
    ):
        if tuple(kept) != given:
            told = f"{identifier} is {tuple(kept)} in {store.path}, {given} in {root}"
            raise DataError(f"{told}; prepare under another name")
    return found


def _check_derived(store: Store) -> None:
    """Raise unless the store's attributes follow from its columns, and no file is a stranger."""
    store.stored.check_files()  # names of channels, too, which only other readers read
    tally, brightest = RowTally(store.classes), 0.0
    for block in store.blocks(*store.row_columns):
        tally.add(block, sum_sources(block["id"], block["size"], block["sha256"]))
        brightest = max(brightest, float(np.sqrt(block["moments"][..., 1].max())))
    for name, found in tally.summary().items():
        kept = store.attributes[name]
        if found != kept and not _is_close(found, kept, brightest):
            raise damage_error(store.path, f"{name} is {kept}, its rows give {found}")
    if tally.content_hash(store.attributes) != store.content_hash:
        raise damage_error(store.path, "the content hash is not that of its columns")
    strangers = store.strangers()
    if strangers:
        raise DataError(
            f"{strangers[0]} is no file of the store {store.path}, as are {len(strangers) - 1} "
            "more; move them elsewhere"
        )


def _is_close(found: Any, kept: Any, brightest: float) -> bool:
    """Return whether statistics agree; another processor may sum in another order."""
    if not isinstance(kept, list):
        return False
    # A deviation near 0 is a difference of large numbers.
    return np.allclose(found, kept, 1e-6, 1e-7 * brightest, equal_nan=True)


def _dataset(store: Store) -> Dataset:
    return Dataset.model_validate(store.attributes["source"])


@dataclass(frozen=True)
class _Verification:
    """The work of one process."""

    path: Path
    root: Path | None
    allow_pickle: bool
    scratch: Path

    def __call__(self, item: tuple[int, pa.Table | None], count: Count) -> None:
        shard, sources = item
        self._store.check_shard(shard)
        size, step = self._store.shard_rows, self._store.chunk_rows
        end = min(self._store.num_rows, (shard + 1) * size)
        for start in range(shard * size, end, step):
            rows = slice(start, min(start + step, end))
            chunk = None if sources is None else sources.slice(start - shard * size, step)
            self._check_rows(rows, chunk)
            count(rows.stop - rows.start)

    def _check_rows(self, rows: slice, sources: pa.Table | None) -> None:
        """Decode some rows, which checks each chunk's crc32c, and compare them with the sources."""
        pixels = {"images": self._store.read_raw(rows)}
        if self._store.targets is not None:
            pixels["targets"] = self._store.read_raw_targets(rows)
        if self._store.masks is not None:
            pixels["masks"] = self._store.read_masks(rows)
        self._check_computed(rows, pixels)
        if sources is not None:
            self._check_sources(rows, pixels, sources)

    def _check_computed(self, rows: slice, pixels: Mapping[str, NDArray[Any]]) -> None:
        """Raise unless hashes and moments of some rows are those of their decoded pixels."""
        moments = pixel_moments(pixels["images"], self._store.scale)
        same = (pixel_hashes(pixels) == self._store.column("pixel_sha256", rows)).all(axis=1)
        # Not bit for bit: another processor may sum in another order.
        room = 1e-9 * np.sqrt(moments[..., 1:])
        same &= np.isclose(moments, self._store.column("moments", rows), 1e-9, room).all(
            axis=(1, 2)
        )
        if not same.all():
            name = self._store.text("id", rows)[int(same.argmin())]
            raise damage_error(self.path, f"{name} has not the pixels, or moments, of its row")

    def _check_sources(
        self, rows: slice, pixels: Mapping[str, NDArray[Any]], sources: pa.Table
    ) -> None:
        found = self._reader.read(sources)
        if found.defects:
            raise refusal(found.defects)
        # The file first: where that is another one, its pixels would differ too, and say less.
        hashes = self._store.column("sha256", rows)
        for file, digest, expected in zip(
            sources["file"].to_pylist(), found.sha256, hashes, strict=True
        ):
            if digest.tobytes() != expected.tobytes():
                raise DataError(
                    f"{file} is not the file that was prepared; prepare under another name"
                )
        read = {"images": found.pixels, "targets": found.targets, "masks": found.masks}
        same = np.ones(len(found.pixels), bool)
        for name, array in read.items():
            if array is not None:
                same &= _equal_bits(array, pixels[name])
        for place, name in enumerate(_dataset(self._store).columns):
            ours, theirs = found.values[:, place], self._store.column(name, rows)
            same &= (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        if not same.all():
            name = sources["id"][int(same.argmin())].as_py()
            raise DataError(
                f"{name} in {self.path} differs from its source; prepare under another name"
            )

    @cached_property
    def _store(self) -> Store:
        return open_store(self.path)

    @cached_property
    def _reader(self) -> SourceReader:
        assert self.root is not None  # noqa: S101 - for mypy: there are sources
        dataset = _dataset(self._store)
        return open_reader(dataset, self.root, self.scratch, allow_pickle=self.allow_pickle)


def _equal_bits(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows agree in each bit: -0.0 is not 0.0."""
    first, second = (
        np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8) for rows in (one, other)
    )
    same: NDArray[np.bool_] = (first == second).all(axis=1)
    return same
