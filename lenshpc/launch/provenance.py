"""Write down where a run came from: command, host, packages, and the state of the checkout."""

import getpass
import platform
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lenshpc import __version__
from lenshpc.files import read_json, write_json
from lenshpc.launch.registry import now
from lenshpc.paths import RunPaths

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


def append(run: RunPaths, command: Sequence[str]) -> None:
    """Add a submission to the run's provenance, numbered from 1."""
    before = read_json(run.provenance) if run.provenance.is_file() else {}
    write_json(run.provenance, {**before, f"submission {len(before) + 1}": facts(command)})


def facts(command: Sequence[str]) -> dict[str, Any]:
    """Return what identifies a submission."""
    return {
        "time": now(),
        "command": shlex.join([Path(command[0]).name, *command[1:]]),
        "folder": str(Path.cwd()),
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "lenshpc": __version__,
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git_state(Path(__file__).parent),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and cleanliness of the checkout that lenshpc runs from, if it runs from one."""
    if not _git(folder, "ls-files", "errors.py"):  # installed below somebody else's checkout
        return None
    return {
        "commit": _git(folder, "rev-parse", "HEAD"),
        "clean": not _git(folder, "status", "--porcelain"),
    }


def _git(folder: Path, *arguments: str) -> str:
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
