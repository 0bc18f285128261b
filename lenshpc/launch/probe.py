"""What `lenshpc doctor` runs on a node, as a step of a job: report what this process sees.

    python -m lenshpc.launch.probe FOLDER KIND

It reads FOLDER/token, which the login node wrote, and writes FOLDER/NODE-KIND.json. A `bare` step
only counts its CPUs; the one that `asked` for them tells all.
"""

import fcntl
import importlib.util
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lenshpc.files import write_json
from lenshpc.launch import health, networks

PATIENCE_S = 30  # for a command of SLURM
DRIVER = Path("/proc/driver/nvidia/version")
UNSEEN = "another machine's lock is not seen"


def facts(folder: Path) -> dict[str, Any]:
    """Return what the step sees of its node."""
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    return {
        "time": time.time(),
        "python": sys.version.split()[0],
        "token": _read(folder / "token"),
        "cpus": num_cpus(),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "gpu_devices": devices,
        "driver": _read(DRIVER),
        "health": health.ask_tools() if devices else {},
        "torch": torch_build(),
        "scontrol": scontrol_answers(),
        "address": address(),
        "interfaces": [asdict(one) for one in networks.read_interfaces()],
        "tmpdir": tmpdir(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "lock": try_lock(folder / "lock"),
    }


def node() -> str:
    """Return SLURM's name of this node."""
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())


def num_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def scontrol_answers() -> str:
    """Return why scontrol cannot be used here; nothing where it can."""
    if shutil.which("scontrol") is None:
        return "there is no scontrol"
    command = ["scontrol", "show", "job", os.environ["SLURM_JOB_ID"]]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"scontrol did not answer within {PATIENCE_S} s"
    return done.stderr.strip() if done.returncode else ""


def address() -> str:
    """Return the address that this machine's name stands for here, as gloo takes it; or nothing."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return ""


def torch_build() -> dict[str, str]:
    """Return the version of the torch that lies here, and the CUDA it is built for.

    Read and not imported, which takes seconds and fails where a library is missing.
    """
    found = importlib.util.find_spec("torch")
    places = (found.submodule_search_locations or []) if found else []
    return health.read_torch("\n".join(_read(Path(place) / "version.py") for place in places))


def tmpdir() -> dict[str, Any]:
    """Return the folder for temporary files, its free space, and what kind of file system it is."""
    folder = Path(tempfile.gettempdir())
    mounts = (line.split() for line in _read(Path("/proc/self/mounts")).splitlines())
    kinds = {mount[1]: mount[2] for mount in mounts if len(mount) > 2}
    resolved = folder.resolve()
    places = (str(place) for place in (resolved, *resolved.parents))
    return {
        "path": str(folder),
        "free_gb": round(shutil.disk_usage(folder).free / 1e9, 1),
        "kind": next((kinds[place] for place in places if place in kinds), ""),
    }


def try_lock(path: Path) -> str:
    """Return why the doctor's own lock is not seen here; nothing where it is."""
    if not path.is_file():
        return ""  # without the folder there is more to be said than this
    try:
        with path.open("r+b") as file:  # for writing: NFS makes a lock of bytes of it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return UNSEEN


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def main() -> None:
    """Write the report."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    told = {"cpus": num_cpus()} if kind == "bare" else facts(folder)
    write_json(folder / f"{node()}-{kind}.json", told)


if __name__ == "__main__":
    main()
