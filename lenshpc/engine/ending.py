"""How a rank ends: with the others, or alone and at once where it fails.

The others may be in a collective call that waits for a rank which has failed. On CPUs they see its
connections close; on GPUs nobody tells them, and what started them ends them (srun
--kill-on-bad-exit, `launch/controller.py`). Both need the process to be gone: so it says what went
wrong, and leaves without taking down a group that others use, and without waiting for threads.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from lenshpc.engine import distributed
from lenshpc.engine.distributed import Process
from lenshpc.engine.lease import Superseded
from lenshpc.engine.loop import GivenUp
from lenshpc.engine.signals import Stopped


@contextmanager
def end_well(process: Process) -> Iterator[None]:
    """Leave the process group when the block has ended on all ranks.

    Where it fails on one of several ranks, this process ends, with exit code 1.
    """
    try:
        yield
    except Superseded:
        # Rank 0 alone may have seen it; the others see it leave, and find the same.
        if process.world_size == 1:
            distributed.stop()
        raise
    except (Stopped, GivenUp):  # on all ranks, at the same place
        distributed.stop()
        raise
    except BaseException:
        if process.world_size > 1:
            _leave(process)
        distributed.stop()
        raise
    distributed.stop()


def _leave(process: Process) -> None:
    # Each line with its rank, as torch's own: several ranks may write to one log.
    for line in traceback.format_exc().splitlines():
        sys.stderr.write(f"[rank{process.rank}]: {line}\n")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
