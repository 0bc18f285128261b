"""Processes of one job on this machine end together, as those of an srun step do."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

CONTROLLER = """
import sys
from pathlib import Path
from lenshpc.launch import controller
controller.GRACE_S = 0.5
controller.Controller(Path(sys.argv[1])).run()
"""
# Rank 1 ends at once with a code, rank 0 after as many seconds.
RANK = """
import os, sys, time
if os.environ["SUBMITIT_LOCAL_GLOBALID"] == "1":
    sys.exit(int(sys.argv[1]))
time.sleep(float(sys.argv[2]))
print("came to its end")
"""


@pytest.mark.parametrize(
    ("code", "seconds", "ends"),
    [
        (1, 3600, False),
        (-9 % 256, 3600, False),
        (os.EX_TEMPFAIL, 2, True),  # told to stop, and saved: the other one does too
        (0, 2, True),
    ],
)
def test_rank_that_fails_takes_the_others_along(
    tmp_path: Path, code: int, seconds: float, ends: bool
) -> None:
    command = shlex.join([sys.executable, "-S", "-c", RANK, str(code), str(seconds)])
    variables = {
        "SUBMITIT_LOCAL_NTASKS": "2",
        "SUBMITIT_LOCAL_COMMAND": command,
        "SUBMITIT_LOCAL_TIMEOUT_S": "0",
        "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "0",
        "SUBMITIT_LOCAL_WITH_SHELL": "",
        "SUBMITIT_STDERR_TO_STDOUT": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(tmp_path)], env={**os.environ, **variables}
    ) as started:
        assert started.wait(timeout=120) == 0
    log = (tmp_path / f"{started.pid}_0_log.out").read_text()
    assert log.endswith("came to its end\n") is ends
