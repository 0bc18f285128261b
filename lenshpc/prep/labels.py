"""What values mean: words and numbers become labels and splits, of stacks' rows and catalogues'."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.arrays import FileArray
from lenshpc.prep.content import check_content, first_line, naming_defects
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import collecting, refusal
from lenshpc.prep.folders import ScanFindings
from lenshpc.prep.hdf5 import Hdf5Array, check_whole
from lenshpc.prep.heaps import check_heaps
from lenshpc.prep.labelling import StackFiles
from lenshpc.prep.rows import TEXT, join_rows, set_columns, stack_rows
from lenshpc.prep.stacks import count_rows, find_stacks, open_array, stand_in
from lenshpc.prep.tables import is_table, read_table
from lenshpc.prep.texts import MAX_TEXT_BYTES, digest_texts, find_repeats, to_texts
from lenshpc.store.layout import SPLITS, UNLABELLED

NUM_SHOWN = 5
UNLABELLED_SPLIT = SPLITS.index("unlabelled")


def list_stack_rows(root: Path, dataset: Dataset, findings: ScanFindings) -> pa.Table:
    """Return the rows of all stacks of a dataset, `group` null where no array says it.

    Raise where a stack cannot be used, each of which is listed, or two rows have one id.
    """
    seen: dict[tuple[int, int], str] = {}
    tables: list[pa.Table] = []
    used: set[str] = set()
    for entry in dataset.stacks:
        files = find_stacks(root, entry.file)
        if not files:
            raise _absent_stacks(root, entry.file)
        for file in files:
            with collecting(findings.defects, file):
                _refuse_same_file(root, file, seen)
                tables.append(_list_rows(root, dataset, entry, file))
            used |= {file, *list_beside(entry, file)}
    if findings.defects:
        raise refusal(findings.defects)
    table = join_rows(tables)
    if any(entry.arrays.id for entry in dataset.stacks):
        _refuse_repeated_ids(root, table["id"])
    findings.told.extend(_tell_unused(root, dataset.image.suffixes, used))
    return table


def _list_rows(root: Path, dataset: Dataset, entry: StackFiles, file: str) -> pa.Table:
    num_rows = count_rows(f"{root}/{file}", dataset.image)
    label = 0 if len(dataset.classes) == 1 else UNLABELLED
    table = stack_rows(file, num_rows, label=label, split=entry.split)
    is_grouped = any(one.arrays.group for one in dataset.stacks)
    found = {"group": pa.nulls(num_rows, TEXT)} if is_grouped else {}
    return set_columns(table, found | read_stack_rows(root, dataset, entry, file, num_rows))


def _refuse_same_file(root: Path, file: str, seen: dict[tuple[int, int], str]) -> None:
    status = (root / file).stat()
    key = status.st_dev, status.st_ino
    if key in seen:
        raise DataError(
            f"{root / file} and {seen[key]} are the same file, matched twice by `stacks`; each "
            "image may occur only once: correct the patterns in DATASET",
            cause="the same file",
        )
    seen[key] = file


def list_beside(entry: StackFiles, file: str) -> list[str]:
    """Return the files beside a stack that its arrays are in; some may be no names of files."""
    places = [place for _, place in entry.arrays if place]
    return [stand_in(file, entry.file, place.rpartition(":")[0] or place) for place in places]


def _absent_stacks(root: Path, pattern: str) -> DataError:
    folder = (root / pattern).parent
    held = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208
    names = ", ".join(ascii(name) for name in held[:8]) or "nothing"
    return DataError(
        f"{root / pattern} matches no file; {folder} holds {names}; set `stacks` in DATASET"
    )


def _tell_unused(root: Path, suffixes: tuple[str, ...], used: set[str]) -> list[str]:
    """Return a line where files lie beside stacks that look like them and that no entry names."""
    folders = {file.rpartition("/")[0] for file in used}
    beside = {
        f"{folder}/{name}".lstrip("/")
        for folder in folders
        if (root / folder).is_dir()
        for name in os.listdir(root / folder)  # noqa: PTH208
        if name.lower().endswith(suffixes) and not name.startswith(".")
    }
    unused = sorted(map(ascii, beside - used))
    if not unused:
        return []
    return [f"{len(unused)} files beside the stacks are named by no key: {show_some(unused)}"]


def read_stack_rows(
    root: Path, dataset: Dataset, entry: StackFiles, file: str, num_rows: int
) -> dict[str, pa.Array]:
    """Return what a stack says of its rows, by `arrays` of the dataset file, as the scan has it.

    Rows of the split `unlabelled` need no label and get none.
    """
    places: list[str] = [what for what, place in entry.arrays if place]
    texts = {what: _read_place(root, dataset, entry, file, what, num_rows) for what in places}
    where = {what: f"{root}/{file}, stacks[].arrays.{what}" for what in places}
    found: dict[str, pa.Array] = {}
    for what in sorted({"id", "group"} & texts.keys()):
        _refuse_gaps(texts[what].is_null().to_numpy(False), where[what], what)
        found[what] = texts[what]
    splits = np.full(num_rows, SPLITS.index(entry.split), np.uint8)
    if "split" in texts:
        _refuse_gaps(texts["split"].is_null().to_numpy(False), where["split"], "split")
        splits = read_splits(dataset, texts["split"], where["split"])
        found["split"] = pa.array(splits)
    unlabelled = splits == UNLABELLED_SPLIT
    if "label" in texts:
        needed = pc.if_else(pa.array(unlabelled), pa.scalar(None, TEXT), texts["label"])
        labels = read_labels(dataset, needed, where["label"])
        _refuse_gaps((labels == UNLABELLED) & ~unlabelled, where["label"], "label")
        found["label"] = pa.array(labels)
    elif unlabelled.any():
        found["label"] = pa.array(np.where(unlabelled, UNLABELLED, 0).astype(np.int16))
    return found


def read_labels(dataset: Dataset, texts: pa.Array, where: str) -> NDArray[np.int16]:
    """Return the labels that values mean, -1 where there is none; raise on what no class has."""
    told = "set classes[].values in DATASET to the values that mean each class"
    return _look_up(texts, dataset.label_values, f"{where} has values that no class has", told)


def read_splits(dataset: Dataset, texts: pa.Array, where: str) -> NDArray[np.uint8]:
    """Return the indices of the splits that values mean; raise on what no split has."""
    words = {word: SPLITS.index(split) for word, split in dataset.split_words.items()}
    told = "set `splits` in DATASET to the values that mean each split"
    found = _look_up(texts, words, f"{where} has values that no split has", told)
    return found.astype(np.uint8)


def _refuse_gaps(gaps: NDArray[np.bool_], where: str, what: str) -> None:
    if gaps.any():
        raise DataError(
            f"{where}: {np.count_nonzero(gaps)} of {len(gaps)} rows have no {what}, the first is "
            f"row {int(gaps.argmax())}; fill them in"
        )


def _refuse_repeated_ids(root: Path, ids: pa.ChunkedArray) -> None:
    """Raise on ids of stacks' rows that stand twice, or would break a line."""
    printable = pc.utf8_is_printable(ids)
    if not pc.all(printable).as_py():
        odd = ids.filter(pc.invert(printable))[0].as_py()
        raise DataError(f"{root}: cannot use the id {odd!a}; write it without such characters")
    hashes = digest_texts(ids)
    repeats = find_repeats(ids, hashes, np.argsort(hashes))
    if repeats:
        names = show_some([f"{one!r}" for one in repeats])
        raise DataError(
            f"{root}: {names} occur more than once among the ids of stacks; each id belongs to "
            "one image: correct the arrays of ids, or leave them out of DATASET"
        )


