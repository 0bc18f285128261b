"""SLURM's word on jobs, asked for once in a while, however many pages are open."""

import threading
import time
from collections.abc import Iterable

from lenshpc.launch.jobs import now
from lenshpc.launch.slurm import Known, query
from lenshpc.launch.states import Asked

SLURM_EVERY_S = 15.0
PATIENCE_S = 3.0  # that a page waits for an answer; it comes with a later one else


class Scheduler:
    """What SLURM has last said of the jobs that pages want to know of; threads may share it."""

    def __init__(self, every_s: float = SLURM_EVERY_S) -> None:
        self._every_s = every_s
        self._lock = threading.Lock()
        self._wanted: dict[str, frozenset[str]] = {}
        self._asked = Asked(job_ids=frozenset(), known=Known())
        self._next = 0.0
        self._under_way: threading.Thread | None = None
        self.told = ""  # when SLURM was last asked, ISO 8601 in UTC

    def ask(self, folder: str, job_ids: Iterable[str]) -> Asked:
        """Return the last answer, which may be too old to cover all jobs of a folder of runs.

        SLURM is asked again once the answer is old, for what all folders want, in one query.
        """
        with self._lock:
            self._wanted[folder] = frozenset(job_ids)
            is_due = time.monotonic() >= self._next and any(self._wanted.values())
            if is_due and self._under_way is None:
                # A thread of its own, that ends with the process: a silent controller may take
                # minutes, for which no page waits.
                self._under_way = threading.Thread(target=self._query, daemon=True)
                self._under_way.start()
            under_way = self._under_way
        if under_way:
            under_way.join(PATIENCE_S)
        with self._lock:
            return self._asked

    def _query(self) -> None:
        with self._lock:
            job_ids: frozenset[str] = frozenset().union(*self._wanted.values())
        began, told = time.monotonic(), now()
        try:
            asked = Asked(job_ids=job_ids, known=query(job_ids))
        except Exception as error:  # noqa: BLE001 - the thread must tell, or nobody asks again
            asked = Asked(job_ids=job_ids, known=Known(silence=str(error)))
        with self._lock:
            self._asked, self.told, self._under_way = asked, told, None
            self._next = began + self._every_s
