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
from lenshpc.prep.rows import TEXT, set_columns
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
            f"{num} images are in {rule.target} already, which `holdout` is to make of "
            f"{rule.source}; drop `holdout` from the dataset file, or correct the splits"
        )
    rows = np.flatnonzero(splits == SPLITS.index(rule.source))
    # Of the group and nothing else: with a seed or a count in it, adding images would move old
    # ones from training to test.
    groups = table["group"].take(pa.array(rows))
    if not _is_own(table):
        names = groups.unique()
        draws = hash_texts(pa.chunked_array([names]))[pc.index_in(groups, names).to_numpy()]
    else:
        draws = hash_texts(groups)
    splits[rows[draws / 2.0**64 < rule.fraction]] = SPLITS.index(rule.target)
    return table.set_column(table.schema.get_field_index("split"), "split", pa.array(splits))


def order_rows(table: pa.Table, seed: int) -> NDArray[np.uint32]:
    """Return the rows' places, split by split, each in a permutation fixed by `seed` and the ids.

    A hash gives it rather than a random generator, whose stream may change with numpy's version.
    """
    keys = hash_texts(table["id"], f"{seed}/".encode())
    splits = table["split"].to_numpy()
    found = [np.flatnonzero(splits == split).astype(np.uint32) for split in np.unique(splits)]
    for rows in found:
        rows[:] = rows[np.argsort(keys[rows])]
        _order_equals(rows, keys, table["id"], seed)
    return np.concatenate(found)


def hash_texts(texts: pa.ChunkedArray, prefix: bytes = b"") -> NDArray[np.uint64]:
    """Return the number that the first 8 bytes are of the SHA-256 of each text, after a prefix."""
    found = np.empty(len(texts), ">u8")
    done = 0
    for block in _blocks(texts):
        digests = [hashlib.sha256(prefix + text).digest()[:8] for text in _encode(block)]
        found[done : done + len(block)] = np.frombuffer(b"".join(digests), ">u8")
        done += len(block)
    return found.astype(np.uint64)


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
                    "too small: add images, or drop `holdout` from the dataset file"
                )
            raise DataError(
                f"{dataset.name} has no {missing[0]} in {name}; train needs images of each class, "
                "another split of each or of none: correct labels or splits, or add images"
            )


def check_groups(table: pa.Table, dataset: Dataset) -> tuple[str, ...]:
    """Return what is to be told of groups that hold too much; raise where one holds all rows."""
    if _is_own(table) or table.num_rows < 2:
        return ()
    counts = table.group_by(["split", "label"], use_threads=False).aggregate(
        [("group", "count_distinct"), ("group", "min"), ("group", "count")]
    )
    single = [
        (SPLITS[row["split"]], dataset.classes[row["label"]].name, row["group_min"])
        for row in counts.sort_by([("split", "ascending"), ("label", "ascending")]).to_pylist()
        if row["group_count_distinct"] == 1 and row["group_count"] > 1 and row["label"] >= 0
    ]
    if len(single) == counts.num_rows and len({group for *_, group in single}) == 1:
        raise DataError(
            f"all {table.num_rows} images are of one group, {single[0][2]!r}, which never parts "
            "over splits or folds; correct `group` in the dataset file"
        )
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
    rows: NDArray[np.uint32], keys: NDArray[np.uint64], ids: pa.ChunkedArray, seed: int
) -> None:
    """Put rows whose keys are equal, one pair in 2^64, in the order of their whole hashes."""
    same = np.flatnonzero(keys[rows[1:]] == keys[rows[:-1]])
    for start in same:
        run = rows[start : start + 2]
        texts = [f"{seed}/{identifier}" for identifier in ids.take(pa.array(run)).to_pylist()]
        whole = [hashlib.sha256(text.encode()).digest() for text in texts]
        run[:] = run[np.argsort(np.array(whole, "S32"), kind="stable")]


def _blocks(texts: pa.ChunkedArray) -> Iterator[pa.Array]:
    for chunk in texts.chunks:
        for start in range(0, len(chunk), _BLOCK_ROWS):
            yield chunk.slice(start, _BLOCK_ROWS)


def _encode(texts: pa.Array) -> list[bytes]:
    """Return texts as UTF-8, from their buffer."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    first = int(ends[0])
    data = bytes(memoryview(content)[first : int(ends[-1])]) if content else b""
    places = (ends - first).tolist()
    return [data[start:end] for start, end in pairwise(places)]