def show_some(texts: Sequence[object], num: int | None = None) -> str:
    """Return the first few of some texts, and how many more of `num` there are."""
    more = (len(texts) if num is None else num) - NUM_SHOWN
    shown = ", ".join(str(text) for text in texts[:NUM_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def _look_up(
    texts: pa.Array, known: Mapping[str, int], what: str, remedy: str
) -> NDArray[np.int16]:
    words = texts if isinstance(texts, pa.DictionaryArray) else texts.dictionary_encode()
    places = pc.index_in(words.dictionary, value_set=pa.array(list(known), TEXT))
    # One more place at the end, of those that have no value.
    num = len(places)
    codes = pc.fill_null(words.indices, num).to_numpy()
    counts = np.bincount(codes, minlength=num + 1)[:num]
    strange = np.flatnonzero(places.is_null().to_numpy(False) & (counts > 0))
    if len(strange):
        strange = strange[np.argsort(-counts[strange], kind="stable")]
        values = words.dictionary.take(pa.array(strange[:NUM_SHOWN])).to_pylist()
        pairs = zip(values, counts[strange].tolist(), strict=False)
        shown = show_some([f"{value!r} in {count} rows" for value, count in pairs], len(strange))
        raise DataError(f"{what}: {shown}; known are {', '.join(known)}; {remedy}")
    values = np.array([*known.values(), UNLABELLED], np.int16)
    found = np.append(pc.fill_null(places, len(known)).to_numpy(), len(known))
    labels: NDArray[np.int16] = values[found[codes]]
    return labels


def _read_place(
    root: Path, dataset: Dataset, entry: StackFiles, file: str, what: str, num_rows: int
) -> pa.Array:
    """Return the values of an array of `arrays`, one a row of the stack."""
    place, key = getattr(entry.arrays, what), f"stacks[].arrays.{what}"
    name, _, field = place.rpartition(":")
    if name and is_table(name):
        path = root / stand_in(file, entry.file, name)
        texts = read_table(path, [field]).texts[field]
        _check_length(path, field, len(texts), file, num_rows)
        return texts
    name, _, field = place.partition(":")
    path, form = root / file, dataset.image.format
    if name.endswith(".npy"):
        path, form = root / stand_in(file, entry.file, name), "npy"
    elif form == "npy":
        raise DataError(
            f"{key} is {place!r}, but {path} holds one array; give a .npy file beside it, "
            "or TABLE:COLUMN"
        )
    check_content(str(path), form)
    with naming_defects(str(path)):
        array = open_array(str(path), form, name, key)
        _check_length(path, array.name, array.shape[0], file, num_rows)
        _check_values(array, field, key)
        try:
            parts = [to_texts(block.reshape(-1)) for block in array.blocks(field or None)]
        except ValueError as error:
            raise DataError(
                f"{path}: {array.name} holds {first_line(error)}; correct it, or `{key}`"
            ) from error
    return pa.concat_arrays(parts)


def _check_length(path: Path, name: str, num_values: int, file: str, num_rows: int) -> None:
    if num_values != num_rows:
        raise DataError(
            f"{path}: {name} has {num_values} rows, {file} has {num_rows} images; there must be "
            "one value per image: correct one of them"
        )


def _check_values(array: FileArray, field: str, key: str) -> None:
    """Raise unless an array has one value a row, of a kind and width that labels have."""
    fields: Any = array.dtype.fields or {}
    if field not in fields and (field or fields):
        held = ", ".join(fields) or "none"
        raise DataError(
            f"{array.path}: {array.name} has the fields {held}; set `{key}` to NAME:FIELD of one"
        )
    dtype = fields[field][0] if field else array.dtype
    if any(side != 1 for side in array.shape[1:]) or dtype.shape:
        raise DataError(
            f"{array.path}: {array.name} has {array.shape[1:] or dtype.shape} values a row, "
            f"expected one; correct it, or `{key}`"
        )
    if dtype.itemsize > 4 * MAX_TEXT_BYTES:
        raise DataError(
            f"{array.path}: {array.name} has values of {dtype.itemsize} bytes, too wide for a "
            f"{key.rpartition('.')[2]}; correct it, or `{key}`"
        )
    if isinstance(array, Hdf5Array):
        check_whole(array)
        if array.dtype.hasobject:
            check_heaps(array.path, array.dataset)
