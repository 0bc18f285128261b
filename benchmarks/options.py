"""Measure what codec, chunk and shard sizes of a store cost: its size, writing, reading.

Written by one process. Read by one thread: whole chunks in random order, checksums included, as a
stream does; data in the page cache.
"""

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
from images import make_images
from measure import Table, arguments, report, rounds, scratch

from lenshpc.data.decoded import Decoded
from lenshpc.prep.convert import Options, convert
from lenshpc.prep.dataset import load_dataset
from lenshpc.run.sections import Data
from lenshpc.store import open_store

CODECS, CHUNK_ROWS = ("lz4", "zstd", "none"), (8, 32, 128)
SHARD_ROWS = (128, 512, 4096)  # beside the default, 64 MiB
Figures = tuple[float, float, float, int, int]


def measured(source: Path, target: Path, options: Options) -> Figures:
    """Return seconds to write and to read all, stored bytes a pixel byte, files, rows a shard."""
    os.sync()
    began = time.perf_counter()
    store = convert(load_dataset("lens_finding"), source, target, options)
    written = time.perf_counter() - began
    decoded = Decoded(open_store(target), Data())
    chunks = np.random.default_rng(0).permutation(decoded.num_chunks).tolist()
    began = time.perf_counter()
    assert sum(len(images) for images in decoded.read_chunks(chunks)) == store.num_rows
    read = time.perf_counter() - began
    num_bytes = sum(path.stat().st_size for path in (target / "images").rglob("*"))
    shutil.rmtree(target)
    share = num_bytes / decoded.num_bytes
    return written, read, share, store.num_shards, store.shard_rows


def row(options: Options, found: list[Figures], num: int) -> list[str]:
    """Return one line of the table."""
    written, read, share = (median(values) for values in list(zip(*found, strict=True))[:3])
    shards, shard_rows = found[0][3:]
    return [
        options.codec,
        str(options.chunk_rows),
        f"{shard_rows}{' (default)' if options.shard_rows is None else ''}",
        str(shards),
        f"{share:.3f}",
        f"{num / written:.0f}",
        f"{num / read:.0f}",
    ]


def main() -> None:
    """Measure and print."""
    wanted = arguments("Measure a store's options.", num=5000, repeats=3)
    cases = [Options(codec=codec, chunk_rows=n) for codec, n in product(CODECS, CHUNK_ROWS)]  # type: ignore[arg-type]
    cases += [Options(shard_rows=shard_rows) for shard_rows in SHARD_ROWS]
    with scratch(wanted.folder) as folder:
        source = make_images(folder / "source", wanted.num)
        turns: dict[str, Callable[[], Figures]] = {
            str(number): partial(measured, source, folder / "store", options)
            for number, options in enumerate(cases)
        }
        measured(source, folder / "store", Options())  # page cache
        found = rounds(turns, wanted.repeats)
    lines = [row(options, found[str(i)], wanted.num) for i, options in enumerate(cases)]
    header = (
        "codec",
        "rows a chunk",
        "rows a shard",
        "shards",
        "bytes / raw",
        "images/s written",
        "images/s read",
    )
    table = Table(f"Options of a store of {wanted.num} images", header, lines)
    report([table], as_json=wanted.json)


if __name__ == "__main__":
    main()
