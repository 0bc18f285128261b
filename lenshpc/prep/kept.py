"""Files that lenshpc keeps for itself: their SHA-256 and size tell whether they are as written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lenshpc.files import HashedFile, recall_sha256, replacing


@contextmanager
def keep_file(path: Path) -> Iterator[HashedFile]:
    """Yield a file whose bytes stand at `path`, flushed, when the block ends well."""
    with replacing(path) as temporary, HashedFile(temporary) as file:
        yield file


def state_of(file: HashedFile) -> dict[str, Any]:
    """Return size and SHA-256 of all that was written, as JSON."""
    return {"bytes": file.num_bytes, "sha256": file.sha256.hexdigest()}


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
