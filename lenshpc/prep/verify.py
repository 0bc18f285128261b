"""Prove that a store is what was written and, where the sources still lie, what was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.parallel import Count, Progress, share
from lenshpc.prep.read import SourceReader
from lenshpc.prep.scan import ScannedImage, scan
from lenshpc.store import Store, open_store


def verify(
    path: Path,
    *,
    against: Path | None = None,
    allow_pickle: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Store:
    """Return the store at `path` if every hash holds and every pixel equals its source's bits."""
    store = open_store(path)
    sources = _sources(store, against) if against else [None] * store.num_rows
    size = store.shard_rows
    items = [
        (shard, sources[shard * size : (shard + 1) * size]) for shard in range(store.num_shards)
    ]
    with TemporaryDirectory(prefix="lenshpc-verify-") as scratch:
        work = _Verification(path, against, allow_pickle, Path(scratch))
        share(work, items, workers=workers, num_rows=store.num_rows, progress=progress)
    return store


def _sources(store: Store, root: Path) -> list[ScannedImage]:
    """Return each row's source; raise unless the folder gives just the rows of the store."""
    found = {source.id: source for source in scan(root, _dataset(store))}
    strangers = sorted(found.keys() ^ set(store.rows["id"]))
    if strangers:
        raise DataError(
            f"{strangers[0]} is only in one of {store.path} and {root}, as are "
            f"{len(strangers) - 1} more; prepare it again"
        )
    for row in store.rows.to_dict("records"):
        source = found[row["id"]]
        kept = (row["label"], row["split"], row["group"])
        given = (source.label, source.split, source.group)
        if kept != given:
            raise DataError(
                f"{row['id']} is {kept} in {store.path}, {given} in {root}; prepare it again"
            )
    return [found[identifier] for identifier in store.rows["id"]]


def _dataset(store: Store) -> Dataset:
    return Dataset.model_validate(store.attributes["source"])


@dataclass(frozen=True)
class _Verification:
    """The work of one process."""

    path: Path
    root: Path | None
    allow_pickle: bool
    scratch: Path

    def __call__(self, item: tuple[int, Sequence[ScannedImage]], count: Count) -> None:
        shard, sources = item
        self._store.check_shard(shard)
        first, step = shard * self._store.shard_rows, self._store.chunk_rows
        for start in range(0, len(sources), step):
            chunk = sources[start : start + step]
            self._check_rows(first + start, chunk)
            count(len(chunk))

    def _check_rows(self, first: int, sources: Sequence[ScannedImage | None]) -> None:
        """Decode some rows, which checks each chunk's crc32c, and compare them with the sources."""
        rows = slice(first, first + len(sources))
        images = self._store.read_raw(rows)
        targets = self._store.read_raw_targets(rows) if self._store.targets is not None else images
        kept = self._store.rows.iloc[rows].to_dict("records")
        for row, image, target, source in zip(kept, images, targets, sources, strict=True):
            if source is not None:
                self._check_row(row, image, target, source)

    def _check_row(
        self, row: Mapping[Any, Any], image: Any, target: Any, source: ScannedImage
    ) -> None:
        found = self._reader.read(source)
        # The file first: where that is another one, its pixels would differ too, and say less.
        if found.sha256.hex() != row["sha256"]:
            raise DataError(f"{source.file} is not the file that was prepared; prepare it again")
        same = _bits(found.pixels) == _bits(image) and (
            found.target is None or _bits(found.target) == _bits(target)
        )
        values = list(found.values.values()), [row[name] for name in found.values]
        if not same or not np.array_equal(*values, equal_nan=True):
            raise DataError(f"{source.id} in {self.path} differs from its source; prepare it again")

    @cached_property
    def _store(self) -> Store:
        return open_store(self.path)

    @cached_property
    def _reader(self) -> SourceReader:
        assert self.root is not None  # noqa: S101 - for mypy: there are sources
        return SourceReader(
            _dataset(self._store),
            self.root,
            allow_pickle=self.allow_pickle,
            scratch=self.scratch,
        )


def _bits(pixels: Any) -> bytes:
    """Return what must agree: -0.0 is not 0.0."""
    return np.ascontiguousarray(pixels).tobytes()
