"""Ask the accounting what this user may submit: accounts, and limits of user, account and QOS."""

import getpass
import re
from collections.abc import Iterator, Sequence

from lenshpc.errors import LaunchError
from lenshpc.launch import slurm
from lenshpc.launch.facts import Accounting, Limit, Record, parse_minutes
from lenshpc.launch.sites import Site

ASSOCIATION = (
    *("Account", "User", "Partition", "GrpJobs", "GrpSubmit", "MaxJobs", "MaxSubmit", "MaxWall"),
    "DefaultQOS",
)
QOS = (
    *("Name", "GrpJobs", "GrpSubmit", "MaxJobsPA", "MaxSubmitPA", "MaxJobsPU", "MaxSubmitPU"),
    "MaxWall",
)


def ask_accounting(site: Site, partition: Record) -> Accounting:
    """Return what sacct and sacctmgr tell; the reason alone where they do not answer."""
    try:
        slurm.ask(["sacct", "-X", "-n", "-P", "--format=JobID"])
        user = getpass.getuser()
        mine = parse_table(_show("assoc", f"user={user}", ASSOCIATION), ASSOCIATION)
        accounts = tuple(dict.fromkeys(row["Account"] for row in mine if row["Account"]))
        named = f"account={','.join(accounts)}"
        shared = parse_table(_show("assoc", named, ASSOCIATION), ASSOCIATION) if accounts else ()
        defaults = parse_table(_show("user", f"name={user}", ("DefaultAccount",)), ("Account",))
        qos = parse_table(_show("qos", "", QOS), QOS)
    except LaunchError as refused:
        return Accounting(error=str(refused))
    default = next((row["Account"] for row in defaults if row["Account"]), "")
    rows = [*mine, *(row for row in shared if not row["User"])]
    return Accounting(
        accounts=accounts,
        default=default,
        limits=tuple(find_limits(rows, qos, site.account or default, site.qos, partition)),
    )


def _show(what: str, which: str, columns: Sequence[str]) -> str:
    where = ["where", which] if which else []
    return slurm.ask(["sacctmgr", "-n", "-P", "show", what, *where, f"format={','.join(columns)}"])


def parse_table(text: str, columns: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Return the rows of what `sacctmgr -n -P` prints; a line of another width is no row."""
    rows = (line.rstrip("\r").split("|") for line in text.split("\n") if line.strip())
    return tuple(dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns))


def find_limits(
    rows: Sequence[Record],
    all_qos: Sequence[Record],
    account: str,
    qos: str | None,
    partition: Record,
) -> Iterator[Limit]:
    """Yield the limits that jobs of an account meet in a partition.

    `rows` are the user's associations and those of whole accounts, whose limits are shared.
    """
    place = {"", partition.get("PartitionName", "")}
    mine = [row for row in rows if row["Account"] == account and row["Partition"] in place]
    for row in mine:
        of = f"user {row['User']} in account {account}" if row["User"] else f"account {account}"
        yield from _limit(row, of)
    default = next((row["DefaultQOS"] for row in mine if row["DefaultQOS"] and row["User"]), "")
    names = {qos or default or "normal", partition.get("QoS", "N/A")}
    for row in all_qos:
        if row["Name"] in names:
            yield from _limit(row, f"QOS {row['Name']}")


def _limit(row: Record, of: str) -> Iterator[Limit]:
    jobs, submitted = (_least(row, word) for word in ("Jobs", "Submit"))
    minutes = parse_minutes(row["MaxWall"])
    if (jobs, submitted, minutes) != (None, None, None):
        yield Limit(of=of, jobs=jobs, submitted=submitted, minutes=minutes)


def _least(row: Record, word: str) -> int | None:
    """Return the smallest of the row's limits whose name has that word."""
    told = (row[name] for name in row if re.fullmatch(rf"(?:Grp|Max){word}(?:P[AU])?", name))
    return min((int(text) for text in told if re.fullmatch("[0-9]{1,9}", text)), default=None)
