"""Arrays that are kept in a file which begins with its hash: of a draft's shards, of a cache."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from lenshpc.files import open_regular, replacing

DIGEST_BYTES = 32
# numpy reads headers by Python's parser, which may fail in several threads at once in 3.11:
# https://github.com/python/cpython/issues/106905
_PARSING = Lock()

Part = Mapping[str, Any]  # arrays by name


def write_part(path: Path, part: Part) -> None:
    """Write arrays, flushed and whole or not at all."""
    body = io.BytesIO()
    np.savez(body, allow_pickle=False, **part)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as stream,
        body.getbuffer() as content,
    ):
        digest = _begin_digest(path)
        digest.update(content)
        stream.write(digest.digest())
        stream.write(content)


def read_part(path: Path) -> dict[str, Any] | None:
    """Return the arrays in a file; None if it is absent or not what was written."""
    try:
        stream = open_regular(path)
    except FileNotFoundError:
        return None
    with stream:
        digest = stream.read(DIGEST_BYTES)
        # Before numpy sees it: what is damaged may look like anything.
        found = hashlib.file_digest(stream, lambda: _begin_digest(path))
        if found.digest() != digest:
            return None
        stream.seek(DIGEST_BYTES)
        with _PARSING, np.load(stream, allow_pickle=False) as part:
            return dict(part)


def _begin_digest(path: Path) -> "hashlib._Hash":
    # With its name: the part of another shard under this one's would fit its own hash.
    return hashlib.sha256(path.name.encode())
