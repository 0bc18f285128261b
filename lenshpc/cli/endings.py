"""How a command ends that an error stopped: a line for people, an exit code for programs."""

import errno
import os
import platform
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

from lenshpc import __version__
from lenshpc.errors import LensHpcError, one_line

FAULT_CODE = 70  # EX_SOFTWARE of sysexits.h
STOPPED_CODE = 130  # 128 and the number of SIGINT, as shells have it
# What the machine lacks, though nothing was wrong with what was asked.
FULL = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    }
)
GOES_ON = "the same command continues where it stopped"
SENDS = "submitted jobs continue, and the same command submits the rest"
AFTER_STOP = {
    "simulate": "nothing is kept, and the same command starts from the beginning",
    "prepare": GOES_ON,
    "sample": GOES_ON,
    "predict": GOES_ON,
    "aggregate": f"an earlier report stays, and {GOES_ON}",
    "submit": f"a probe leaves nothing behind; {SENDS}",
    "tune": "submitted jobs are cancelled; continue with: lenshpc tune --resume STUDY",
    "resume": SENDS,
    "cancel": "the same command cancels what is left",
    "serve": "this affects no run",
    "clean": "the same command removes what is left",
}


def describe_ending(error: BaseException, verb: str | None) -> tuple[str, int]:
    """Return the line and the exit code of a command that an error ended.

    The traceback of an error that nobody foresaw is kept in a file, which the line names.
    """
    if isinstance(error, LensHpcError):
        return one_line(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        told = AFTER_STOP.get(verb or "", "the same command starts from the beginning")
        return f"stopped; {told}", STOPPED_CODE
    if isinstance(error, MemoryError):
        return "this machine has too little memory; free some, or use another machine", 1
    if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
        what = "a file" if error.filename is None else os.fsdecode(str(error.filename))
        told = f"{what} cannot be read or written: {error.strerror}; check it, then repeat"
        return one_line(f"{told} the command"), 1 if error.errno in FULL else 2
    return _describe_fault(error), FAULT_CODE


def _describe_fault(error: BaseException) -> str:
    """Return the line of an error that is a fault of ours; its traceback goes to a file."""
    told = "".join(traceback.format_exception_only(error))
    command = shlex.join(sys.argv)
    facts = f"lenshpc {__version__}, Python {platform.python_version()}, {platform.platform()}"
    whole = "".join(traceback.format_exception(error))
    place = _keep(f"{facts}\n{command}\n{whole}")
    return one_line(
        f"{told}; this is a fault of lenshpc {__version__}, please report it with {place}"
    )


def _keep(text: str) -> str:
    """Write a text to a new file that its user alone can read; return how to call the file."""
    told = ""
    for folder in (_state_folder(), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Never a file that is there, nor through a link: the temporary folder is everybody's.
            descriptor, path = tempfile.mkstemp(prefix="lenshpc-", suffix=".log", dir=folder)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
        except OSError as error:
            told = f"this line (no file for more: {error})"
        else:
            return path
    return told


def _state_folder() -> Path:
    """Return the folder that the XDG specification gives a program for what it notes."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    return base / "lenshpc"
