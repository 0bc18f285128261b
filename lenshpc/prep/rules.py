"""Which group and split a row is of, and the order of the rows: by hashes of ids and groups."""

import hashlib
import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.rows import TEXT, set_columns, text_buffers
from lenshpc.store.layout import SPLITS

_BLOCK_ROWS = 2**16  # so many texts are Python objects at a time
_NUM_SHOWN = 3


def group_rows(table: pa.Table, dataset: Dataset) -> pa.Table:
    """Return the rows with their `group`: what is given, else by the rule of the dataset."""
    if "group" not in table.column_names:
        return set_columns(table, {"group": _own_groups(table["id"], dataset)})
    given = table["group"].combine_chunks()
    if not given.null_count:
        return table
    if given.null_count == len(given):
        return set_columns(table, {"group": _own_groups(table["id"], dataset)})
    own = _own_groups(table["id"].filter(given.is_null()), dataset).combine_chunks()
    return set_columns(table, {"group": pc.replace_with_mask(given, given.is_null(), own)})


def hold_out(table: pa.Table, dataset: Dataset) -> pa.Table:
    """Return the rows with a part of one split in another, whole groups of it."""
    rule = dataset.holdout
    if rule is None:
        return table
    splits = table["split"].to_numpy().copy()
    num = int(np.count_nonzero(splits == SPLITS.index(rule.target)))
    if num:
        raise DataError(
            f"{num} images are already in {rule.target}, which `holdout` would make from "
            f"{rule.source}; remove `holdout` from the dataset file, or correct the splits"
        )
    # Of the group and nothing else: with a seed or a count in it, adding images would move old
    # ones from training to test.
    if _is_own(table):
        draws = hash_texts(table["group"])
    else:
        groups = table["group"].combine_chunks().dictionary_encode()
        draws = hash_texts(pa.chunked_array([groups.dictionary]))[groups.indices.to_numpy()]
    is_held = draws / 2.0**64 < rule.fraction
    splits[is_held & (splits == SPLITS.index(rule.source))] = SPLITS.index(rule.target)
    return set_columns(table, {"split": pa.array(splits)})


def order_rows(table: pa.Table, seed: int) -> NDArray[np.uint32]:
    """Return the rows' places, split by split, each in a permutation fixed by `seed` and the ids.

    A hash gives it rather than a random generator, whose stream may change with numpy's version.
    """
    keys = hash_texts(table["id"], f"{seed}/".encode())
    # The split before all bits of the hash but two, which count again where the others are equal.
    keys >>= np.uint64(2)
    keys |= table["split"].to_numpy().astype(np.uint64) << np.uint64(62)
    order = np.argsort(keys).astype(np.uint32)
    _order_equals(order, keys, table["id"], seed)
    return order


def hash_texts(texts: pa.ChunkedArray, prefix: bytes = b"") -> NDArray[np.uint64]:
    """Return the number that the first 8 bytes are of the SHA-256 of each text, after a prefix."""
    found = np.empty(len(texts), np.uint64)
    done = 0
    for block in _blocks(texts):
        digests = [hashlib.sha256(prefix + text).digest()[:8] for text in _encode(block)]
        found[done : done + len(block)] = np.frombuffer(b"".join(digests), ">u8")
        done += len(block)
    return found


def check_classes(table: pa.Table, dataset: Dataset) -> None:
    """Raise where a split lacks one of the classes, as after a holdout of a tiny set."""
    kinds = table.group_by(["split", "label"]).aggregate([])
    present = set(zip(kinds["split"].to_pylist(), kinds["label"].to_pylist(), strict=True))
    for split, name in enumerate(SPLITS[:3]):
        missing = [c.name for i, c in enumerate(dataset.classes) if (split, i) not in present]
        if missing and (name == "train" or len(missing) < len(dataset.classes)):
            if dataset.holdout:
                raise DataError(
                    f"the holdout of {dataset.name} leaves no {missing[0]} in {name}; the set is "
                    "too small: add images, or remove `holdout` from the dataset file"
                )
            raise DataError(
                f"{dataset.name} has no {missing[0]} in {name}; train needs images of each class, "
                "another split of each or of none: correct labels or splits, or add images"
            )


