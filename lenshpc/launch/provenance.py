"""Write down where a run came from: command, host, packages, code and the state of the checkout."""

import getpass
import hashlib
import platform
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lenshpc import __version__
from lenshpc.files import replacing, write_json
from lenshpc.launch.jobs import now
from lenshpc.launch.snapshot import Snapshot
from lenshpc.run.paths import RunPaths
from lenshpc.run.records import read_provenance

PACKAGE = Path(__file__).parents[1]
MAX_DIFF_BYTES = 1_000_000
PACKAGES = [
    "torch",
    "timm",
    "deepspeed",
    "submitit",
    "albumentations",
    "scikit-learn",
    "numpy",
    "zarr",
    "pandas",
    "scipy",
]


def append(run: RunPaths, command: Sequence[str], code: Snapshot) -> None:
    """Add a submission to the run's provenance, numbered from 1."""
    before = read_provenance(run)
    latest = facts(command, code.sha256) | {"git": git_state(PACKAGE, run.code)}
    write_json(run.provenance, {**before, f"submission {len(before) + 1}": latest})


def note_taken(run: RunPaths, taken: Mapping[str, str]) -> None:
    """Add to the latest submission which members of other runs it took over, by their names."""
    if taken:
        noted = read_provenance(run)
        latest = list(noted)[-1]
        write_json(run.provenance, {**noted, latest: {**noted[latest], "taken": dict(taken)}})


def facts(command: Sequence[str], code: str) -> dict[str, Any]:
    """Return what identifies a submission, but for the checkout; `code` is its code's hash."""
    return {
        "time": now(),
        "command": shlex.join([Path(command[0]).name, *command[1:]]),
        "folder": str(Path.cwd()),
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "lenshpc": __version__,
        "code": code,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def describe_changes(run: RunPaths) -> str:
    """Return which versions a run was sent with, where they differ from each other or from now's.

    Jobs run the copy of lenshpc that they were sent with, but the packages that are installed when
    they start. Empty where nothing differs, or nothing is on record.
    """
    try:
        sent = [_versions(one) for one in read_provenance(run).values()]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return ""
    here = {"lenshpc": __version__, **{name: _version(name) for name in PACKAGES}}
    changes = {name: [*(one.get(name, here[name]) for one in sent), here[name]] for name in here}
    words = [
        f"{name} {', then '.join(dict.fromkeys(told))}"
        for name, told in changes.items()
        if len(set(told)) > 1
    ]
    return f"run {run.name} has seen {'; '.join(words)}: members may differ by it" if words else ""


def _versions(facts: dict[str, Any]) -> dict[str, str]:
    told = {"lenshpc": facts["lenshpc"], **facts["packages"]}
    return {name: str(version) for name, version in told.items()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def git_state(folder: Path, diffs: Path) -> dict[str, Any] | None:
    """Return commit and changes of the checkout that `folder` is tracked in; None outside of one.

    The difference from the commit is written below `diffs`, its beginning where it is large.
    """
    # Tracked there: the commit of somebody else's checkout around an installed package would be a
    # false witness.
    if not _git(folder, "ls-files", "errors.py"):  # installed below somebody else's checkout
        return None
    diff = _git(folder, "diff", "--no-ext-diff", "--no-color", "HEAD")
    sha256 = hashlib.sha256(diff).hexdigest()
    if diff:
        diffs.mkdir(exist_ok=True)
        with replacing(diffs / f"{sha256[:16]}.diff") as temporary:
            temporary.write_bytes(diff[:MAX_DIFF_BYTES])
    return {
        "commit": _git(folder, "rev-parse", "HEAD").decode().strip(),
        "clean": not _git(folder, "status", "--porcelain"),
        "diff": {"sha256": sha256, "num_bytes": len(diff)} if diff else None,
    }


def _git(folder: Path, *arguments: str) -> bytes:
    if shutil.which("git") is None:
        return b""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""
