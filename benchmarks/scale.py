"""Measure time and peak memory of `lenshpc prepare` against the number of files.

The sources are files of (3,64,64) float32; 200,000 are 10 GB, and their store is 8 GB. Memory is
the sum over the command's processes, sampled every 50 ms: resident, which counts shared pages once
a process and so is too much, if anything.
"""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import psutil
from images import make_images
from measure import NUM_PROCESSES, Table, Target, arguments, report, rounds, scratch, target_table

SAMPLED_EVERY_S = 0.05
GIB = 2**30


@dataclass(frozen=True)
class Peak:
    """What one conversion took."""

    seconds: float
    memory_bytes: int


def converted(source: Path, target: Path) -> Peak:
    """Convert a folder, watch the memory, and remove the store."""
    lenshpc = str(Path(sys.executable).with_name("lenshpc"))
    prepare = [lenshpc, "prepare", "lens_finding", str(source), str(target)]
    began, peak = time.perf_counter(), 0
    with subprocess.Popen(
        [*prepare, "--workers", str(NUM_PROCESSES)], stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(SAMPLED_EVERY_S)
    assert process.returncode == 0
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return Peak(seconds, peak)


def resident_bytes(root: int) -> int:
    """Return the resident memory of a process and all that it started."""
    total = 0
    try:
        parent = psutil.Process(root)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:  # ended meanwhile: the next sample, or none, will do
        return total
    return total


def main() -> None:
    """Measure and print; `--num` is the largest number, the others a tenth and a hundredth."""
    wanted = arguments("Measure how conversion scales.", num=200_000, repeats=1)
    peaks: dict[int, list[Peak]] = {}
    with scratch(wanted.folder) as folder:
        for num in (wanted.num // 100, wanted.num // 10, wanted.num):
            source = make_images(folder / f"source{num}", num)
            turn = partial(converted, source, folder / "store")
            peaks[num] = rounds({f"{num} files": turn}, wanted.repeats)[f"{num} files"]
            shutil.rmtree(source)
    seconds = {num: median(peak.seconds for peak in found) for num, found in peaks.items()}
    memory = {num: max(peak.memory_bytes for peak in found) for num, found in peaks.items()}
    lines = [
        [
            f"{num:,}",
            f"{seconds[num]:.1f}",
            f"{1000 * seconds[num] / num:.2f}",
            f"{num / seconds[num]:.0f}",
            f"{memory[num] / GIB:.2f}",
        ]
        for num in peaks
    ]
    header = ("files", "s", "ms a file", "files/s", "peak memory, GiB")
    table = Table("`lenshpc prepare`, start included, 2 processes", header, lines)
    small, large = sorted(peaks)[1:]
    targets = [
        Target("1 GiB / peak memory", GIB / memory[large], 1),
        Target(
            f"seconds a file: {small:,} files / {large:,} files",
            seconds[small] / small / (seconds[large] / large),
            0.9,
        ),
    ]
    report([table, target_table(targets)], as_json=wanted.json)


if __name__ == "__main__":
    main()
