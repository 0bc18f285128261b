"""A store under construction: any process writes any shard, a killed one costs its shard alone.

A draft lies beside the store to be, in `.NAME.HASH.partial`; the hash is of all that determines the
result but the sources' bytes, so that the same command finds its own draft again, and another
command never writes into it. A shard counts as written when its part stands in `parts/`, which is
put there last; the part has the hashes of the sources that it was made of, and of its shard's file.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lenshpc import __version__
from lenshpc.errors import DataError, IncompleteError, absence_error
from lenshpc.files import flush, lock, read_sealed, sha256, unique_name, write_sealed
from lenshpc.store.buffers import as_text
from lenshpc.store.identity import pixel_hashes, sum_sources
from lenshpc.store.layout import Pixels, StoreSpec, count_filled, pixel_moments, shard_file
from lenshpc.store.parts import Part, read_part, write_part
from lenshpc.store.planned import PlannedRows
from lenshpc.store.shards import ShardWriter, writing
from lenshpc.store.write import FoundRows, write_around

# What a part holds of its shard.
_OF_SHARD = ("shard_sha256", "shard_bytes", "chunk_crc32c")


@dataclass(frozen=True, kw_only=True)
class WrittenChunk:
    """The rows of one chunk: for each pixel array of the store (n,C,H,W), and what came with them.

    `sha256` (n,32) and `size` (n,) are those of the source files; `values` (n,K) are `columns`.
    """

    pixels: Mapping[str, NDArray[Any]]
    sha256: NDArray[np.uint8]
    size: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Draft:
    """The store that will stand at `path`, under construction in `folder`."""

    folder: Path
    path: Path
    spec: StoreSpec
    num_rows: int
    settings: Mapping[str, Any]

    @property
    def blocks(self) -> list[slice]:
        """Return the rows of each shard."""
        size = self.spec.rows_a_shard(self.num_rows)
        starts = range(0, self.num_rows, size)
        return [slice(start, min(start + size, self.num_rows)) for start in starts]

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not written."""
        # Parts alone count, never the shards' files: a shard may lie there whole while its hashes
        # do not.
        written = {path.name for path in self._parts.glob("*.part")}
        return [i for i in range(len(self.blocks)) if self._part(i).name not in written]

    def rows(self, shard: int) -> pa.Table:
        """Return the rows of one shard, with all columns that `begin` was given."""
        return self._rows_file.read_row_group(shard)

    def sources(self, shard: int) -> NDArray[np.uint8] | None:
        """Return the hashes (n,32) of the sources that a shard was made of; None if it is not."""
        part = read_part(self._part(shard))
        return None if part is None else part["sha256"]

    def write(self, shard: int, chunks: Iterable[WrittenChunk]) -> None:
        """Write one shard whole; doing it twice, even at the same time, gives equal files."""
        found: list[dict[str, NDArray[Any]]] = []
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(self._writing(name, shard)) for name in self.spec.arrays
            }
            for chunk in chunks:
                pixels = {name: chunk.pixels[name] for name in writers}
                for name, writer in writers.items():
                    writer.append(self._pad(pixels[name]))
                found.append(self._describe(chunk, pixels))
        part: dict[str, Any] = {
            name: np.concatenate([one[name] for one in found]) for name in found[0]
        }
        sources = sum_sources(as_text(self.rows(shard)["id"]), part["size"], part["sha256"])
        part["sources"] = np.frombuffer(sources.to_bytes(32), np.uint8)
        part["shard_sha256"] = np.array(
            [list(writer.sha256) for writer in writers.values()], np.uint8
        )
        part["shard_bytes"] = np.array([writer.num_bytes for writer in writers.values()])
        part["shard_mtime_ns"] = np.array([writer.mtime_ns for writer in writers.values()])
        part["chunk_crc32c"] = np.stack([writer.checksums for writer in writers.values()])
        # Last, when all of the shard's files are flushed and in place: the stack has closed the
        # writers. Killed before, the shard is written again, to equal files.
        write_part(self._part(shard), part)

    def _describe(
        self, chunk: WrittenChunk, pixels: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Return what a part holds of a chunk's rows."""
        known: dict[str, NDArray[Any]] = {
            "sha256": np.asarray(chunk.sha256),
            "size": np.asarray(chunk.size),
            "moments": pixel_moments(pixels["images"], self.spec.image.scale),
            "values": np.asarray(chunk.values),
            "pixel_sha256": pixel_hashes(pixels),
        }
        return known | ({"num_filled": count_filled(pixels["masks"])} if self.spec.masks else {})

    def _writing(self, array: str, shard: int) -> AbstractContextManager[ShardWriter]:
        num_chunks = self.spec.rows_a_shard(self.num_rows) // self.spec.chunk_rows
        return writing(self._shard(array, shard), self.spec.codec, num_chunks)

    def _pad(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return a whole chunk: the last one of a store may lack rows."""
        if len(rows) == self.spec.chunk_rows:
            return rows
        # Zeros and not what memory holds: two writings of a shard must give equal bytes.
        whole = np.zeros((self.spec.chunk_rows, *rows.shape[1:]), rows.dtype)
        whole[: len(rows)] = rows
        return whole

    def finish(self) -> None:
        """Check and join the parts, write all but the pixels, and move the store to its place.

        A part or shard that is not what was written is dropped, and counts as not converted.
        """
        with lock(self._lock):
            # Again, after hours of conversion: another command may have made a store of this name.
            refuse_existing(self.path)
            taken = self._take_all()
            of_shards = {
                name: np.stack([part[name] for part in taken], axis=1) for name in _OF_SHARD
            }
            # Killed in here, the next call writes it all again.
            write_around(self.store, self.spec, self.num_rows, self._read_parts(taken), of_shards)
            self._publish()
            # Last: until the rename the parts are what a stopped `finish` goes on from.
            self._discard()

    def _publish(self) -> None:
        try:
            # Fails if a folder with files is there: of two commands, one makes the store.
            self.store.rename(self.path)
        except OSError:
            refuse_existing(self.path)
            raise
        flush(self.path.parent)

    def _take_all(self) -> list[Part]:
        """Move all shards into the store; return what the parts say of them."""
        shards = range(len(self.blocks))
        # Threads: hashing lets go of Python's lock, and the disk is read by several at a time.
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(self._take, shards))
        taken = [part for part in found if part is not None]
        for shard in shards:
            if found[shard] is None:
                self._part(shard).unlink(missing_ok=True)
        self._refuse_missing(len(shards) - len(taken))
        return taken

    def _refuse_missing(self, num_missing: int) -> None:
        if num_missing:
            raise IncompleteError(
                f"{num_missing} of {len(self.blocks)} shards of {self.path} are not converted; "
                "repeat the same lenshpc prepare command"
            )

    def _take(self, shard: int) -> Part | None:
        """Move a shard's files into the store; return what its part says of them, None if not so.

        What it says of rows is read again when it is written: that of all would fill the memory.
        """
        part = read_part(self._part(shard))
        # Read before the files are looked at: a process that writes this shard anew puts its part
        # last, and whatever it replaces now does not fit.
        if part is None:
            return None
        for at, array in enumerate(self.spec.arrays):
            place = shard_file(self.store, array, shard)
            place.parent.mkdir(parents=True, exist_ok=True)
            # In the store, nobody who still writes can reach it. A killed call moved it before.
            with suppress(FileNotFoundError):
                self._shard(array, shard).replace(place)
            if not place.exists() or not _is_written(place, part, at):
                return None
        return {name: part[name] for name in (*_OF_SHARD, "sources")}

    def _read_parts(self, taken: Sequence[Part]) -> Iterator[FoundRows]:
        """Yield what is known of the rows of each shard, from parts that tell of what was taken."""
        for shard, known in enumerate(taken):
            part, rows = read_part(self._part(shard)), self.rows(shard)
            # Of other sources by now: what it says is not of the pixels that were taken. Another
            # writer of equal files may have put its part there meanwhile.
            if part is None or not all(np.array_equal(part[name], known[name]) for name in known):
                self._refuse_missing(1)
            assert part is not None  # noqa: S101 - for mypy
            columns = {
                "label": rows["label"].to_numpy().astype(np.int16),
                "split": rows["split"].to_numpy().astype(np.uint8),
                "id": as_text(rows["id"]),
                "group": as_text(rows["group"]),
                **{name: part["values"][:, at] for at, name in enumerate(self.spec.columns)},
                "sha256": part["sha256"].astype(np.uint8),
                "size": part["size"].astype(np.int64),
                "moments": part["moments"].astype(np.float64),
                "pixel_sha256": part["pixel_sha256"].astype(np.uint8),
            }
            if self.spec.masks:
                columns["num_filled"] = part["num_filled"]
            yield FoundRows(columns=columns, sources=int.from_bytes(part["sources"].tobytes()))

    def abandon(self, *, keep: bool = False) -> None:
        """Remove a draft that nothing was won for, or that was overtaken: a store stands there.

        It is left alone while another process joins it; `keep` says that something was won beside
        shards.
        """
        is_overtaken = (self.path / "zarr.json").exists()
        if is_overtaken or (not keep and len(self.missing()) == len(self.blocks)):
            with suppress(FileNotFoundError, IncompleteError), lock(self._lock):
                self._discard()

    def _discard(self) -> None:
        """Remove the draft, and what a call left that was killed in removing it."""
        # Renamed first: a process that still writes then fails at once, and cannot bring back a
        # folder that is half removed.
        self.folder.rename(unique_name(self.folder, "tmp"))
        for folder in self.path.parent.glob(f"{escape(self.folder.name)}.*.tmp"):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def store(self) -> Path:
        """Return where the store is put together; the holder of the lock alone writes there."""
        return self.folder / "store"

    @property
    def _lock(self) -> Path:
        return self.folder / "lock"

    @property
    def _parts(self) -> Path:
        return self.folder / "parts"

    def _part(self, shard: int) -> Path:
        return self._parts / f"{shard:06d}.part"

    def _shard(self, array: str, shard: int) -> Path:
        return self.folder / "shards" / f"{array}-{shard:06d}"

    @cached_property
    def _rows_file(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.folder / "rows.parquet")


def _is_written(path: Path, part: Part, at: int) -> bool:
    """Return whether a file is the shard that a part tells of."""
    found = path.stat()
    # The time is that of the last writing as the writer's own file had it. Where a file system
    # tells another one, or the file was copied, its bytes say what it is.
    known = int(part["shard_bytes"][at]), int(part["shard_mtime_ns"][at])
    return (found.st_size, found.st_mtime_ns) == known or (
        sha256(path) == part["shard_sha256"][at].tobytes().hex()
    )


def begin(
    path: Path,
    spec: StoreSpec,
    table: pa.Table,
    order: NDArray[np.integer],
    settings: Mapping[str, Any],
) -> Draft:
    """Return the draft of the store at `path`: the one that an equal call began, or a new one.

    `table` has `id`, `label` (-1 without one), `split` (an index in `SPLITS`) and `group`, and
    whatever the writer needs beside them; row i of the store is its row `order[i]`, splits
    contiguous. `settings` too is handed back by `open_draft`.
    """
    refuse_existing(path)
    facts = {
        "spec": asdict(spec),
        "settings": dict(settings),
        "path": str(path.resolve()),
        "version": __version__,  # another one may read pixels otherwise
    }
    # Beside the target, on its file system: the rename at the end must not become a copy.
    rows = PlannedRows(table, order, spec.rows_a_shard(len(order)))
    folder = path.with_name(f".{path.name}.{rows.digest(facts)[:12]}.partial")
    draft = _read_draft(folder)
    if draft is None:
        # New, or damaged: then what it says is written anew, and each part answers for itself.
        _create(folder, rows, facts)
        draft = open_draft(folder)
    for name in ("parts", "shards"):
        (folder / name).mkdir(exist_ok=True)
    return draft


def open_draft(folder: Path) -> Draft:
    """Return the draft in a folder."""
    draft = _read_draft(folder)
    if draft is not None:
        return draft
    told = (
        f"{folder} is no draft of a store, or its order.json or rows.parquet is damaged; "
        "repeat the lenshpc prepare command that began it"
    )
    raise DataError(told) if folder.exists() else absence_error(folder, told)


def _read_draft(folder: Path) -> Draft | None:
    """Return the draft in a folder; None where there is none whose words are as written."""
    try:
        order = read_sealed(folder / "order.json")
        if order["rows"] != sha256(folder / "rows.parquet"):
            return None
    except (FileNotFoundError, DataError, LookupError):
        return None
    spec = dict(order["spec"])
    pixels = {key: _pixels(spec.pop(key)) for key in ("image", "target")}
    names = {key: tuple(spec.pop(key)) for key in ("classes", "columns")}
    return Draft(
        folder=folder,
        path=Path(order["path"]),
        spec=StoreSpec(**spec, **pixels, **names),  # type: ignore[arg-type]
        num_rows=order["num_rows"],
        settings=order["settings"],
    )


def refuse_existing(path: Path) -> None:
    """Raise if anything stands at `path`; a store is never overwritten."""
    if os.path.lexists(path):
        raise DataError(f"{path} exists; use another name")


def _pixels(value: Mapping[str, Any] | None) -> Pixels | None:
    if value is None:
        return None
    return Pixels(
        shape=tuple(value["shape"]), dtype=value["dtype"], channels=tuple(value["channels"])
    )


def _create(folder: Path, rows: PlannedRows, facts: Mapping[str, Any]) -> None:
    """Write what a draft says of itself; of two processes that do, both write the same."""
    folder.mkdir(exist_ok=True)
    path = folder / "rows.parquet"
    rows.write(path)
    # Last: a draft without it is begun anew.
    write_sealed(
        folder / "order.json", {**facts, "num_rows": len(rows.order), "rows": sha256(path)}
    )
