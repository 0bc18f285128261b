"""Networks and losses of a user's own file, ./mynet.py:MyNet; a run keeps the file by its hash."""

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from lenshpc.errors import ConfigError, DataError, one_line
from lenshpc.registry.contract import TaskSpec

DIGEST_DIGITS = 12  # of a file's SHA-256 in the name of what came from it


def file_reference(text: str) -> tuple[Path, str] | None:
    """Return path and name of `./mynet.py:MyNet`; None of any other text."""
    found = re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)", text)
    return (Path(found[1]), found[2]) if found else None


def name_in_plan(name: str, content: bytes) -> str:
    """Return what a class or function of a file is called in a Plan: MyNet@1a2b3c4d5e6f."""
    return f"{name}@{hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]}"


def is_kept_file(name: str) -> bool:
    """Say whether a name is that of something in a file, as a Plan has it."""
    return re.fullmatch(rf"[A-Za-z_]\w*@[0-9a-f]{{{DIGEST_DIGITS}}}", name) is not None


def is_from_file(name: str) -> bool:
    """Say whether a name is FILE.py:NAME, or what a Plan calls such a thing."""
    return is_kept_file(name) or file_reference(name) is not None


def path_in_run(code: Path, name: str) -> Path:
    """Return where a run keeps the file that a name comes from."""
    return code / "files" / f"{name.partition('@')[2]}.py"


def load_file(name: str, code: Path | None) -> Callable[[TaskSpec], Any]:
    """Return what a name stands for, from the folder of the code that a run keeps."""
    path = path_in_run(code or Path(), name)
    attribute, _, digest = name.partition("@")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}, which {attribute} comes from, cannot be read ({error})"
        ) from error
    if name_in_plan(attribute, content) != name:
        raise DataError(f"{path} was altered after the run was submitted; submit it again")
    module = f"lenshpc_file_{digest}"
    if module not in sys.modules:
        made = ModuleType(module)
        made.__file__ = str(path)
        sys.modules[module] = made
        try:
            # The bytes that were hashed, which whoever trusts an export has read: an import would
            # run __pycache__ beside them instead, whatever that was compiled from.
            exec(compile(content, path, "exec", dont_inherit=True), made.__dict__)  # noqa: S102
        except (Exception, SystemExit) as error:
            del sys.modules[module]
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ConfigError(
                f"{path} cannot be imported ({reason}); correct the file that it was copied from "
                "and submit again, since resume uses this copy"
            ) from error
    return cast(Callable[[TaskSpec], Any], getattr(sys.modules[module], attribute))
