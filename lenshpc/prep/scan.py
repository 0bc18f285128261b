"""List the source files of a dataset as rows; refuse a layout that is not the declared one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import pyarrow as pa

from lenshpc.errors import DataError, read_error
from lenshpc.prep import catalogue
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import collecting, refusal
from lenshpc.prep.folders import (
    ImageFolder,
    ScanFindings,
    escape_name,
    list_entries,
    list_folder,
    note_same_files,
    note_strangers,
    pair_files,
)
from lenshpc.prep.labelling import SplitName
from lenshpc.prep.labels import list_stack_rows
from lenshpc.prep.mosaics import MosaicObjects, list_cutouts
from lenshpc.prep.rows import TEXT, file_rows, join_rows, stack_rows
from lenshpc.prep.rules import check_classes, check_groups, group_rows, hold_out, tell_parted
from lenshpc.prep.stacks import count_rows
from lenshpc.store.layout import UNLABELLED

_Place = tuple[SplitName, int, str]  # split, label and folder of some images


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


def scan(root: Path, dataset: Dataset) -> ScannedRows:
    """Return every source under `root`; of stacks, only headers are read."""
    try:
        findings = ScanFindings()
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


def _list_sources(root: Path, dataset: Dataset, findings: ScanFindings) -> pa.Table:
    """Return the rows, without groups but those of stacks' arrays."""
    if not root.is_dir():
        raise DataError(f"no source folder at {root}; give the folder that holds the images")
    if dataset.stacks:
        return list_stack_rows(root, dataset, findings)
    places = _list_places(root, dataset, findings)
    listed = [
        list_folder(root, folder, dataset.image, dataset.tables, findings) for *_, folder in places
    ]
    note_same_files(root, listed, findings)
    partners = [
        _find_partners(root, dataset, split, images, findings)
        for (split, *_), images in zip(places, listed, strict=True)
    ]
    stacks = dataset.image.is_stack
    counts = _count_rows(root, dataset, listed, partners, findings) if stacks else {}
    if findings.defects:
        raise refusal(sorted(findings.defects, key=attrgetter("path")))
    found = zip(places, listed, partners, strict=True)
    return join_rows([table for one in found for table in _rows(*one, counts)])


def _list_places(root: Path, dataset: Dataset, findings: ScanFindings) -> list[_Place]:
    """Return split, label and folder of all images that lie in folders."""
    if dataset.folder:
        if not (root / dataset.folder).is_dir():
            raise _unknown_layout(root, dataset, [dataset.folder])
        return [("train", 0 if len(dataset.classes) == 1 else UNLABELLED, dataset.folder)]
    splits = _present_splits(root, dataset)
    known = {folder for split in dataset.splits for folder in dataset.folders(split)}
    note_strangers(root, known | dataset.tables, dataset.image, dataset.name, findings)
    return [
        (split, label, folder)
        for split in splits
        for label, folder in dataset.labels(split).items()
    ]


def _find_partners(
    root: Path, dataset: Dataset, split: SplitName, images: ImageFolder, findings: ScanFindings
) -> list[str]:
    """Return the file of each image's target, "" where there are no pairs."""
    if dataset.target is None:
        return [""] * len(images.names)
    folder = dataset.target.folders[split]
    targets = list_folder(root, folder, dataset.target, dataset.tables, findings)
    return pair_files(root, images, targets, findings)


def _count_rows(
    root: Path,
    dataset: Dataset,
    listed: Sequence[ImageFolder],
    partners: Sequence[Sequence[str]],
    findings: ScanFindings,
) -> dict[str, int]:
    """Return the number of images in each stack."""
    counts = {}
    for images, targets in zip(listed, partners, strict=True):
        for file, partner in zip(images.paths, targets, strict=True):
            with collecting(findings.defects, file):
                counts[file] = count_rows(f"{root}/{file}", dataset.image)
            if partner and dataset.target and file in counts:
                with collecting(findings.defects, partner):
                    num_targets = count_rows(f"{root}/{partner}", dataset.target)
                    _check_equal(root, file, counts[file], partner, num_targets)
    return counts


def _check_equal(root: Path, file: str, num_rows: int, partner: str, num_targets: int) -> None:
    if num_targets != num_rows:
        raise DataError(
            f"{root}/{file} has {num_rows} rows, {partner} has {num_targets}; a pair needs "
            "equal numbers: correct one of them",
            cause="unequal pair",
        )


def _rows(
    place: _Place, images: ImageFolder, partners: Sequence[str], counts: Mapping[str, int]
) -> Iterator[pa.Table]:
    """Yield the rows of a folder."""
    split, label, _ = place
    if not images.image.is_stack:
        yield file_rows(
            pa.array(images.paths, TEXT),
            pa.array(partners, TEXT) if any(partners) else None,
            ids=pa.array(images.ids, TEXT) if images.image.bands else None,
            label=label,
            split=split,
        )
        return
    for file, partner in zip(images.paths, partners, strict=True):
        yield stack_rows(file, counts[file], partner, label=label, split=split)


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
    found = sorted(escape_name(entry.name) for entry in list_entries(root)) or ["nothing"]
    more = ", …" if len(found) > 8 else ""
    return DataError(
        f"{root} is not laid out as {dataset.name}: {missing[0]}/ is missing; expected "
        f"{', '.join(expected)}; found {', '.join(found[:8])}{more}; "
        "rename the folders, or give the folder or DATASET that they belong to"
    )
