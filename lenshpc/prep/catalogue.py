"""Join tables of objects to images: labels, splits, groups and numbers, by the images' ids."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.labelling import POSITION, Catalogue, Position, SkyCells
from lenshpc.prep.labels import NUM_SHOWN, UNLABELLED_SPLIT, read_labels, read_splits, show_some
from lenshpc.prep.rows import TEXT, set_columns
from lenshpc.prep.sky import name_cells
from lenshpc.prep.tables import Columns, read_table
from lenshpc.prep.texts import digest_texts, find_repeats
from lenshpc.store.layout import UNLABELLED

Rows = NDArray[np.int64]
_SAMPLE_ROWS = 20_000
_SLICE_ROWS = 2**18
_ENDING = r"(?:\.(?i:fits|fit|fts))?\.[^./#]*(#[0-9]+)?$"
_DEGREES = {"deg", "degree", "degrees", "degr"}
# How a table may name an image, the nearest to its id first.
_FORMS: Mapping[str, Callable[[pa.Array], pa.Array]] = MappingProxyType(
    {
        "id": lambda ids: ids,
        "id without its ending": lambda ids: _cut(ids, _ENDING, r"\1"),
        "file name": lambda ids: _cut(ids, r"^.*/", ""),
        "file name without its ending": lambda ids: _cut(_cut(ids, r"^.*/", ""), _ENDING, r"\1"),
    }
)


def join(root: Path, dataset: Dataset, table: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """Return the rows of a scan with what tables under `root` say of them, and lines for the user.

    The truth table gives numbers, and may be absent. The catalogue's labels, splits and groups take
    the place of others; a group is null where it has none.
    """
    told: list[str] = []
    truth = dataset.truth
    if truth:
        columns = {name: np.full(table.num_rows, np.nan) for name in truth.columns}
        if os.path.lexists(root / truth.file):
            plain = Catalogue(file=truth.file, id="id", columns=truth.columns)
            match = _match(root, plain, table["id"])
            told.append(match.describe("the truth table"))
            columns = {name: match.numbers(name) for name in truth.columns}
        table = set_columns(table, {name: pa.array(found) for name, found in columns.items()})
    if dataset.catalogue:
        match = _match(root, dataset.catalogue, table["id"])
        told.append(match.describe("the catalogue"))
        table = _apply(dataset, dataset.catalogue, match, table, told)
    return table, tuple(told)


def read_positions(root: Path, catalogue: Catalogue) -> tuple[pa.Array, NDArray[np.float64]]:
    """Return the ids of all objects of a catalogue, and their positions (n,2) in degrees."""
    path, place = root / catalogue.file, catalogue.position
    if place is None:
        raise TypeError("only a catalogue with a position has positions")
    columns = read_table(path, texts=[catalogue.id], numbers=[place.ra, place.dec])
    ids = columns.texts[catalogue.id]
    _Index(path, ids)  # raises where an id is missing, or stands twice
    odd = ids.filter(pc.invert(pc.utf8_is_printable(ids)))
    if len(odd):
        raise DataError(
            f"{path} has the id {odd[0].as_py()!a}, which has unprintable characters; correct it"
        )
    _check_degrees(path, columns, place)
    ra, dec = (columns.numbers[name] for name in (place.ra, place.dec))
    _refuse_off_sky(path, ids, ra, dec, place)
    return ids, np.stack([ra, dec], axis=1)


def _check_degrees(path: Path, columns: Columns, place: Position) -> None:
    for column in (place.ra, place.dec):
        unit = columns.units.get(column, "deg")
        if unit.strip().lower() not in _DEGREES:
            raise DataError(f"{path} has {column} in {unit}, expected degrees; convert the column")


def _refuse_off_sky(
    path: Path,
    ids: pa.Array | pa.ChunkedArray,
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    place: Position,
) -> None:
    out = (ra < 0) | (ra > 360) | (np.abs(dec) > 90)
    if out.any():
        raise DataError(
            f"{path} has {np.count_nonzero(out)} positions outside of 0 to 360 by -90 to 90 "
            f"degrees, of {_show_ids(ids, out)}; correct {place.ra} and {place.dec}"
        )


@dataclass(frozen=True, kw_only=True)
class _Match:
    """A table and the row that each image has in it, -1 without one."""

    path: Path
    columns: Columns
    rows: Rows
    form: str
    strangers: str

    def describe(self, what: str) -> str:
        """Return how many images and rows name each other."""
        num = int(np.count_nonzero(self.rows >= 0))
        return (
            f"{num} of {len(self.rows)} images have a row in {what} {self.path}, by their "
            f"{self.form}{self.strangers}"
        )

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers for the images, NaN without a row."""
        found = self.columns.numbers[name][self.rows]
        found[self.rows < 0] = np.nan
        return found

    def words(self, name: str, needed: NDArray[np.bool_] | None = None) -> pa.DictionaryArray:
        """Return a column of words for the images that need one, null without a row."""
        blank = self.rows < 0 if needed is None else (self.rows < 0) | ~needed
        return self.columns.words[name].take(pa.array(self.rows, mask=blank))


