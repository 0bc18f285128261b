"""List the source files of a dataset, sorted; refuse a layout that is not the declared one."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset, SplitName


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One image file and the row that it becomes; `id` is its path relative to the root."""

    id: str
    label: int
    split: SplitName
    group: str


def scan(root: Path, dataset: Dataset) -> list[Source]:
    """Return every source under `root`, sorted by id."""
    if not root.is_dir():
        raise DataError(f"no source folder at {root}; give the folder that holds the images")
    splits = _present_splits(root, dataset)
    _refuse_strangers(root, dataset)
    found = [
        _source(dataset, label, split, f"{folder}/{name}")
        for split in splits
        for label, folder in enumerate(_folders(dataset, split))
        for name in _image_names(root, folder, dataset)
    ]
    _refuse_missing_classes(found, dataset)
    return sorted(found, key=lambda source: source.id)


def _source(dataset: Dataset, label: int, split: SplitName, identifier: str) -> Source:
    group = dataset.group_of(identifier)
    split = dataset.carve.applied(split, group) if dataset.carve else split
    return Source(id=identifier, label=label, split=split, group=group)


def _folders(dataset: Dataset, split: SplitName) -> list[str]:
    return [entry.folders[split] for entry in dataset.classes]


def _present_splits(root: Path, dataset: Dataset) -> list[SplitName]:
    """Return the splits that are there; one may be absent as a whole, train may not."""
    present = []
    for split in dataset.splits:
        missing = [name for name in _folders(dataset, split) if not (root / name).is_dir()]
        if not missing:
            present.append(split)
        elif split == "train" or len(missing) < len(dataset.classes):
            raise _unknown_layout(root, dataset, missing)
    return present


def _unknown_layout(root: Path, dataset: Dataset, missing: list[str]) -> DataError:
    expected = [folder for split in dataset.splits for folder in _folders(dataset, split)]
    found = sorted(entry.name for entry in _entries(root)) or ["nothing"]
    more = ", …" if len(found) > 8 else ""
    return DataError(
        f"{root} is not laid out as {dataset.name}: {missing[0]}/ is missing; expected "
        f"{', '.join(expected)}; found {', '.join(found[:8])}{more}; "
        "rename the folders, or give another DATASET"
    )


def _refuse_strangers(root: Path, dataset: Dataset) -> None:
    """Raise on a folder or image beside the class folders: it would be left out in silence."""
    known = {folder for entry in dataset.classes for folder in entry.folders.values()}
    parents = {str(parent) for folder in known for parent in PurePosixPath(folder).parents}
    for level in sorted(level for level in parents if (root / level).is_dir()):
        for entry in _entries(root / level):
            inner = str(PurePosixPath(level) / entry.name)
            if inner in known | parents or not (_is_folder(entry) or _is_image(entry, dataset)):
                continue
            raise DataError(
                f"{root / inner} is not part of {dataset.name} "
                f"({', '.join(sorted(known))}); move it away, or declare it in the dataset file"
            )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what `folder` holds, sorted; hidden files (.DS_Store, ._1.npy) do not count."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}; mend it and retry") from error
    return sorted(visible, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads to itself makes DirEntry.is_dir raise; os.path.isdir says no.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def _is_image(entry: os.DirEntry[str], dataset: Dataset) -> bool:
    return entry.name.lower().endswith(dataset.suffixes)


def _image_names(root: Path, folder: str, dataset: Dataset) -> list[str]:
    entries = _entries(root / folder)
    for entry in entries:
        if _is_folder(entry) or not _is_image(entry, dataset):
            raise DataError(
                f"unexpected {entry.path!r}; {folder}/ may hold only "
                f"{' '.join(dataset.suffixes)} files; move it away"
            )
    if not entries:
        raise DataError(
            f"{root / folder} holds no {' '.join(dataset.suffixes)} files; "
            "every class needs images: put them there, or remove the whole split"
        )
    names = [entry.name for entry in entries]
    _refuse_odd_names(folder, names)
    return names


def _refuse_odd_names(folder: str, names: Iterable[str]) -> None:
    """Raise on names that are one row to a reader: 1.npy, 1.NPY, or 1.jpg beside 1.jpeg."""
    seen: dict[str, str] = {}
    for name in names:
        if not name.isprintable():  # newlines, and bytes that are not UTF-8
            raise DataError(f"cannot use the file name {f'{folder}/{name}'!a}; rename it")
        stem = PurePosixPath(name).stem.casefold()
        if stem in seen:
            raise DataError(
                f"duplicated id: {folder}/{seen[stem]} and {folder}/{name}; "
                "remove or rename one of them"
            )
        seen[stem] = name


def _refuse_missing_classes(sources: list[Source], dataset: Dataset) -> None:
    """Raise if carving left a split without one of its classes, as it may in a tiny set."""
    for split in ("train", "val", "test"):
        labels = {source.label for source in sources if source.split == split}
        missing = [entry.name for i, entry in enumerate(dataset.classes) if i not in labels]
        if missing and (labels or split == "train"):
            raise DataError(
                f"carving splits of {dataset.name} left no {missing[0]} in {split}; "
                "the set is too small: add images, or drop `carve` from the dataset file"
            )
