"""The run's own record of the jobs that were submitted for it."""

import os
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from lenshpc.config import Frozen
from lenshpc.run.paths import RunPaths
from lenshpc.run.records import read_lines

NEVER_SENT = "never sent"


class JobRecord(Frozen):
    """One submitted job: an array of members, or an aggregation (`members` is empty).

    It is written before sbatch is called, with an empty `job_id`, and again when the id is known;
    `token` names both lines, and the batch script, by which SLURM can be asked for the id. A job
    in place of one that could not be requeued `follows` that one; its id is that of the element.
    """

    # The record may be another user's, and both reach commands and scripts.
    token: str = Field(default="", pattern=r"^[A-Za-z0-9_-]*$")
    job_id: str = Field(default="", pattern=rf"^([0-9]+(_[0-9]+)?|{NEVER_SENT})?$")
    scheduler: Literal["local", "slurm"]
    site: str
    members: tuple[int, ...]
    submitted: str
    follows: str = Field(default="", pattern=r"^([0-9]+(_[0-9]+)?)?$")

    def elements(self) -> dict[int, str]:
        """Return member → the scheduler's name of its job: `123_4`, or `123` when it is alone."""
        if len(self.members) == 1:
            return {self.members[0]: self.job_id}
        return {member: f"{self.job_id}_{place}" for place, member in enumerate(self.members)}


def record(run: RunPaths, job: JobRecord) -> None:
    """Append a job to the record."""
    with run.jobs.open("a", encoding="utf-8") as stream:
        # the line before may be half written, by a command that was killed
        stream.write(f"\n{job.model_dump_json()}\n")
        stream.flush()
        # On disk when this returns: what is done next, an sbatch, cannot be taken back.
        os.fsync(stream.fileno())


def records(run: RunPaths) -> list[JobRecord]:
    """Return the jobs of a run that have an id, oldest first."""
    return [job for job in _latest(run) if job.job_id not in {"", NEVER_SENT}]


def intents(run: RunPaths) -> list[JobRecord]:
    """Return what was about to be submitted when the command that did it was stopped."""
    return [job for job in _latest(run) if not job.job_id]


def _latest(run: RunPaths) -> list[JobRecord]:
    if run.hides_jobs:
        return []
    # The last line of a token counts: an id that comes late overrules `never sent`. A line that was
    # cut off is no loss: sbatch was not called yet.
    lines = enumerate(read_lines(JobRecord, run.jobs))
    return list({job.token or str(number): job for number, job in lines}.values())


def latest_of_members(run: RunPaths) -> dict[int, tuple[JobRecord, str]]:
    """Return member index → the record that has it last, and the scheduler's name of its job."""
    return {
        member: (job, job_id) for job in records(run) for member, job_id in job.elements().items()
    }


def now() -> str:
    """Return the time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