def _match(root: Path, catalogue: Catalogue, images: pa.ChunkedArray) -> _Match:
    """Read a table and find each image's row; raise where it names none, or one of them twice."""
    path, place = root / catalogue.file, catalogue.position
    words = (catalogue.label, catalogue.split, catalogue.group)
    columns = read_table(
        path,
        texts=[catalogue.id],
        words=[name for name in words if isinstance(name, str)],
        numbers=[*catalogue.columns, *((place.ra, place.dec) if place else ())],
    )
    ids = columns.texts.pop(catalogue.id)
    index = _Index(path, ids)
    for name in catalogue.columns:
        endless = np.isinf(columns.numbers[name])
        if endless.any():
            found = ids[int(endless.argmax())].as_py()
            raise DataError(f"{path} has an infinite number for {found!r}; correct it")
    form = index.choose_form(images)
    rows = index.find(images, form)
    if not (rows >= 0).any():
        other = f"its first row is of {ids[0].as_py()!r}" if len(ids) else "it has no rows"
        raise DataError(
            f"none of the {len(images)} images has a row in {path}: an image is "
            f"{pc.min(images).as_py()!r}, {other}; name the rows by the images' paths or names"
        )
    counts = np.bincount(rows[rows >= 0], minlength=len(ids))
    if counts.max() > 1:
        row = int(counts.argmax())
        first, second = images.take(pa.array(np.flatnonzero(rows == row)[:2])).to_pylist()
        raise DataError(
            f"{path}: {ids[row].as_py()!r} is the {form} of {counts[row]} images, such as {first} "
            f"and {second}; name the rows by the images' paths"
        )
    return _Match(
        path=path, columns=columns, rows=rows, form=form, strangers=_describe_strangers(ids, counts)
    )


def _describe_strangers(ids: pa.Array, counts: NDArray[np.int64]) -> str:
    strangers = ids.filter(pa.array(counts == 0))
    if not len(strangers):
        return ""
    return f"; {len(strangers)} rows name no image, such as {pc.min(strangers).as_py()!r}"


