"""Files that lenshpc keeps for itself: their SHA-256 and size tell whether they are as written."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lenshpc.files import recall_sha256, replacing


class HashedStream:
    """A binary file that is being written, and what is written to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest, self._num_bytes = stream, hashlib.sha256(), 0

    @property
    def state(self) -> dict[str, Any]:
        """Return size and SHA-256 of all that was written, as JSON."""
        return {"bytes": self._num_bytes, "sha256": self._digest.hexdigest()}

    def write(self, part: Any) -> int:
        """Write some bytes, or a contiguous array."""
        self._digest.update(part)
        self._num_bytes += memoryview(part).nbytes
        return self._stream.write(part)


@contextmanager
def keep_file(path: Path) -> Iterator[HashedStream]:
    """Yield a stream whose bytes stand at `path`, flushed, when the block ends well."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        yield HashedStream(stream)


def is_kept(path: Path, state: Any, *, by_hash: bool) -> bool:
    """Tell whether a file is as its writer's `state` has it: by its size alone, or its bytes too.

    False as well where it is absent or cannot be read: it is made again then.
    """
    try:
        if path.stat().st_size != state["bytes"]:
            return False
        return not by_hash or recall_sha256(path) == state["sha256"]
    except OSError:
        return False
