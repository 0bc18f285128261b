"""List the source files of a dataset as rows; refuse a layout that is not the declared one."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from pathlib import Path, PurePosixPath

import pyarrow as pa

from lenshpc.errors import DataError, read_error
from lenshpc.prep import catalogue
from lenshpc.prep.bands import image_file, join_path, list_objects, warn_of_suffixes
from lenshpc.prep.content import link_error
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import Defect, refusal
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.labelling import SplitName
from lenshpc.prep.labels import list_stack_rows
from lenshpc.prep.mosaics import MosaicObjects, list_cutouts
from lenshpc.prep.rows import TEXT, file_rows, join_rows, stack_rows
from lenshpc.prep.rules import check_classes, check_groups, group_rows, hold_out, tell_parted
from lenshpc.prep.stacks import count_rows
from lenshpc.store.layout import UNLABELLED


@dataclass(frozen=True, kw_only=True)
class ScannedRows:
    """All images under a folder, and what is worth knowing of them.

    `table` has a row an image, in no promised order: `id` (its path, in a stack `file#row`),
    `label` (-1 without one), `split` (an index in `SPLITS`), `group`, `file` and `partner`, the
    target's (paths under the folder, "" without), `at` (the row in a stack, else -1), and the
    dataset's columns of numbers, NaN where they are not known. Where images are cut from mosaics,
    `file` is a stack to be made, and `mosaics` says how.
    """

    table: pa.Table
    told: tuple[str, ...] = ()
    mosaics: MosaicObjects | None = None


@dataclass(frozen=True)
class _Findings:
    """What a scan finds beside images: lines for the user, and images that cannot be used."""

    told: list[str] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)


def scan(root: Path, dataset: Dataset) -> ScannedRows:
    """Return every source under `root`; of stacks, only headers are read."""
    try:
        findings = _Findings()
        mosaics = list_cutouts(root, dataset) if dataset.mosaics else None
        table = mosaics.table if mosaics else _list_sources(root, dataset, findings)
        table, matches = catalogue.join(root, dataset, table)
    except OSError as error:
        raise read_error(error.filename or root, error) from error
    table = hold_out(group_rows(table, dataset), dataset)
    check_classes(table, dataset)
    told = (*findings.told, *matches, *check_groups(table, dataset), *tell_parted(table))
    if mosaics:
        told = (*mosaics.told, *told)
    return ScannedRows(table=table, told=told, mosaics=mosaics)


def _list_sources(root: Path, dataset: Dataset, findings: _Findings) -> pa.Table:
    """Return the rows, without groups but those of stacks' arrays."""
    if not root.is_dir():
        raise DataError(f"no source folder at {root}; give the folder that holds the images")
    if dataset.stacks:
        table, told = list_stack_rows(root, dataset)
        findings.told.extend(told)
        return table
    if dataset.folder:
        label = 0 if len(dataset.classes) == 1 else UNLABELLED
        folders: list[tuple[SplitName, int, str]] = [("train", label, dataset.folder)]
        if not (root / dataset.folder).is_dir():
            raise _unknown_layout(root, dataset, [dataset.folder])
    else:
        folders = [
            (split, label, folder)
            for split in _present_splits(root, dataset)
            for label, folder in dataset.labels(split).items()
        ]
        _refuse_strangers(root, dataset)
    _refuse_same_files(root, dataset, [folder for _, _, folder in folders])
    tables = [table for place in folders for table in _sources(root, dataset, *place, findings)]
    if findings.defects:
        raise refusal(findings.defects)
    return join_rows(tables)


def _sources(
    root: Path,
    dataset: Dataset,
    split: SplitName,
    label: int,
    folder: str,
    findings: _Findings,
) -> Iterator[pa.Table]:
    """Yield the rows of the folder of one class."""
    image = dataset.image
    names = _image_names(root, folder, image, dataset.tables, findings)
    partners = _partners(root, dataset, split, folder, names, findings)
    files = [image_file(folder, name, image) for name in names]
    paired = [partners.get(name, "") for name in names]
    if not image.is_stack:
        pairs = pa.array(paired, TEXT) if partners else None
        ids = pa.array([join_path(folder, name) for name in names], TEXT)
        yield file_rows(pa.array(files, TEXT), pairs, ids=ids, label=label, split=split)
        return
    for file, partner in zip(files, paired, strict=True):
        num_rows = _count_rows(root, file, partner, dataset)
        yield stack_rows(file, num_rows, partner, label=label, split=split)


