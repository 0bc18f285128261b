"""The run's own record of the jobs that were submitted for it."""

import json
import os
from datetime import UTC, datetime
from typing import Literal

from lenshpc.config import Frozen
from lenshpc.paths import RunPaths


class JobRecord(Frozen):
    """One submitted job: an array of members, or an aggregation (`members` is empty)."""

    job_id: str
    scheduler: Literal["local", "slurm"]
    site: str
    members: tuple[int, ...]
    submitted: str

    def element(self, member: int) -> str:
        """Return the scheduler's name of a member's job: `123_4`, or `123` when it is alone."""
        alone = len(self.members) == 1
        return self.job_id if alone else f"{self.job_id}_{self.members.index(member)}"


def record(run: RunPaths, job: JobRecord) -> None:
    """Append a job to the record."""
    with run.jobs.open("a", encoding="utf-8") as stream:
        stream.write(job.model_dump_json() + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def records(run: RunPaths) -> list[JobRecord]:
    """Return the jobs of a run, oldest first."""
    if not run.jobs.is_file():
        return []
    lines = run.jobs.read_text(encoding="utf-8").splitlines()
    return [JobRecord.model_validate(json.loads(line)) for line in lines]


def latest_of_members(run: RunPaths) -> dict[int, JobRecord]:
    """Return member index → the job that has it last."""
    return {member: job for job in records(run) for member in job.members}


def now() -> str:
    """Return the time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