def check_groups(table: pa.Table, dataset: Dataset) -> tuple[str, ...]:
    """Return what is to be told of groups that hold too much; raise where one holds all rows."""
    if _is_own(table) or table.num_rows < 2:
        return ()
    groups = table["group"].combine_chunks().dictionary_encode()
    codes, splits, labels = (
        values.to_numpy() for values in (groups.indices, table["split"], table["label"])
    )
    if len(groups.dictionary) == 1:
        name = groups.dictionary[0].as_py()
        raise DataError(
            f"all {table.num_rows} images are in one group, {name!r}, and a group is never "
            "divided among splits or folds; correct `group` in the dataset file"
        )
    single = []
    for split in np.unique(splits).tolist():
        for label, entry in enumerate(dataset.classes):
            some = codes[(splits == split) & (labels == label)]
            if len(some) > 1 and some.min() == some.max():
                single.append((SPLITS[split], entry.name, groups.dictionary[some[0]].as_py()))
    return tuple(
        f"warning: all images of {name} in {split} are of one group, {group!r}, and count as one: "
        "correct `group` in the dataset file if they are independent"
        for split, name, group in single
    )


def tell_parted(table: pa.Table) -> tuple[str, ...]:
    """Return a line where groups have images in test and in training: no run takes such a test."""
    if _is_own(table):
        return ()
    labelled = table.filter(pc.not_equal(table["split"], SPLITS.index("unlabelled")))
    tests = pc.equal(labelled["split"], SPLITS.index("test"))
    ends = set_columns(labelled.select(["group"]), {"tests": tests}).group_by("group")
    ends = ends.aggregate([("tests", "min"), ("tests", "max")])
    parted = ends.filter(pc.not_equal(ends["tests_min"], ends["tests_max"]))
    if not parted.num_rows:
        return ()
    shown = ", ".join(sorted(parted["group"].slice(0, _NUM_SHOWN).to_pylist()))
    return (
        f"warning: {parted.num_rows} groups have images in test and in other splits, such as "
        f"{shown}, so no run takes this test split; correct the splits, or the groups",
    )


def _own_groups(ids: pa.ChunkedArray, dataset: Dataset) -> pa.ChunkedArray:
    return ids if dataset.group == "id" else _match_groups(ids, dataset.group)


def _is_own(table: pa.Table) -> bool:
    """Tell whether each image is its own group: the columns are then one buffer."""
    group, own = (table[name].chunk(0).buffers()[2] for name in ("group", "id"))
    return bool(group and own and group.address == own.address)


def _match_groups(ids: pa.ChunkedArray, expression: str) -> pa.ChunkedArray:
    search = re.compile(expression).search
    groups, missed = [], 0
    shown: list[str] = []
    for block in _blocks(ids):
        texts = block.to_pylist()
        found = [match and match[1] for match in map(search, texts)]
        if not all(found):
            lost = [text for text, group in zip(texts, found, strict=True) if not group]
            missed += len(lost)
            shown += lost[: _NUM_SHOWN - len(shown)]
        groups.append(pa.array(found, TEXT))
    if missed:
        raise DataError(
            f"{missed} images, such as {', '.join(shown)}, do not match the group expression "
            f"{expression!r}; rename the files or correct `group` in the dataset file"
        )
    return pa.chunked_array([pa.concat_arrays(groups)])


def _order_equals(
    order: NDArray[np.uint32], keys: NDArray[np.uint64], ids: pa.ChunkedArray, seed: int
) -> None:
    """Put rows whose keys are equal, one pair in 2^62, in the order of their whole hashes."""
    for start in range(1, len(order), _BLOCK_ROWS):
        some = keys[order[start - 1 : start + _BLOCK_ROWS]]
        for place in (start + np.flatnonzero(some[1:] == some[:-1])).tolist():
            run = order[place - 1 : place + 1]
            texts = [f"{seed}/{identifier}" for identifier in ids.take(pa.array(run)).to_pylist()]
            whole = [hashlib.sha256(text.encode()).digest() for text in texts]
            run[:] = run[np.argsort(np.array(whole, "S32"), kind="stable")]


def _blocks(texts: pa.ChunkedArray) -> Iterator[pa.Array]:
    for chunk in texts.chunks:
        for start in range(0, len(chunk), _BLOCK_ROWS):
            yield chunk.slice(start, _BLOCK_ROWS)


def _encode(texts: pa.Array) -> list[bytes]:
    """Return texts as UTF-8, from their buffer."""
    ends, content = text_buffers(texts)
    data = content.tobytes()
    return [data[start:end] for start, end in pairwise((ends - ends[0]).tolist())]
