"""Which attempt at a member may write its files: the latest, named in the member's file `owner`.

One on a node that was given up for lost may live on beside the next: it looks before it writes, and
stops.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lenshpc.engine import distributed
from lenshpc.files import read_bytes, write_text


class Superseded(Exception):  # noqa: N818 (not an error: the other one does the work)
    """A later attempt has taken the member over; nothing was written since."""


@dataclass(frozen=True)
class Lease:
    """What an attempt does with the file: `attempt` is a name that no other one has."""

    owner: Path
    attempt: str

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Take the member over from an earlier attempt; all ranks enter this.

        What goes wrong inside counts for nothing once a later attempt has taken it over.
        """
        if distributed.rank() == 0:
            # One whole-file rename: an older attempt reads the old name or the new one. The barrier
            # keeps other ranks from writing before the member is ours.
            write_text(self.owner, self.attempt)
        distributed.barrier()
        try:
            yield
        except Exception:
            # When rank 0 of a superseded attempt leaves, the others fail in a collective call; this
            # makes that the same quiet end, instead of an error that would be requeued.
            self.check()
            raise

    def check(self) -> None:
        """Raise Superseded where a later attempt has taken the member over."""
        # Read anew each time, never kept: what it asks is whether somebody wrote it since.
        owner = read_bytes(self.owner).decode()
        if owner != self.attempt:
            raise Superseded(f"attempt {owner} has taken over from {self.attempt}")