class _Index:
    """The ids of a table, found by a hash and then compared: no Python object a row is kept."""

    def __init__(self, path: Path, ids: pa.Array) -> None:
        if ids.null_count:
            raise DataError(f"{path} has a row without an id; each image has one row: correct it")
        self._ids = ids
        hashes = digest_texts(ids)
        self._order = np.argsort(hashes)
        repeats = find_repeats(ids, hashes, self._order)
        if repeats:
            names = show_some([f"{name!r}" for name in repeats])
            raise DataError(f"{path} names {names} twice; each image has one row: correct it")
        self._hashes = hashes[self._order]

    def choose_form(self, images: pa.ChunkedArray) -> str:
        """Return the form of the images' ids that the table has most of, by a sample of them."""
        step = max(1, len(images) // _SAMPLE_ROWS)
        for sample in (images.take(pa.array(np.arange(0, len(images), step))), images):
            best, most = "id", 0
            for form in _FORMS:
                num = int(np.count_nonzero(self.find(sample, form) >= 0))
                if num > most:
                    best, most = form, num
                if most == len(sample):
                    break
            if most or step == 1:
                break
        return best

    def find(self, images: pa.ChunkedArray, form: str) -> Rows:
        """Return the table's row of each image, -1 without one."""
        rows = np.full(len(images), -1)
        if not len(self._ids):
            return rows
        for first in range(0, len(images), _SLICE_ROWS):
            some = _FORMS[form](images.slice(first, _SLICE_ROWS))
            hashes = digest_texts(some)
            # In the order of the table's: one search then finds in the cache what the last read.
            order = np.argsort(hashes)
            places = np.empty(len(hashes), np.int64)
            places[order] = np.searchsorted(self._hashes, hashes[order])
            found = self._order[np.minimum(places, len(self._order) - 1)]
            same = pc.equal(some, self._ids.take(pa.array(found))).to_numpy()
            rows[first : first + _SLICE_ROWS] = np.where(same, found, -1)
        return rows


def _cut(texts: pa.Array, expression: str, kept: str) -> pa.Array:
    return pc.replace_substring_regex(texts, expression, kept)


def _apply(
    dataset: Dataset, catalogue: Catalogue, match: _Match, table: pa.Table, told: list[str]
) -> pa.Table:
    """Return the rows with all that a catalogue says of them; images without a row as declared."""
    labels, splits = (table[name].to_numpy().copy() for name in ("label", "split"))
    has_row = match.rows >= 0
    if catalogue.split:
        words = match.words(catalogue.split)
        _refuse_gaps(match, table, words.is_null().to_numpy(False) & has_row, catalogue.split)
        given = read_splits(dataset, words, f"{match.path}: {catalogue.split}")
        splits[has_row] = given[has_row]
    is_free = splits == UNLABELLED_SPLIT
    if catalogue.label:
        words = match.words(catalogue.label, ~is_free)
        labels = read_labels(dataset, words, f"{match.path}: {catalogue.label}")
    labels[is_free] = UNLABELLED
    lost = ~is_free & (~has_row | (labels == UNLABELLED))
    if catalogue.unmatched == "unlabelled":
        labels[lost], splits[lost] = UNLABELLED, UNLABELLED_SPLIT
    if lost.any():
        told.append(_tell_unmatched(catalogue, match, table, lost))
    columns = {"label": pa.array(labels), "split": pa.array(splits)}
    table = set_columns(table, columns | _read_numbers(catalogue, match, table))
    if catalogue.group is not None:
        groups = _read_groups(catalogue.group, match, table, has_row & ~lost)
        table = set_columns(table, {"group": groups})
    return table.filter(pa.array(~lost)) if catalogue.unmatched == "leave_out" else table


def _tell_unmatched(
    catalogue: Catalogue, match: _Match, table: pa.Table, lost: NDArray[np.bool_]
) -> str:
    num = int(np.count_nonzero(lost))
    what = f"row with a {catalogue.label}" if catalogue.label else "row"
    names = _show_ids(table["id"], lost)
    if catalogue.unmatched == "refuse":
        raise DataError(
            f"{num} of {table.num_rows} images have no {what} in {match.path}: {names}; add them, "
            "or set catalogue.unmatched to leave_out or unlabelled in DATASET"
        )
    if num == table.num_rows:
        raise DataError(f"none of {num} images has a {what} in {match.path}; correct it")
    fate = "left out" if catalogue.unmatched == "leave_out" else "kept as unlabelled"
    return f"{num} images without a {what} in {match.path} are {fate}: {names}"


def _show_ids(ids: pa.Array | pa.ChunkedArray, chosen: NDArray[np.bool_]) -> str:
    rows = np.flatnonzero(chosen)
    return show_some(ids.take(pa.array(rows[:NUM_SHOWN])).to_pylist(), len(rows))


def _refuse_gaps(match: _Match, table: pa.Table, gaps: NDArray[np.bool_], column: str) -> None:
    if gaps.any():
        num, names = np.count_nonzero(gaps), _show_ids(table["id"], gaps)
        raise DataError(f"{match.path} has no {column} for {num} images: {names}; fill it in")


def _read_groups(
    group: str | SkyCells, match: _Match, table: pa.Table, needed: NDArray[np.bool_]
) -> pa.Array:
    """Return the group of each image, null where it has none and needs none."""
    if isinstance(group, str):
        groups = match.words(group)
        _refuse_gaps(match, table, groups.is_null().to_numpy(False) & needed, group)
        return groups.dictionary_decode()
    ra, dec = (table[name].to_numpy() for name in POSITION)
    has_place = np.isfinite(ra) & np.isfinite(dec)
    _refuse_gaps(match, table, ~has_place & needed, "position")
    cells = name_cells(
        np.where(has_place, ra, 0.0), np.where(has_place, dec, 0.0), group.healpix_order
    )
    return pc.if_else(pa.array(has_place), cells, pa.scalar(None, TEXT))


def _read_numbers(catalogue: Catalogue, match: _Match, table: pa.Table) -> dict[str, pa.Array]:
    """Return the columns of numbers, positions in degrees among them."""
    found = {name: match.numbers(name) for name in catalogue.columns}
    place = catalogue.position
    if place:
        _check_degrees(match.path, match.columns, place)
        ra, dec = match.numbers(place.ra), match.numbers(place.dec)
        _refuse_off_sky(match.path, table["id"], ra, dec, place)
        found |= dict(zip(POSITION, (ra, dec), strict=True))
    return {name: pa.array(numbers) for name, numbers in found.items()}
