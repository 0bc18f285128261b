"""An export as one .zip: the same bytes for the same files; unpacked where nobody else looks."""

import atexit
import re
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

from lenshpc.errors import ConfigError, DataError, one_line, printable, read_error

SUFFIX = ".zip"
ENCRYPTED = 1  # the flag of an entry that asks for a password
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a .zip can name
_PART = re.compile(r"[A-Za-z0-9_+@-][A-Za-z0-9_.+@-]*")  # neither empty nor hidden, nor ..


def is_packed(path: Path) -> bool:
    """Say whether a path is that of an export as one file."""
    return path.suffix == SUFFIX and path.is_file()


def require_free(place: Path) -> None:
    """Refuse to write an export where anything else lies: a file, or a folder that is not empty."""
    try:
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            return
    except OSError as error:
        raise read_error(place, error) from error
    raise ConfigError(f"{place} already exists; give a new folder or .zip, or move it away")


def pack(folder: Path, path: Path) -> None:
    """Write the files of a folder to a .zip, sorted and stored as they are."""
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _TIME)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            with archive.open(entry, "w", force_zip64=True) as out, file.open("rb") as content:
                shutil.copyfileobj(content, out)


def unpack(path: Path) -> Path:
    """Return a private folder with the files of a .zip, which is gone when the process ends.

    DataError of a file that is no .zip of ours: names that lead elsewhere, links, packed entries.
    """
    folder = Path(tempfile.mkdtemp(prefix="lenshpc-export-"))  # mode 700
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                _check_entry(path, entry)
            if len({entry.filename for entry in entries}) < len(entries):
                raise DataError(
                    f"{path} is damaged: it contains a name twice; download or copy it again"
                )
            for entry in entries:
                _write_entry(archive, entry, folder)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError) as error:
        told = one_line(error)[:80]
        raise DataError(
            f"{path} is a damaged or incomplete .zip ({told}); download or copy it again"
        ) from error
    except OSError as error:
        raise read_error(error.filename or path, error) from error
    return folder


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    mode = entry.external_attr >> 16
    # Stored alone: so nothing is larger than the file that was sent, and what grows without end is
    # told before it is written.
    plain = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & ENCRYPTED
    plain = plain and entry.file_size == entry.compress_size
    named = all(_PART.fullmatch(part) for part in entry.filename.split("/"))
    if not (plain and named and (stat.S_IFMT(mode) in {0, stat.S_IFREG})):
        raise DataError(
            f"{path} was not packed by lenshpc export: it contains {printable(entry.filename)!r}; "
            "unpack it yourself, inspect it, and give that folder"
        )


def _write_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    place = folder / entry.filename
    place.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as content, place.open("xb") as out:
        shutil.copyfileobj(content, out)