def _count_rows(root: Path, file: str, partner: str, dataset: Dataset) -> int:
    num_rows = count_rows(f"{root}/{file}", dataset.image)
    if partner and dataset.target:
        num_targets = count_rows(f"{root}/{partner}", dataset.target)
        if num_targets != num_rows:
            raise DataError(
                f"{root}/{file} has {num_rows} rows, {partner} has {num_targets}; a pair needs "
                "equal numbers: correct one of them"
            )
    return num_rows


def _partners(
    root: Path,
    dataset: Dataset,
    split: SplitName,
    folder: str,
    names: list[str],
    findings: _Findings,
) -> dict[str, str]:
    """Return image name → the target's file; each image has one, and each target its image."""
    if dataset.target is None:
        return {}
    target = dataset.target.folders[split]
    images = _by_pair_name(folder, names, dataset.image)
    others = _image_names(root, target, dataset.target, dataset.tables, findings)
    targets = _by_pair_name(target, others, dataset.target)
    for here, there, found, other in (
        (folder, target, images, targets),
        (target, folder, targets, images),
    ):
        alone = min(found.keys() - other.keys(), default=None)
        if alone is not None:
            raise DataError(
                f"{root / here / found[alone]} has no partner in {there}/; pairs are files of one "
                "name: add the other, or move it away"
            )
    return {
        name: image_file(target, targets[pair], dataset.target) for pair, name in images.items()
    }


def _by_pair_name(folder: str, names: list[str], image: ImageFormat) -> dict[str, str]:
    """Return the name that the files of a pair share → file: 7 for LR/LR_7.npy and HR/7.npy."""
    prefix = f"{PurePosixPath(folder).name}_"
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(image.stem(name).removeprefix(prefix), name)
        if other != name:
            raise _twins(folder, other, name)
    return found


def _present_splits(root: Path, dataset: Dataset) -> list[SplitName]:
    """Return the splits that are there; one may be absent as a whole, train may not."""
    present = []
    for split in dataset.splits:
        folders = dataset.folders(split)
        missing = [name for name in folders if not (root / name).is_dir()]
        if not missing:
            present.append(split)
        elif split == "train" or len(missing) < len(folders):
            raise _unknown_layout(root, dataset, missing)
    return present


def _unknown_layout(root: Path, dataset: Dataset, missing: list[str]) -> DataError:
    expected = [folder for split in dataset.splits for folder in dataset.folders(split)] or missing
    found = sorted(escape_name(entry.name) for entry in _entries(root)) or ["nothing"]
    more = ", …" if len(found) > 8 else ""
    return DataError(
        f"{root} is not laid out as {dataset.name}: {missing[0]}/ is missing; expected "
        f"{', '.join(expected)}; found {', '.join(found[:8])}{more}; "
        "rename the folders, or give another DATASET"
    )


