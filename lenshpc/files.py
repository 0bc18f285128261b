"""Write files so that a reader never sees half of one: temporary name, flush, rename."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; flushed and renamed over `path` when the block succeeds.

    It lies beside `path` unless another place of the same file system is given.
    """
    # The process id keeps two writers of one file apart; the dot and `.tmp` are what
    # `remove_drafts` knows a killed writer's draft by.
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        # The bytes go to disk before the name does: else a power cut may leave the name on an empty
        # file. The folder after it, since the rename lies in the folder.
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` that takes its place when the block succeeds."""
    fresh, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        # A folder cannot be renamed over one that holds files, so the old one steps aside first.
        # Two renames with nothing between them: a kill there leaves no folder at `path`, never half
        # of one.
        if path.exists():
            path.rename(old)
        fresh.rename(path)
        flush(path.parent)
    finally:
        for folder in (fresh, old):
            shutil.rmtree(folder, ignore_errors=True)


def remove_drafts(folder: Path) -> None:
    """Remove the temporary files and folders that a killed writer left in `folder`."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def flush(path: Path) -> None:
    """Make a file's bytes, or the renames inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(root: Path) -> None:
    """Make a folder and all that it holds survive a power cut."""
    # Folders too: a name lies in its folder, and is lost with it.
    for path in [*root.rglob("*"), root]:
        flush(path)


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as indented JSON; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON value in the file at `path`."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
