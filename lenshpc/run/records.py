"""Read what a run notes down, as typed values: JSON files, and JSON lines that a kill may cut."""

import json
from collections.abc import Callable
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lenshpc.errors import DataError, one_line, read_error
from lenshpc.files import read_bytes
from lenshpc.run.paths import RunPaths

Kind = TypeVar("Kind")
# To make one costs more than to read a short file.
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def read_record(kind: type[Kind], path: Path) -> Kind:
    """Return the value in a JSON file; DataError where it is not `kind`, or cannot be read."""
    content = _read(path)
    try:
        value: Kind = _adapter(kind).validate_json(content)
    except ValidationError as error:
        raise _damage(path, error) from error
    return value


def read_lines(kind: type[Kind], path: Path) -> list[Kind]:
    """Return the values in a file of JSON lines, which need not be there.

    A line that was cut off, by a kill of its writer, is passed over; any other is damage. Writers
    begin and end with a new line, so only after one that was cut off the next begins at once.
    """
    try:
        lines = _read(path).split(b"\n")
    except FileNotFoundError:
        return []
    adapter, found = _adapter(kind), []
    for line, after in zip_longest(lines, lines[1:]):
        try:
            found += [adapter.validate_json(line)] if line else []
        except ValidationError as error:
            if after == b"" or not _is_beginning(line):
                raise _damage(path, error) from error
    return found


def _is_beginning(line: bytes) -> bool:
    """Say whether a line can be the beginning of a JSON mapping."""
    try:
        json.loads(line.decode(errors="replace"))
    except json.JSONDecodeError as error:
        return line.startswith(b"{") and error.msg != "Extra data"
    except (ValueError, RecursionError):
        pass
    return False


def read_provenance(run: RunPaths) -> dict[str, Any]:
    """Return what is noted of a run's submissions by name, oldest first; none before the first."""
    return read_record(dict[str, Any], run.provenance) if run.provenance.exists() else {}


def _read(path: Path) -> bytes:
    """Return a file's bytes; FileNotFoundError alone is left as it is."""
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise read_error(path, error) from error


def _damage(path: Path, error: ValidationError) -> DataError:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    told = one_line(f"{where}: {first['msg']}" if where else first["msg"])
    return DataError(
        f"{path} is damaged: {told}; restore it, or move it away once no job of the run is left"
    )
