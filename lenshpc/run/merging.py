"""Merge what members predicted, range by range of the store's rows, in a bounded memory.

Threads read, check and convert the next members' rows while the ones before are added up. They are
added in the order of members, so the sums do not depend on the number of threads.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, pairwise
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.run.completion import hashes_of, refusal_of
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, mark_scored
from lenshpc.run.predictions import KEYS, mask_evaluated, name_ids, read_predictions
from lenshpc.run.stages import Shelf, Stages
from lenshpc.run.tables import LAYOUT, RANGE_ROWS, MemberTable, open_tables, sort_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from lenshpc.registry.contract import Scored

MAX_THREADS = 16
Floats = npt.NDArray[np.float64]
T = TypeVar("T")
R = TypeVar("R")


class RowFault(Exception):  # noqa: N818 (no error yet: it becomes a refusal that names the ids)
    """Some rows of a member say what cannot be: `flags` (n,) says which, `told` what they do."""

    def __init__(self, flags: npt.NDArray[np.bool_], told: str) -> None:
        super().__init__(told)
        self.flags, self.told = flags, told


Convert = Callable[[Member, Floats], Floats]  # raises RowFault
Places = npt.NDArray[np.int64] | slice
Block = tuple[Places, Floats]  # places in a range, and their values (m, width)


def keep_values(_: Member, values: Floats) -> Floats:
    """Return a member's values as they are."""
    return values


@dataclass(frozen=True, kw_only=True)
class _Expected:
    """What a member must say of a range of rows (n,), with the parts' codes as `marks`.

    `merged` says which of them are merged, and `places` where: among the range's rows that are
    asked for.
    """

    first: int
    last: int
    rows: npt.NDArray[np.int64]
    ids: pa.ChunkedArray
    marks: npt.NDArray[np.int8]
    merged: Places
    places: Places


