"""How a member's job comes back: requeued, or where nodes have no scontrol, a job in its place.

The lines are shell, for the batch script on the node: Python may run in a container without SLURM.
"""

import shlex
import uuid

from lenshpc.errors import LaunchError
from lenshpc.launch.jobs import JobRecord, now, record, records
from lenshpc.launch.slurm import HANDED_ON, WITHHELD
from lenshpc.run.attempts import Event, read_events
from lenshpc.run.completion import resume_command
from lenshpc.run.paths import RunPaths

# SLURM takes excluded nodes of waiting jobs only: after the requeue
REQUEUE = """\
scontrol requeue {job} || echo {advice}
"""
AVOID = """\
scontrol update JobId={job} ExcNodeList={avoid}
"""
# the lock is that of submit and cancel; the job shall not inherit what SLURM says of this one
FOLLOW = f"""\
exec 9>>{{slurm}}/lock
command -v flock >/dev/null && flock 9
for name in $(env | sed -n 's/^\\([A-Z][A-Z0-9_]*\\)=.*/\\1/p'); do
  case $name in
    {"|".join(HANDED_ON)}) ;;
    {"|".join(WITHHELD)}) unset $name ;;
  esac
done
"""
# the id is the last line of its form, as in `parse_job_id`: a site's own words come before it
SEND = """\
id=$(sbatch --parsable {options} {slurm}/{token}.sh {pickle} |
  sed -n '/^[0-9][0-9]*\\(;.*\\)\\{{0,1\\}}[[:space:]]*$/h;${{x;p;}}')
[ -n "$id" ] || {{
  echo {advice}
  exit
}}
id=${{id%%[;[:space:]]*}}{element}
printf '\\n%s\\n' {line} | sed "s/JOB_ID/$id/" >>{slurm}/jobs.jsonl
"""


def requeue_lines(run: RunPaths, job: str, avoid: str) -> str:
    """Return the lines that requeue a job, and have it avoid nodes."""
    lines = REQUEUE + (AVOID if avoid else "")
    return lines.format(job=job, avoid=shlex.quote(avoid), advice=_advice(run))


def _advice(run: RunPaths) -> str:
    return shlex.quote(f"lenshpc: send it again with: {resume_command(run)}")


def follow_up_lines(run: RunPaths, job: str, avoid: str) -> str:
    """Return the lines that send a member's job again, and a report that waits for it too.

    Both are noted before, as `submit` does. A report that waits for the earlier job begins too
    early and fails for want of the member; the new one comes after it.
    """
    known = records(run)
    mine = next((one for one in known if job in one.elements().values()), None)
    if mine is None:
        raise LaunchError(f"job {job} is not recorded in this run; use: {resume_command(run)}")
    (member,) = (index for index, name in mine.elements().items() if name == job)
    element = job.partition("_")[2]
    options = [f"--array={element}"] * bool(element) + [f"--exclude={avoid}"] * bool(avoid)
    # Descriptor 9 stays open in sbatch, and with it the lock, as under `submit`.
    lines = [FOLLOW.format(slurm=shlex.quote(str(run.slurm)))]
    lines += [_sending(run, mine, job, (member,), shlex.join(options))]
    reports = [one for one in known if not one.members and one.scheduler == "slurm"]
    if reports:
        wait = f"--dependency=afterany:$id:{reports[-1].job_id}"
        lines += [_sending(run, reports[-1], reports[-1].job_id, (), wait)]
    return "".join(lines)


def _sending(
    run: RunPaths, before: JobRecord, follows: str, members: tuple[int, ...], options: str
) -> str:
    """Note that a job will be sent with the script of an earlier one; return the lines for it."""
    first = origin(run, before)
    token = f"lenshpc-{uuid.uuid4().hex}"
    script = f"{first.job_id.partition('_')[0]}_submission.sh"
    # A new name for the old script: no two submissions may share one, since by it a lost id is
    # found. Relative, so that a run may be moved.
    (run.slurm / f"{token}.sh").symlink_to(script)
    facts = {"token": token, "members": members, "follows": follows, "submitted": now()}
    job = before.model_copy(update={**facts, "job_id": ""})
    # Before the lines are run, as `submit` does. Without the lock, which the batch script takes:
    # until that has ended, the job itself is alive, and so the member is not sent by anybody else.
    record(run, job)
    _, mark, index = follows.partition("_")
    return SEND.format(
        options=options,
        slurm=shlex.quote(str(run.slurm)),
        token=token,
        pickle=f"{first.token}.pkl",
        element=mark + index,
        line=shlex.quote(job.model_copy(update={"job_id": "JOB_ID"}).model_dump_json()),
        advice=_advice(run),
    )


def origin(run: RunPaths, job: JobRecord) -> JobRecord:
    """Return the submission that a job, which may follow others, goes back to."""
    known = records(run)
    while job.follows:
        job = next(one for one in known if job.follows in {one.job_id, *one.elements().values()})
    return job


def earlier_events(run: RunPaths, job: str) -> list[Event]:
    """Return the events of the jobs that a job follows, as attempts of one job, oldest first."""
    follows = {name: one.follows for one in records(run) for name in one.elements().values()}
    events: list[Event] = []
    names = [follows.get(job, "")]
    while names[-1]:
        names.append(follows.get(names[-1], ""))
    for name in reversed(names[:-1]):
        start = events[-1].restart + 1 if events else 0
        events += [
            event.model_copy(update={"restart": start + event.restart})
            for event in read_events(run.attempts(name))
        ]
    return events
