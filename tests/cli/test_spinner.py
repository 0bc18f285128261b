"""A command that says nothing for a while shows that it works, on a terminal alone."""

import os
import pty
import subprocess
import sys

import pytest

SILENT = """
import sys, time
from lenshpc.cli.spinner import spinning
with spinning():
    time.sleep(float(sys.argv[1]))
    print("found", file=getattr(sys, sys.argv[2]))
    time.sleep(0.7)
print("end")
"""


def run_on_terminal(*words: str, term: str = "xterm") -> str:
    """Return what a script shows on a terminal."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-c", SILENT, *words]
    subprocess.run(argv, stdout=theirs, stderr=theirs, check=True, env={**os.environ, "TERM": term})
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # all is read, and nobody writes
            break
    os.close(ours)
    return shown.decode()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_spinner_turns_until_the_first_word(stream: str) -> None:
    turned, cleared, said = run_on_terminal("0.7", stream).rpartition("\r\x1b[K")
    assert turned.startswith("\r| working\r/ working")
    assert cleared
    assert said == "found\r\nend\r\n"


@pytest.mark.parametrize(("wait", "term"), [("0", "xterm"), ("0.7", "dumb")])
def test_command_that_speaks_at_once_has_no_spinner(wait: str, term: str) -> None:
    assert run_on_terminal(wait, "stdout", term=term) == "found\r\nend\r\n"


def test_pipe_has_no_spinner() -> None:
    argv = [sys.executable, "-c", SILENT, "0.7", "stderr"]
    done = subprocess.run(argv, capture_output=True, check=True, text=True)
    assert (done.stdout, done.stderr) == ("end\n", "found\n")