@dataclass(frozen=True, kw_only=True)
class Merger:
    """Merges what members of one model say of some rows of the manifest: the evaluated ones.

    `columns` are those that are read; `convert` makes what is merged of a member's values
    (n, width), and keeps the shape. A member has a say on rows that are to it what `parts` names.
    """

    run: RunPaths
    plan: Plan
    splits: pd.DataFrame
    members: Sequence[Member]
    columns: Sequence[str]
    convert: Convert = keep_values
    parts: Collection[str] = ("oof", "test")
    rows: npt.NDArray[np.bool_] | None = None
    range_rows: int = RANGE_ROWS
    stages: Stages = field(default_factory=Stages)

    def merge(self) -> Floats:
        """Return the mean (N, width) over members; NaN where none says anything."""
        tables = open_tables(self.run, self.members)
        for member, table in zip(self.members, tables, strict=True):
            # Ranges are compared one by one, and see no row that lies in none of them.
            if table.num_rows != (self._marks[member.fold][0] >= 0).sum():
                self._refuse(member)
        is_cut = all(table.layout == LAYOUT for table in tables)
        edges = self._cut() if is_cut else [0, len(self.splits)]
        ends = np.cumsum([self._asked[start:stop].sum() for start, stop in pairwise(edges)])
        means = np.empty((ends[-1], len(self.columns)))
        shelf = self._open_shelf(edges)
        spans = list(zip(pairwise(edges), pairwise([0, *ends.tolist()]), strict=True))
        todo = []
        for at, (_, (first, last)) in enumerate(spans):
            if kept := shelf.read(at):
                means[first:last] = kept["means"]
            else:
                todo.append(at)
        # A table that is not cut is held as a whole: one at a time.
        ahead = count_threads() if is_cut else 0
        blocks = _map_in_order(
            self._read, self._list_tasks(tables, [spans[at][0] for at in todo]), ahead
        )
        for at in todo:
            first, last = spans[at][1]
            self.stages.say(f"merging the predictions: {first:,} of {len(means):,} rows")
            means[first:last] = self._average(islice(blocks, len(tables)), last - first)
            shelf.write(at, {"means": means[first:last]})
        return means

    def _open_shelf(self, edges: Sequence[int]) -> Shelf:
        """Return the means of ranges that an earlier merge of the same files has made."""
        files = {
            str(one.index): hashes_of(self.run, one)[self.run.member(one.name).predictions.name]
            for one in self.members
        }
        convert = getattr(self.convert, "func", self.convert).__name__
        inputs = {
            "splits": self.plan.splits_hash,
            "rows": hashlib.sha256(self._asked.tobytes()).hexdigest(),
            "files": files,
            "what": [convert, *self.parts, *self.columns],
        }
        return self.stages.open_shelf("merge", {**inputs, "edges": list(edges)})

    def _average(self, blocks: Iterable[Block], num_rows: int) -> Floats:
        # Sums in float64, member by member: a mean of float32 would depend on the order of members.
        total, count = np.zeros((len(self.columns), num_rows)), np.zeros(num_rows)
        for places, values in blocks:
            for sums, column in zip(total, values.T, strict=True):
                sums[places] += column
            count[places] += 1
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0).T

    @cached_property
    def _asked(self) -> npt.NDArray[np.bool_]:
        return mask_evaluated(self.splits) if self.rows is None else self.rows

    @cached_property
    def _marks(self) -> dict[int, tuple[npt.NDArray[np.int8], Scored]]:
        """Return what each row is to the members of a fold, by fold."""
        firsts = {member.fold: member for member in reversed(self.members)}
        return {fold: mark_scored(self.plan, self.splits, one) for fold, one in firsts.items()}

    @cached_property
    def _ids(self) -> pa.ChunkedArray:
        import pyarrow as pa

        # By a table: an array of a type that is named would be made text by text.
        table = pa.Table.from_pandas(self.splits[["id"]], preserve_index=False)
        return table["id"].cast(pa.large_string())

    def _cut(self) -> list[int]:
        """Return the edges of the ranges in the manifest, whose rows ascend."""
        ranges = self.splits["row"].to_numpy() // self.range_rows
        return [0, *(np.flatnonzero(np.diff(ranges)) + 1).tolist(), len(ranges)]

    def _list_tasks(
        self, tables: Sequence[MemberTable], spans: Iterable[tuple[int, int]]
    ) -> Iterator[tuple[Member, MemberTable, _Expected]]:
        for start, stop in spans:
            order = np.cumsum(self._asked[start:stop]) - 1
            expected = {fold: self._expect(fold, start, order) for fold in self._marks}
            for member, table in zip(self.members, tables, strict=True):
                yield member, table, expected[member.fold]

    def _expect(self, fold: int, start: int, order: npt.NDArray[np.int64]) -> _Expected:
        """Return what members of a fold must say of the rows from `start`, placed by `order`."""
        all_marks, parts = self._marks[fold]
        marks = all_marks[start : start + len(order)]
        there = marks >= 0
        rows = self.splits["row"].to_numpy()[start : start + len(order)]
        ids = self._ids.slice(start, len(order))
        merged = np.array([part in self.parts for part in parts])[marks[there]]
        return _Expected(
            first=int(rows[0]),
            last=int(rows[-1]),
            rows=rows[there],
            ids=ids if there.all() else ids.filter(there),
            marks=marks[there],
            merged=_as_slice(np.flatnonzero(merged)),
            places=_as_slice(order[there][merged]),
        )

    def _read(self, task: tuple[Member, MemberTable, _Expected]) -> Block:
        """Return a member's values of a range, once its rows are those of the Plan."""
        member, table, expected = task
        if isinstance(expected.merged, np.ndarray) and not len(expected.merged):
            return expected.places, np.empty((0, len(self.columns)))
        try:
            found = table.read_range([*KEYS, *self.columns], expected.first, expected.last)
            if table.layout != LAYOUT:
                found = sort_rows(found)
            # Column by column in memory, as sums over few classes are fast only so.
            values = np.empty((len(found), len(self.columns)), order="F")
            for at, name in enumerate(self.columns):
                values[:, at] = found[name].to_numpy()
            if not self._has_rows(found, expected, member) or not np.isfinite(values).all():
                self._refuse(member)
            return expected.places, self.convert(member, values)[expected.merged]
        except (OSError, ValueError, KeyError, AttributeError, RowFault):
            self._refuse(member)

    def _has_rows(self, found: pa.Table, expected: _Expected, member: Member) -> bool:
        _, parts = self._marks[member.fold]
        return (
            np.array_equal(found["row"].to_numpy(), expected.rows)
            and np.array_equal(_encode(found["split"], parts), expected.marks)
            and found["id"].cast(expected.ids.type).equals(expected.ids)
        )

    def _refuse(self, member: Member) -> NoReturn:
        """Raise what is wrong with a member, said of all its rows and not of a range."""
        frame = read_predictions(self.run, self.plan, self.splits, member, self.columns)
        try:
            self.convert(member, frame[[*self.columns]].to_numpy(np.float64))
        except RowFault as fault:
            told = f"{fault.told} for {name_ids(frame['id'][fault.flags])}"
            raise refusal_of(self.run, member, told) from fault
        raise refusal_of(self.run, member, "has rows in another order than its layout says")


def _as_slice(places: npt.NDArray[np.int64]) -> Places:
    """Return ascending places as a slice where none is left out: numbers are added faster so."""
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


def _encode(column: pa.ChunkedArray, parts: Scored) -> npt.NDArray[np.int8]:
    """Return the place of each word of a column of dictionaries among the parts; -1 of others."""
    codes = {part: code for code, part in enumerate(parts)}
    found = [np.empty(0, np.int8)]
    for chunk in column.chunks:
        known = [codes.get(word, -1) for word in chunk.dictionary.to_pylist()]
        found.append(np.array(known, np.int8)[chunk.indices.to_numpy()])
    return np.concatenate(found)


def count_threads() -> int:
    """Return how many threads read at once: a core each that this process may use."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0)))


def _map_in_order(do: Callable[[T], R], tasks: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield what is made of each task, in their order, while threads make the next ones."""
    if not ahead:
        yield from map(do, tasks)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(ahead) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(do, task))
                if len(waiting) > 2 * ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()
