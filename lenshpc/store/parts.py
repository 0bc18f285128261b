"""What a draft keeps of each shard that is written: a file a shard, which begins with its hash."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from lenshpc.files import read_bytes, replacing

# numpy reads headers by Python's parser, which may fail in several threads at once in 3.11:
# https://github.com/python/cpython/issues/106905
_PARSING = Lock()

Part = Mapping[str, Any]  # arrays by name


def write_part(path: Path, part: Part) -> None:
    """Write the arrays of one shard, flushed and whole or not at all."""
    content = io.BytesIO()
    np.savez(content, **part)
    with replacing(path) as temporary:
        temporary.write_bytes(_digest(path, content.getvalue()) + content.getvalue())


def read_part(path: Path) -> Part | None:
    """Return the arrays of one shard; None if the file is absent or not what was written."""
    try:
        content = memoryview(read_bytes(path))
    except FileNotFoundError:
        return None
    digest, content = bytes(content[:32]), content[32:]
    # Before numpy sees it: what is damaged may look like anything.
    if digest != _digest(path, content):
        return None
    with _PARSING, np.load(io.BytesIO(content)) as part:
        return dict(part)


def _digest(path: Path, content: bytes | memoryview) -> bytes:
    # With its name: the part of another shard under this one's would fit its own hash.
    digest = hashlib.sha256(path.name.encode())
    digest.update(content)
    return digest.digest()
