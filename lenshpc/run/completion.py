"""What makes a member complete: its mark, the files that it lists, and what makes it again."""

import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lenshpc.errors import DataError, printable, read_error
from lenshpc.files import check_hash, read_checked, read_sealed, recall_sha256, sha256, write_sealed
from lenshpc.run.paths import RUNS, MemberPaths, RunPaths
from lenshpc.run.plan import Member, Plan

STRANGER = "has results of"  # what a member lacks whose folder holds another's


def mark_done(
    run: RunPaths, plan: Plan, member: Member, hashes: Mapping[Path, str], facts: dict[str, Any]
) -> None:
    """Write the mark that a member is complete: who it is, and the SHA-256 of each output."""
    paths = run.member(member.name)
    mark = {
        **member.model_dump(),
        "fingerprint": plan.member_fingerprint(member),
        "files": {str(path.relative_to(paths.root)): digest for path, digest in hashes.items()},
        **facts,
    }
    # Last of all files of a member, when the others are flushed and in place: this one says that
    # they are.
    write_sealed(paths.done, mark)


def hash_outputs(paths: MemberPaths) -> dict[Path, str]:
    """Return the SHA-256 of each file that others read of a member."""
    # A file left out here could be lost or altered, and the gate would let the member through.
    arrays = sorted(path for path in paths.arrays.rglob("*") if path.is_file())
    outputs = (paths.predictions, paths.weights, paths.metrics, *arrays)
    return {path: sha256(path) for path in outputs}


def is_done(run: RunPaths, plan: Plan, member: Member, *, verify: bool = False) -> bool:
    """Say whether a member's outputs are all there; `verify` also compares their hashes."""
    return find_lack(run, plan, member, verify=verify) is None


def find_lack(run: RunPaths, plan: Plan, member: Member, *, verify: bool = False) -> str | None:
    """Return what a member lacks, as the rest of a sentence about it; None when it is done."""
    return read_done(run, plan, member, verify=verify)[1]


def read_done(
    run: RunPaths, plan: Plan, member: Member, *, verify: bool = False
) -> tuple[dict[str, Any], str | None]:
    """Return the facts in a member's mark, and what the member lacks; None when it is done.

    DataError where the system does not hand out a file, which is no lack.
    """
    paths = run.member(member.name)
    try:
        done = read_sealed(paths.done)
        if done["fingerprint"] != plan.member_fingerprint(member):
            return {}, _describe_stranger(paths, plan, member, done)
        return done, _find_fault(paths, done["files"], verify=verify)
    except FileNotFoundError:
        return {}, "has no predictions"
    except OSError as error:
        raise read_error(error.filename or paths.done, error) from error
    # Damaged is not done: the member is made again, rather than trusted.
    except (ValueError, KeyError):
        return {}, f"has a {paths.done.name} that is damaged or was edited"


def check_folders(run: RunPaths, lacks: Mapping[Member, str]) -> None:
    """Refuse to train members anew into folders that hold whole results of others of the run."""
    for member, lack in lacks.items():
        if lack.startswith(STRANGER):
            raise DataError(
                f"{describe(run, member)} {lack}; put the folders in members/ back under their "
                "names, or move them away, then repeat the command"
            )


def _describe_stranger(paths: MemberPaths, plan: Plan, member: Member, done: dict[str, Any]) -> str:
    """Return whose results a member's folder holds, as the rest of a sentence about it."""
    other = Member.model_validate({key: done[key] for key in Member.model_fields})
    if other.name != member.name:
        title = f"member {other.index} ({printable(_title(other))})"
        return f"{STRANGER} {title} in its folder members/{paths.root.name}"
    fingerprints = f"{done['fingerprint'][:8]}, not {plan.member_fingerprint(member)[:8]}"
    return f"was trained for another Plan ({fingerprints})"


def _find_fault(paths: MemberPaths, files: Mapping[str, str], *, verify: bool) -> str | None:
    for name, digest in files.items():
        try:
            (paths.root / name).stat()
            if verify and recall_sha256(paths.root / name) != digest:
                return f"has a {name} that was altered after it finished"
        except FileNotFoundError:
            return f"has lost its {name}"
    return None


def read_output(run: RunPaths, member: Member, path: Path) -> bytes:
    """Return the bytes of one of a done member's files, which are those that it was marked with."""
    name = str(path.relative_to(run.member(member.name).root))
    return read_checked(path, hashes_of(run, member)[name])


def check_output(run: RunPaths, member: Member, path: Path) -> None:
    """Refuse one of a done member's files that is not the one that it was marked with."""
    name = str(path.relative_to(run.member(member.name).root))
    check_hash(path, hashes_of(run, member)[name])


def hashes_of(run: RunPaths, member: Member) -> dict[str, str]:
    """Return the hash of each file that a member marked itself as done with."""
    files: dict[str, str] = read_facts(run, member)["files"]
    return files


def read_facts(run: RunPaths, member: Member) -> dict[str, Any]:
    """Return the mark of a member that is done; DataError where it is another's, or altered."""
    path = run.member(member.name).done
    try:
        done = read_sealed(path)
    except OSError as error:
        raise read_error(path, error) from error
    # Again, at each reading: the gate looked once, and folders may have been moved since.
    if any(done.get(key) != value for key, value in member.model_dump().items()):
        raise DataError(
            f"{path} is not the completion mark of {describe(run, member)}; put its folder back"
        )
    return done


def missing_members(run: RunPaths, plan: Plan, *, verify: bool = True) -> dict[Member, str]:
    """Return the members that are not done, each with what it lacks."""

    def lack(member: Member) -> str | None:
        return find_lack(run, plan, member, verify=verify)

    with ThreadPoolExecutor() as threads:  # hashing needs no lock of Python's
        lacks = zip(plan.members, threads.map(lack, plan.members), strict=True)
        return {member: told for member, told in lacks if told is not None}


def describe(run: RunPaths, member: Member) -> str:
    """Name a member to a reader: number, model, fold, seed and run."""
    return f"member {member.index} ({_title(member)}) of run {run.name}"


def refusal_of(run: RunPaths, member: Member, fault: str) -> DataError:
    """Return the refusal of a member's files, with the command that makes them again."""
    # The member marked itself as done, so resuming alone would leave it as it is.
    forget = shlex.join(["rm", str(run.member(member.name).done)])
    command = f"{forget} && {resume_command(run)}"
    return DataError(f"{describe(run, member)} {fault}; rerun it with: {command}")


def _title(member: Member) -> str:
    return f"{member.model} fold {member.fold} seed {member.seed}"


def resume_command(run: RunPaths) -> str:
    """Return the command that reruns what is not done; in a study, that which goes on with it."""
    studies = [folder for folder in run.root.parents[:2] if (folder / "study.json").is_file()]
    if studies:
        return f"lenshpc tune --resume {shlex.quote(str(studies[0]))}"
    return f"lenshpc resume {reference(run)}"


def reference(run: RunPaths) -> str:
    """Return how commands name a run: its name, or its path when it lies elsewhere than in runs/.

    Quoted for the shell.
    """
    here = (RUNS / run.name).resolve() == run.root.resolve()
    return shlex.quote(run.name if here else str(run.root))
