"""What a probe of batch sizes has found, as it writes it and as it is read."""

from pathlib import Path

from lenshpc.config import Frozen
from lenshpc.run.paths import RunPaths
from lenshpc.run.records import read_lines


class ProbedBatch(Frozen):
    """A number of images that a process takes at once; without a speed it was only begun."""

    batch_size: int
    images_per_s: float | None = None
    memory_gb: float | None = None
    fits: bool = True


def find_notes(run: RunPaths) -> Path:
    """Return the file of what was probed, a line each, in a folder that is removed afterwards."""
    return run.root / "batches.jsonl"


def note_probed(run: RunPaths, batch: ProbedBatch) -> None:
    """Append a line to what was probed."""
    with find_notes(run).open("a", encoding="utf-8") as stream:
        stream.write(f"\n{batch.model_dump_json()}\n")


def read_probed(run: RunPaths) -> list[ProbedBatch]:
    """Return what is known of each size until now, ascending: its last line."""
    lines = read_lines(ProbedBatch, find_notes(run))
    return list({line.batch_size: line for line in lines}.values())