def _refuse_strangers(root: Path, dataset: Dataset) -> None:
    """Raise on a folder or image beside the class folders: it would be left out in silence."""
    known = {folder for split in dataset.splits for folder in dataset.folders(split)}
    parents = {str(parent) for folder in known for parent in PurePosixPath(folder).parents}
    for level in sorted(level for level in parents if (root / level).is_dir()):
        for entry in sorted(_entries(root / level), key=attrgetter("name")):
            inner = str(PurePosixPath(level) / entry.name)
            is_image = entry.name.lower().endswith(dataset.image.suffixes)
            if inner not in known | parents | dataset.tables and (_is_folder(entry) or is_image):
                raise DataError(
                    f"{escape_name(f'{root}/{inner}')} is not part of {dataset.name} "
                    f"({', '.join(sorted(known))}); move it away, or declare it in the dataset file"
                )


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what `folder` holds; hidden files (.DS_Store, ._1.npy) do not count."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads to itself makes DirEntry.is_dir raise; os.path.isdir says no.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def _refuse_same_files(root: Path, dataset: Dataset, folders: list[str]) -> None:
    """Raise on a file that stands twice, by links: it would be two images, in two classes even."""
    seen: dict[tuple[int, int], str] = {}
    for folder in folders:
        device = (root / folder).stat().st_dev
        for inner, entry in sorted(_walk(root / folder, dataset.image), key=itemgetter(0)):
            if not entry.name.lower().endswith(dataset.image.suffixes) or not _is_file(entry):
                continue
            # A listing tells the number of a file; only a link must be followed for it.
            found = entry.stat() if entry.is_symlink() else None
            key = (found.st_dev, found.st_ino) if found else (device, entry.inode())
            name = join_path(folder, inner)
            other = seen.setdefault(key, name)
            if other != name and (root / other).samefile(entry.path):
                raise DataError(
                    f"{escape_name(f'{root}/{name}')} and {escape_name(other)} are one file, "
                    "by a link; each image may stand once: move one of them away"
                )


def _walk(
    folder: Path, image: ImageFormat, inner: str = ""
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield what lies in a folder of images, with its path there; bands may have folders in it."""
    levels = image.bands.count("/") if image.bands else 0
    for entry in _entries(folder / inner):
        if inner.count("/") < levels and _is_folder(entry):
            yield from _walk(folder, image, f"{inner}{entry.name}/")
        else:
            yield f"{inner}{entry.name}", entry


def _image_names(
    root: Path, folder: str, image: ImageFormat, tables: Collection[str], findings: _Findings
) -> list[str]:
    """Return the names of the images in a folder, sorted: those of files, or of objects."""
    suffixes, names = image.suffixes, []
    for name, entry in _walk(root / folder, image):
        if join_path(folder, name) in tables:
            continue
        is_image = entry.name.lower().endswith(suffixes)
        if folder == "." and not is_image and _is_file(entry):
            continue  # beside images as beside folders: truth.csv, a readme
        if not (is_image and _is_file(entry)):
            raise DataError(
                f"unexpected {escape_name(entry.path)}; {folder}/ may hold only "
                f"{' '.join(suffixes)} files; move it away"
            )
        names.append(name)
    if not names:
        raise DataError(
            f"{root / folder} holds no {' '.join(suffixes)} files; "
            "every class needs images: put them there, or move all folders of the split away"
        )
    if image.bands:
        objects = list_objects(folder, names, image)
        names = objects.names
        findings.told.extend(objects.told)
        findings.defects.extend(objects.defects)
    names.sort()
    _refuse_odd_names(folder, names, image)
    findings.told.extend(warn_of_suffixes(folder, names, image))
    return names


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether it is a regular file, or a link to one; raise on a link that leads nowhere."""
    if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - raises nothing
        raise link_error(escape_name(entry.path))
    return entry.is_file()


def escape_name(name: str) -> str:
    """Return a name as it is, or escaped where it would break the line."""
    return name if name.isprintable() else ascii(name)


def _refuse_odd_names(folder: str, names: list[str], image: ImageFormat) -> None:
    """Raise on names that are one row to a reader: 1.npy, 1.NPY, or 1.jpg beside 1.jpeg."""
    odd = next((name for name in names if not name.isprintable()), None)
    if odd is not None:  # newlines, and bytes that are not UTF-8
        raise DataError(f"cannot use the file name {f'{folder}/{odd}'!a}; rename it")
    if len({image.stem(name).casefold() for name in names}) == len(names):
        return
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(image.stem(name).casefold(), name)
        if other != name:
            raise _twins(folder, other, name)


def _twins(folder: str, name: str, other: str) -> DataError:
    return DataError(f"duplicated id: {folder}/{name} and {folder}/{other}; rename one of them")
