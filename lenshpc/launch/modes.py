"""Who may read what is written in a run: whom the umask lets. Nobody else may write it."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from lenshpc.errors import LensHpcError
from lenshpc.launch.sites import read_site
from lenshpc.run.paths import RunPaths

OTHERS_WRITE = 0o022


@contextmanager
def writing(umask: str | None = None) -> Iterator[None]:
    """Have files of this process, and of those that it starts, made for no other user to write.

    `umask`, in octal digits, says who may read them; where it is None, this process's own does.
    """
    before = os.umask(OTHERS_WRITE)
    # What others may write is executed by nobody: members, resume and cancel would refuse the run.
    os.umask(OTHERS_WRITE | (before if umask is None else int(umask, 8)))
    try:
        yield
    finally:
        os.umask(before)


def writing_in(run: RunPaths) -> AbstractContextManager[None]:
    """Return `writing` with the umask of the site that a run was sent to last, if it tells one."""
    try:
        return writing(read_site(run).umask)
    except (LensHpcError, OSError):  # sent nowhere yet, or another user's, or damaged
        return writing()
