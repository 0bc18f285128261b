"""What makes a member complete: its mark, the files that the mark lists, and the way to mend it."""

import shlex
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lenshpc.files import read_json, sha256, write_json
from lenshpc.run.paths import RUNS, MemberPaths, RunPaths
from lenshpc.run.plan import Member, Plan


def mark_done(
    paths: MemberPaths, fingerprint: str, files: Iterable[Path], facts: dict[str, Any]
) -> None:
    """Write the mark that a member is complete, with the hashes of its outputs."""
    hashes = {str(path.relative_to(paths.root)): sha256(path) for path in files}
    # Last of all files of a member, when the others are flushed and in place: this one says that
    # they are.
    write_json(paths.done, {"fingerprint": fingerprint, "files": hashes, **facts})


def is_done(paths: MemberPaths, fingerprint: str, *, verify: bool = False) -> bool:
    """Say whether a member's outputs are all there; `verify` also compares their hashes."""
    return find_lack(paths, fingerprint, verify=verify) is None


def find_lack(paths: MemberPaths, fingerprint: str, *, verify: bool = False) -> str | None:
    """Return what a member lacks, as the rest of a sentence about it; None when it is done."""
    return read_done(paths, fingerprint, verify=verify)[1]


def read_done(
    paths: MemberPaths, fingerprint: str, *, verify: bool = False
) -> tuple[dict[str, Any], str | None]:
    """Return the facts in a member's mark, and what the member lacks; None when it is done."""
    try:
        done = read_json(paths.done)
        trained_for, files = done["fingerprint"], dict(done["files"])
        # A mark that does not list the predictions is none.
        files[paths.predictions.name]
    except FileNotFoundError:
        return {}, "has no predictions"
    # Unreadable is not done: the member is made again, rather than trusted.
    except (OSError, ValueError, KeyError, TypeError):
        return {}, f"has a {paths.done.name} that cannot be read"
    if trained_for != fingerprint:
        other = f"{str(trained_for)[:8]}, not {fingerprint[:8]}"
        return {}, f"was trained for another Plan ({other})"
    for name, digest in files.items():
        if not (paths.root / name).is_file():
            return done, f"has lost its {name}"
        if verify and sha256(paths.root / name) != digest:
            return done, f"has a {name} that was altered after it finished"
    return done, None


def missing_members(run: RunPaths, plan: Plan, *, verify: bool = True) -> dict[Member, str]:
    """Return the members that are not done, each with what it lacks."""
    fingerprint = plan.fingerprint()

    def lack(member: Member) -> str | None:
        return find_lack(run.member(member.name), fingerprint, verify=verify)

    with ThreadPoolExecutor() as threads:  # hashing needs no lock of Python's
        lacks = zip(plan.members, threads.map(lack, plan.members), strict=True)
        return {member: told for member, told in lacks if told is not None}


def describe(run: RunPaths, member: Member) -> str:
    """Name a member to a reader: number, model, fold, seed and run."""
    title = f"{member.model} fold {member.fold} seed {member.seed}"
    return f"member {member.index} ({title}) of run {run.name}"


def resume_command(run: RunPaths) -> str:
    """Return the command that reruns what is not done."""
    return f"lenshpc resume {reference(run)}"


def reference(run: RunPaths) -> str:
    """Return how commands name a run: its name, or its path when it lies elsewhere than in runs/.

    Quoted for the shell.
    """
    here = (RUNS / run.name).resolve() == run.root.resolve()
    return shlex.quote(run.name if here else str(run.root))
