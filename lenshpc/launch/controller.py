"""Run a job's processes on this machine, and end all of them soon after one has failed.

    python -m lenshpc.launch.controller FOLDER

srun does so with --kill-on-bad-exit. submitit's own controller waits for all of them: ranks on GPUs
would wait in a collective call for one that is gone.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.local import local

GRACE_S = 10.0  # for the others to say what they saw
POLL_S = 0.05


class Controller(local.Controller):
    """submitit's, with another way to wait."""

    def wait(self, freq: int = 0) -> Sequence[int | None]:  # noqa: ARG002 - submitit's
        """Return the exit codes once all have ended, or one has failed and the others had time."""
        deadline = math.inf
        while True:
            codes = [task.poll() for task in self.tasks]
            if None not in codes or time.monotonic() > deadline:
                return codes
            # One that was told to stop has saved, and so will the others.
            if deadline == math.inf and set(codes) - {None, 0, os.EX_TEMPFAIL}:
                deadline = time.monotonic() + GRACE_S
            time.sleep(POLL_S)


class Executor(local.LocalExecutor):
    """submitit's, with that controller."""

    def _submit_command(self, command: str) -> Any:
        count = self.parameters["tasks_per_node"]
        variables = {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_NTASKS": str(count),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            # read by submitit, and used by nobody: a member has no time limit here
            "SUBMITIT_LOCAL_TIMEOUT_S": "0",
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "0",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "lenshpc.launch.controller", str(self.folder)],
            env={**os.environ, **variables},
        )
        return local.LocalJob(self.folder, str(process.pid), list(range(count)), process)


if __name__ == "__main__":
    Controller(Path(sys.argv[1])).run()
