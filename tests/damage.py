"""Damage one file of a folder, the way disks and people do, and mend it again."""

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

# A seed a try, and not the file, place and bit: drawn one by one they would crowd at small numbers.
SEEDS = st.integers(0, 2**32 - 1)
QUICK, FULL = (
    settings(max_examples=count, derandomize=True, deadline=None, database=None)
    for count in (50, 2000)
)


def files_below(root: Path) -> list[Path]:
    """Return all files below a folder, in a fixed order."""
    return sorted(path for path in root.rglob("*") if path.is_file())


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@contextmanager
def damaged(files: Sequence[Path], seed: int) -> Iterator[Path]:
    """Flip a bit of one of the files, cut it short or delete it; yield it, and put it back."""
    rng = np.random.default_rng(seed)
    path = files[rng.integers(len(files))]
    whole = path.read_bytes()
    kind, place = rng.integers(10), int(rng.integers(max(1, len(whole))))
    if kind == 0 or not whole:
        path.unlink()
    elif kind == 1:
        path.write_bytes(whole[:place])
    else:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
    try:
        yield path
    finally:
        path.write_bytes(whole)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Have the system refuse longer files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
