"""What the scheduler tells a running member: a signal sets a flag and does nothing else.

SIGUSR2 comes before the time limit, or before preemption; SIGTERM when the job is being ended:
preempted, cancelled, out of time. Training looks at the flag between its steps, saves on all ranks
together, and stops. The handlers replace submitit's, of which one requeues from within rank 0 and
the other swallows SIGTERM; they are set before torch is imported, which takes seconds.
"""

import signal
import time
from types import FrameType

from lenshpc.run.attempts import Cause
from lenshpc.run.sections import Resources

EARLY_S = 120  # SLURM signals up to 60 s early, and modules are loaded before the clock starts


class Signals:
    """The last signal that this process got, and its clock."""

    def __init__(self) -> None:
        self.received = 0
        self._began = time.monotonic()
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        # Only a flag: a handler runs between any two instructions, also within a collective call or
        # a write, where saving would corrupt or hang.
        self.received = number

    @property
    def running_s(self) -> float:
        """Return the seconds since the process began."""
        return time.monotonic() - self._began


def cause(number: int, running_s: float, resources: Resources) -> Cause:
    """Return why a process that has run so long was signalled.

    Preemption sends the same signals as the time limit: the clock tells them apart.
    """
    before_end_s = resources.signal_delay_s + EARLY_S
    is_late = running_s >= resources.time_min * 60 - before_end_s
    return "timeout" if is_late and number == signal.SIGUSR2 else "preemption"


class Stopped(Exception):  # noqa: N818 (not an error: all is saved)
    """A member stopped because it was told to; `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; all is saved")
        self.number = number
