"""Whose a run is: code, pickles and lines of shell are taken from one's own files alone."""

import os
import pwd
import stat
from pathlib import Path

from lenshpc.errors import ConfigError, read_error
from lenshpc.run.completion import reference
from lenshpc.run.paths import RunPaths

DATA = ".zarr"  # the end of folders that hold numbers alone, and many files


def require_own(run: RunPaths) -> None:
    """Refuse to run, send or cancel anything by the files of a run that others may have written.

    What is executed of a run: the profile's lines, the pickles, the copy of the code and networks
    of a file; what is believed: the numbers of jobs and processes to be ended.
    """
    risk = find_risk(run.root)
    if risk:
        raise ConfigError(
            f"{risk}, and files in a run are executed; submit the recipe again into runs of your "
            "own, or only read this run with lenshpc status, logs and aggregate --out"
        )


def find_risk(folder: Path) -> str | None:
    """Return who else may have written in a folder, None where nobody but us and root can have."""
    try:
        return _find_risk(folder, reachable=True)
    except OSError as error:
        raise read_error(error.filename or folder, error) from error


def find_owner(run: RunPaths) -> str | None:
    """Return the name of the other user who owns a run, None where it is ours."""
    try:
        owner = run.root.stat().st_uid
    except OSError as error:
        raise read_error(run.root, error) from error
    return None if owner == os.geteuid() else name_user(owner)


def require_place(run: RunPaths) -> None:
    """Refuse to write a report into the run of another user."""
    owner = find_owner(run)
    if owner:
        raise ConfigError(
            f"run {run.name} belongs to {owner}; write its report into a folder of your own with: "
            f"lenshpc aggregate {reference(run)} --out FOLDER"
        )


def name_user(number: int) -> str:
    """Return the name of a user, or the number of one who has none here."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _find_risk(path: Path, *, reachable: bool) -> str | None:
    """Look through a folder; below one that others cannot enter, nobody but the owner writes."""
    try:
        status = path.lstat()
        # A link's own mode says nothing; what it leads to is its owner's.
        if stat.S_ISLNK(status.st_mode):
            status = path.stat()
        if status.st_uid != os.geteuid():
            return f"{path} belongs to {name_user(status.st_uid)}"
        if reachable and status.st_mode & 0o022:
            return f"{path} may be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
        if path.is_symlink() or not path.is_dir() or path.suffix == DATA:
            return None
        reachable = reachable and bool(status.st_mode & 0o011)
        risks = (_find_risk(inner, reachable=reachable) for inner in sorted(path.iterdir()))
        return next(filter(None, risks), None)
    except FileNotFoundError:  # a job that runs has renamed it since, or its pickle was cleaned
        return None
