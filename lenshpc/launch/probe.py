"""What `lenshpc doctor` runs on a node, as a step of a job: report what this process sees.

    python -m lenshpc.launch.probe FOLDER KIND

It reads FOLDER/token, which the login node wrote, and writes FOLDER/NODE-KIND.json.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lenshpc.files import write_json

PATIENCE_S = 30  # for a command of SLURM


def facts(folder: Path) -> dict[str, Any]:
    """Return what the step sees of its node."""
    token = folder / "token"
    return {
        "node": node(),
        "time": time.time(),
        "python": sys.version.split()[0],
        "token": token.read_text(encoding="utf-8") if token.is_file() else "",
        "cpus": len(os.sched_getaffinity(0)),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "gpu_devices": sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*")),
        "scontrol": scontrol_answers(),
        "address": address(),
    }


def node() -> str:
    """Return SLURM's name of this node."""
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())


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
    """Return the address that this node's name stands for here; nothing where it is unknown."""
    try:
        return socket.gethostbyname(node())
    except OSError:
        return ""


def main() -> None:
    """Write the report."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    write_json(folder / f"{node()}-{kind}.json", facts(folder))


if __name__ == "__main__":
    main()
