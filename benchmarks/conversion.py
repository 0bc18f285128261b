"""Time the conversion of a folder of .npy files: lenshpc, mosaicml-streaming, webdataset, cp -r.

All on two processes, cp on one; sources in the page cache. lenshpc checks every value, hashes every
file and shard (SHA-256) and flushes its files to the disk; the others do none of it, but the one
called checked, which compresses and hashes. So there are two times: until it returned, and until
the files were on the disk.
"""

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from images import make_images
from measure import (
    LOADING_PYTHON,
    Cost,
    Table,
    Target,
    Turn,
    arguments,
    command,
    report,
    rounds,
    scratch,
    served,
    spread,
    target_table,
)

OURS, WHOLE, MDS, CHECKED, WDS, COPY = (
    "lenshpc",
    "lenshpc prepare, start included",
    "mosaicml-streaming",
    "mosaicml-streaming, zstd, sha256",
    "webdataset",
    "cp -r",
)


@dataclass(frozen=True)
class Sample:
    """One conversion: what it cost, the seconds until all was on the disk, the size."""

    cost: Cost
    flushed_seconds: float
    num_bytes: int


def measured(turn: Turn, target: Path) -> Sample:
    """Return what a new folder costs, and remove it."""
    os.sync()
    began = time.perf_counter()
    cost = turn(str(target))
    os.sync()
    flushed = time.perf_counter() - began
    num_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    shutil.rmtree(target)
    return Sample(cost, flushed, num_bytes)


def turns(source: Path, num: int, held: ExitStack) -> dict[str, Turn]:
    """Return the contestants."""
    prepare = (Path(sys.executable).with_name("lenshpc"), "prepare", "lens_finding", source)

    def start(python: Path | str, *argv: object) -> Turn:
        return held.enter_context(served(python, *argv, num_images=num))

    return {
        OURS: start(sys.executable, "ours.py", "write", source),
        WHOLE: command(*prepare, "--workers", 2),
        MDS: start(LOADING_PYTHON, "rivals.py", "write-mds", source),
        CHECKED: start(LOADING_PYTHON, "rivals.py", "write-mds-checked", source),
        WDS: start(LOADING_PYTHON, "rivals.py", "write-wds", source),
        COPY: command("cp", "-r", source),
    }


def rows(samples: Mapping[str, Sequence[Sample]], num: int) -> list[list[str]]:
    """Return a row each: times, rate, size, and how many times as long as lenshpc it took."""
    ours, lines = seconds(samples[OURS]), []
    for name, found in samples.items():
        took = seconds(found)
        lines.append(
            [
                name,
                *spread([sample.cost.seconds for sample in found]),
                f"{flushed_seconds(found):.2f}",
                f"{num / took:.0f}",
                f"{found[0].num_bytes / 1e9:.2f}",
                f"{took / ours:.2f}",
            ]
        )
    return lines


def seconds(found: Sequence[Sample]) -> float:
    """Return the median time."""
    return median(sample.cost.seconds for sample in found)


def flushed_seconds(found: Sequence[Sample]) -> float:
    """Return the median time until all was on the disk."""
    return median(sample.flushed_seconds for sample in found)


def targets(samples: Mapping[str, Sequence[Sample]]) -> list[Target]:
    """Return what is aimed at, until each returned and until all was on the disk."""
    found = []
    for what, took in (("", seconds), (", until on the disk", flushed_seconds)):
        times = {name: took(those) for name, those in samples.items()}
        writer = min((MDS, WDS), key=times.__getitem__)
        found += [
            Target(f"lenshpc / {writer}, the faster writer{what}", times[writer] / times[OURS], 2),
            Target(f"lenshpc / cp -r{what}", times[COPY] / times[OURS], 0.5),
        ]
    return found


def main() -> None:
    """Measure and print."""
    wanted = arguments("Time conversion.", num=20_000, repeats=5)
    with scratch(wanted.folder) as folder, ExitStack() as held:
        source = make_images(folder / "source", wanted.num)
        found = {
            name: partial(measured, turn, folder / "target")
            for name, turn in turns(source, wanted.num, held).items()
        }
        for turn in found.values():
            turn()  # imports, page cache
        samples = rounds(found, wanted.repeats)
    title = f"Conversion of {wanted.num} .npy files, (3,64,64) float32"
    header = ("", "s", "min–max", "s to disk", "images/s", "GB", "time / lenshpc's")
    table = Table(title, header, rows(samples, wanted.num))
    report([table, target_table(targets(samples))], as_json=wanted.json)


if __name__ == "__main__":
    main()
