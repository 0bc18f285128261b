"""List the images in folders; whatever lies there and cannot be used is collected, not raised."""

import os
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.bands import image_file, join_path, list_objects, warn_of_suffixes
from lenshpc.prep.defects import Defect, collecting
from lenshpc.prep.formats import ImageFormat


@dataclass(frozen=True)
class ScanFindings:
    """What a scan finds beside images: lines for the user, and what cannot be used."""

    told: list[str] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)

    def add(self, path: str, cause: str, message: str) -> None:
        """Note that what lies at `path`, under SOURCE, cannot be used."""
        self.defects.append(Defect(path=escape_name(path), cause=cause, error=message))


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The images of a folder: sorted `names` of files, or of objects that have several.

    `files` are all paths there, and `inodes` (n,2) tell each from others by device and number.
    """

    folder: str
    image: ImageFormat
    names: list[str]
    files: list[str]
    inodes: NDArray[np.uint64]

    @property
    def paths(self) -> list[str]:
        """Return the path under SOURCE of each image's file; of several, {band} is left in it."""
        return [image_file(self.folder, name, self.image) for name in self.names]

    @property
    def ids(self) -> list[str]:
        """Return the path under SOURCE that each image is called by."""
        return [join_path(self.folder, name) for name in self.names]


def list_folder(
    root: Path, folder: str, image: ImageFormat, tables: Collection[str], findings: ScanFindings
) -> ImageFolder:
    """Return the images in a folder of `root`, where `tables` may lie beside them."""
    names: list[str] = []
    files: list[str] = []
    inodes = array("Q")
    device, before = (root / folder).stat().st_dev, len(findings.defects)
    for name, entry in _walk(root / folder, image):
        path = join_path(folder, name)
        if path in tables:
            continue
        try:
            is_image = _is_image(folder, entry, image)
        except DataError as error:
            # An image all the same: its partner is not to be told as one without.
            is_image = entry.name.lower().endswith(image.suffixes)
            findings.add(path, error.cause, str(error))
        else:
            if is_image and not _is_broken(entry):
                # A listing tells the number of a file; only a link must be followed for it.
                found = entry.stat() if entry.is_symlink() else None
                inodes.extend((found.st_dev, found.st_ino) if found else (device, entry.inode()))
                files.append(name)
        if is_image:
            names.append(name)
    if not names and len(findings.defects) == before:
        findings.add(folder, "no images", str(_absence(root / folder, image)))
    if image.bands and names:
        names = _join_bands(folder, names, image, findings)
    names.sort()
    _note_odd_names(folder, names, image, findings)
    findings.told.extend(warn_of_suffixes(folder, names, image))
    keys = (
        np.frombuffer(inodes, np.uint64).reshape(-1, 2) if inodes else np.empty((0, 2), np.uint64)
    )
    return ImageFolder(folder=folder, image=image, names=names, files=files, inodes=keys)


def note_same_files(root: Path, folders: Sequence[ImageFolder], findings: ScanFindings) -> None:
    """Note files that stand twice, by links: each would be two images, in two classes even."""
    keys = np.concatenate([folder.inodes for folder in folders])
    starts = np.cumsum([0, *(len(folder.files) for folder in folders)])
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    is_new = np.ones(len(order) + 1, bool)
    is_new[1:-1] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    bounds = np.flatnonzero(is_new)
    for run in np.flatnonzero(np.diff(bounds) > 1).tolist():
        held = []
        for place in order[bounds[run] : bounds[run + 1]].tolist():
            number = int(np.searchsorted(starts, place, "right")) - 1
            folder = folders[number]
            held.append((number, join_path(folder.folder, folder.files[place - starts[number]])))
        (_, first), *others = sorted(held)
        for _, name in others:
            if (root / first).samefile(root / name):
                told = (
                    f"{escape_name(f'{root}/{name}')} and {escape_name(first)} are one file, by a"
                )
                told += " link; each image may stand once: move one of them away"
                findings.add(name, "the same file", told)


def pair_files(
    root: Path, images: ImageFolder, targets: ImageFolder, findings: ScanFindings
) -> list[str]:
    """Return the file of the target of each image: pairs are files of one name."""
    found, others = (_by_pair_name(side, findings) for side in (images, targets))
    for side, mine, theirs, there in (
        (images, found, others, targets.folder),
        (targets, others, found, images.folder),
    ):
        for pair in mine.keys() - theirs.keys():
            told = f"{root / side.folder / mine[pair]} has no partner in {there}/; pairs are files "
            told += "of one name: add the other, or move it away"
            findings.add(join_path(side.folder, mine[pair]), "no partner", told)
    partners = {name: others.get(pair) for pair, name in found.items()}
    return [
        image_file(targets.folder, name, targets.image) if name else ""
        for name in map(partners.get, images.names)
    ]


