"""The exception tree; the command line catches `LensHpcError` once and prints its one line.

LensHpcError
 ├─ ConfigError      (ValueError)    a recipe, site profile, dataset file or option is wrong
 ├─ DataError        (ValueError)    a source folder, store or prediction file is wrong
 ├─ LaunchError      (RuntimeError)  the scheduler refused, or cannot be reached
 └─ IncompleteError  (RuntimeError)  a run lacks something that the Plan says must exist

A message says what was found, what was expected and what to do next.
"""

import os
import re
from os import PathLike

UNREADABLE = "cannot be read"  # the cause of what the system does not hand out: it may be whole


def printable(text: object) -> str:
    r"""Return a text with everything that would act on a terminal written out, such as `\x1b`.

    All that came from a file, a log or another program passes through here before it is shown:
    control characters, and marks that hide or turn around what follows them, stand as escapes.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)
    )


def printable_lines(text: object, kept: str = "\n\t") -> str:
    """Return a text printable, but with its own lines and tabs, or what else is `kept`."""
    lines = str(text).replace("\r\n", "\n")
    return re.sub(rf"[^ -~{kept}]+", lambda found: printable(found[0]), lines)


def one_line(text: object) -> str:
    """Return a text, or what an error says, printable and in one line."""
    return printable(" ".join(str(text).split()))


class LensHpcError(Exception):
    """Base of every error that a user can correct; `exit_code` is what the command returns."""

    exit_code = 2


class ConfigError(LensHpcError, ValueError):
    """A recipe, a site profile, a dataset file or a command-line option is wrong."""


class DataError(LensHpcError, ValueError):
    """A source folder, a store or a prediction file is not what it should be.

    `cause` is the kind of a fault in a few words, such as `truncated`: lists count by it.
    """

    def __init__(self, message: str, *, cause: str = "other") -> None:
        super().__init__(message)
        self.cause = cause


class LaunchError(LensHpcError, RuntimeError):
    """The scheduler refused the work or cannot be reached."""

    exit_code = 1


class IncompleteError(LensHpcError, RuntimeError):
    """A run lacks results that its Plan says must exist."""

    exit_code = 1


def absence_error(path: str | PathLike[str], elsewhere: str) -> DataError:
    """Return the error of a store that is not there; it says `elsewhere` but in our jobs.

    A job was sent while it was there, so it is the job's node that does not see it.
    """
    # Both: a notebook on a node is in a job, too, but in none of ours.
    node = os.environ.get("SLURMD_NODENAME")
    if node and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        return DataError(
            f"node {node} does not see {path}, which was there when the job was submitted; tell "
            "the site the node's name, or if no node sees it, move it to where all of them do"
        )
    return DataError(elsewhere)


def read_error(path: str | PathLike[str], error: OSError) -> DataError:
    """Return the error of a file that the system does not hand out, which is not damage.

    It never advises to remove anything: the bytes may be whole.
    """
    return DataError(
        f"{path} cannot be read: {error.strerror or error}; "
        "check its permissions and the file system, then repeat the command",
        cause=UNREADABLE,
    )
