"""Commands of lenshpc as a user gives them, without a GPU and with slots of their own."""

import os
import subprocess
import sys
from pathlib import Path

LENSHPC = str(Path(sys.executable).with_name("lenshpc"))
TIMEOUT_S = 600


def start(folder: Path, *arguments: str, **options) -> subprocess.Popen[str]:
    """Start a command in a folder whose runs have slots of their own."""
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [LENSHPC, *arguments],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finished(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Return exit code, output and talk of a command."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, out, err