def note_strangers(
    root: Path, known: Collection[str], image: ImageFormat, dataset: str, findings: ScanFindings
) -> None:
    """Note folders and images beside those that are known: they would be left out in silence."""
    parents = {str(parent) for folder in known for parent in PurePosixPath(folder).parents}
    expected = {*known, *parents}
    # A folder of images is looked at as such; tables may lie in it.
    for level in sorted(level for level in parents - {*known} if (root / level).is_dir()):
        for entry in list_entries(root / level):
            inner = str(PurePosixPath(level) / entry.name)
            is_image = entry.name.lower().endswith(image.suffixes)
            if inner not in expected and (is_folder(entry) or is_image):
                told = f"{escape_name(f'{root}/{inner}')} is not part of {dataset} "
                told += f"({', '.join(sorted(known))}); move it away, or declare it in the dataset "
                findings.add(inner, "unexpected", f"{told}file")


def list_entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what `folder` holds; hidden files (.DS_Store, ._1.npy) do not count."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether it is a folder, or a link to one."""
    # A link that leads to itself makes DirEntry.is_dir raise; os.path.isdir says no.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def escape_name(name: str) -> str:
    """Return a name as it is, or escaped where it would break the line."""
    return name if name.isprintable() else ascii(name)


def _walk(
    folder: Path, image: ImageFormat, inner: str = ""
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield what lies in a folder of images, with its path there; bands may have folders in it."""
    levels = image.bands.count("/") if image.bands else 0
    for entry in list_entries(folder / inner):
        if inner.count("/") < levels and is_folder(entry):
            yield from _walk(folder, image, f"{inner}{entry.name}/")
        else:
            yield f"{inner}{entry.name}", entry


def _is_image(folder: str, entry: os.DirEntry[str], image: ImageFormat) -> bool:
    """Tell an image from a file that may lie beside some; raise on all else."""
    is_file = _is_file(entry)
    if is_file and entry.name.lower().endswith(image.suffixes):
        return True
    if is_file and folder == ".":
        return False  # beside images as beside folders: truth.csv, a readme
    raise DataError(
        f"unexpected {escape_name(entry.path)}; {folder}/ may hold only "
        f"{' '.join(image.suffixes)} files; move it away",
        cause="unexpected",
    )


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether it is a regular file, or a link that leads to one, or nowhere."""
    return _is_broken(entry) or entry.is_file()  # which raises for a link that leads to itself


def _is_broken(entry: os.DirEntry[str]) -> bool:
    """Tell whether it is a link that leads nowhere; reading says so, beside all else."""
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110 - raises nothing


def _absence(folder: Path, image: ImageFormat) -> DataError:
    return DataError(
        f"{folder} holds no {' '.join(image.suffixes)} files; "
        "every class needs images: put them there, or move all folders of the split away"
    )


def _join_bands(
    folder: str, names: list[str], image: ImageFormat, findings: ScanFindings
) -> list[str]:
    """Return the objects that files are bands of."""
    with collecting(findings.defects, folder):
        objects = list_objects(folder, names, image)
        findings.told.extend(objects.told)
        findings.defects.extend(objects.defects)
        return objects.names
    return []


def _note_odd_names(
    folder: str, names: Sequence[str], image: ImageFormat, findings: ScanFindings
) -> None:
    """Note names that are one row to a reader: 1.npy, 1.NPY, or 1.jpg beside 1.jpeg."""
    for name in names:
        if not name.isprintable():  # newlines, and bytes that are not UTF-8
            told = f"cannot use the file name {f'{folder}/{name}'!a}; rename it"
            findings.add(join_path(folder, name), "odd name", told)
    stems = [image.stem(name).casefold() for name in names]
    if len(set(stems)) == len(names):
        return
    seen: dict[str, str] = {}
    for stem, name in zip(stems, names, strict=True):
        _note_twins(folder, seen.setdefault(stem, name), name, findings)


def _note_twins(folder: str, first: str, name: str, findings: ScanFindings) -> None:
    if first != name:
        told = f"duplicated id: {folder}/{first} and {folder}/{name}; rename one of them"
        findings.add(join_path(folder, name), "duplicated id", told)


def _by_pair_name(side: ImageFolder, findings: ScanFindings) -> dict[str, str]:
    """Return the name that the files of a pair share → name: 7 for LR/LR_7.npy and HR/7.npy."""
    prefix = f"{PurePosixPath(side.folder).name}_"
    found: dict[str, str] = {}
    for name in side.names:
        pair = side.image.stem(name).removeprefix(prefix)
        _note_twins(side.folder, found.setdefault(pair, name), name, findings)
    return found
