"""Which tile of a mosaic holds which object, and where in it; no pixel is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from lenshpc.errors import DataError
from lenshpc.files import replacing
from lenshpc.prep.catalogue import read_positions
from lenshpc.prep.cutting import Corners
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import Defect, foreign_list_error, has_header, refusal
from lenshpc.prep.labelling import POSITION
from lenshpc.prep.rows import TEXT, cutout_rows
from lenshpc.prep.skygrid import Points, SkyGrid, unit_vectors
from lenshpc.prep.tiles import Tile, read_tiles
from lenshpc.store.layout import UNLABELLED

OUTSIDE = -1
_HEADER = b'"id","ra_deg","dec_deg"'  # of the list of those
_DECIMALS = 6  # of a pixel; less is noise of the projection, which must not move a cut-out


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where objects lie: the number of a tile (n,), -1 outside of all, and pixels (n,2) in it."""

    tile: NDArray[np.int32]
    pixels: Points


def find_places(tiles: Sequence[Tile], positions: Points) -> Places:
    """Return for each position the tile in which it lies farthest from the edges.

    Of two tiles in which it lies equally far from them, it is the first.
    """
    order = np.argsort(positions[:, 1], kind="stable")
    dec = positions[order, 1]
    depth = np.zeros(len(positions))
    tile = np.full(len(positions), OUTSIDE, np.int32)
    pixels = np.full((len(positions), 2), np.nan)
    for number, one in enumerate(tiles):
        near = _choose_near(one.grid, positions, order, dec)
        found = np.round(one.grid.to_pixels(positions[near]), _DECIMALS)
        height, width = one.grid.shape
        to_edge = np.minimum(found + 0.5, np.array([width, height]) - 0.5 - found).min(axis=1)
        deeper = to_edge > depth[near]  # false where there is no pixel: NaN
        here = near[deeper]
        depth[here], tile[here], pixels[here] = to_edge[deeper], number, found[deeper]
    return Places(tile=tile, pixels=pixels)


def _choose_near(
    grid: SkyGrid, positions: Points, order: NDArray[np.int64], dec: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the places of positions that may lie in a grid.

    So that a projection is asked about its own part of the sky, and each tile about few positions.
    """
    reach, centre = grid.reach_deg, np.array([grid.centre])
    low, high = np.searchsorted(dec, [centre[0, 1] - reach, centre[0, 1] + reach])
    band = order[low:high]
    chords = np.linalg.norm(unit_vectors(positions[band]) - unit_vectors(centre), axis=1)
    near: NDArray[np.int64] = band[chords <= 2 * np.sin(np.radians(min(reach, 180)) / 2)]
    return near


def first_pixels(pixels: Points, shape: tuple[int, int]) -> Corners:
    """Return first column and row (n,2) of cut-outs (H,W) whose centres are nearest to pixels.

    As astropy's Cutout2D has it: the offset is half a pixel at most, and of two pixels that are
    equally near the upper one is taken.
    """
    height, width = shape
    return np.ceil(pixels - np.array([width, height]) / 2).astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class CutoutPlan:
    """What is cut from which tile: `corners` (n,2) tile by tile, each in the order of its rows.

    `rows` has the first place in `corners` and the one after the last of each tile that holds
    objects; `grids` tells these tiles from others.
    """

    corners: Corners
    rows: Mapping[str, tuple[int, int]]
    grids: Mapping[str, str]

    @property
    def facts(self) -> dict[str, Any]:
        """Return what tells this plan from others, as JSON."""
        return {
            "rows": {tile: list(span) for tile, span in self.rows.items()},
            "grids": dict(self.grids),
            "corners": sha256(self.corners.tobytes()).hexdigest(),
        }


@dataclass(frozen=True, kw_only=True)
class MosaicObjects:
    """The objects of a catalogue: those in tiles, as rows of stacks to be cut, and the others.

    `outside` has `id`, `ra_deg` and `dec_deg`.
    """

    table: pa.Table
    plan: CutoutPlan
    outside: pa.Table
    told: tuple[str, ...]


def list_cutouts(root: Path, dataset: Dataset) -> MosaicObjects:
    """Return which objects of the catalogue are cut from which tile, a stack a tile.

    Raise where none lies in a tile, and where a cut-out crosses an edge that must not.
    """
    mosaics, catalogue, image = dataset.mosaics, dataset.catalogue, dataset.image
    if mosaics is None or catalogue is None:
        raise TypeError("only a dataset with mosaics and a catalogue has objects to cut out")
    ids, positions = read_positions(root, catalogue)
    tiles = read_tiles(root, dataset)
    places = find_places(tiles, positions)
    inside = np.flatnonzero(places.tile != OUTSIDE)
    if not len(inside):
        raise _nothing_inside(root / catalogue.file, ids, positions, tiles)
    corners = first_pixels(places.pixels[inside], image.shape[1:])
    if mosaics.edge == "refuse":
        tile = places.tile[inside]
        _refuse_edges(ids.take(pa.array(inside)), tile, corners, tiles, image.shape[1:])
    order = np.lexsort((corners[:, 0], corners[:, 1], places.tile[inside]))
    inside, corners = inside[order], corners[order]
    plan = _plan(tiles, places.tile[inside], corners)
    label = 0 if len(dataset.classes) == 1 else UNLABELLED
    told = f"{len(inside)} of {len(ids)} objects of {root / catalogue.file} lie in "
    return MosaicObjects(
        table=_tabulate(ids.take(pa.array(inside)), plan, label),
        plan=plan,
        outside=_list_outside(ids, positions, np.flatnonzero(places.tile == OUTSIDE)),
        told=(f"{told}{len(plan.rows)} of {len(tiles)} tiles",),
    )


def _plan(tiles: Sequence[Tile], numbers: NDArray[np.int32], corners: Corners) -> CutoutPlan:
    """Return the plan of cut-outs that are in the order of the tiles' numbers."""
    starts = np.searchsorted(numbers, np.arange(len(tiles) + 1)).tolist()
    rows = {
        tile.name: span
        for tile, span in zip(tiles, pairwise(starts), strict=True)
        if span[0] < span[1]
    }
    grids = {tile.name: tile.digest for tile in tiles if tile.name in rows}
    return CutoutPlan(corners=corners, rows=rows, grids=grids)


def _tabulate(ids: pa.Array, plan: CutoutPlan, label: int) -> pa.Table:
    """Return the rows of objects that are in the order of the plan."""
    starts, stops = np.transpose(list(plan.rows.values()))
    places = np.repeat(np.arange(len(starts), dtype=np.int32), stops - starts)
    files = pa.array([stack_file(tile) for tile in plan.rows], TEXT)
    return cutout_rows(ids, files, places, np.arange(len(ids)) - starts[places], label)


def stack_file(tile: str) -> str:
    """Return the name of the stack of a tile's cut-outs."""
    return f"{tile}.npy"


def write_outside(store: Path, objects: MosaicObjects) -> tuple[str, ...]:
    """List the objects outside of all tiles beside the store to be; return a line of them.

    The list of an earlier command goes where there are none; a user's own file stays.
    """
    num = objects.outside.num_rows
    path = store.with_name(f"{store.name}.outside.csv")
    is_ours = has_header(path, _HEADER)
    if not num:
        if is_ours:
            path.unlink(missing_ok=True)
        return ()
    if not is_ours:
        raise foreign_list_error(path)
    with replacing(path) as temporary:
        csv.write_csv(objects.outside, temporary)
    return (f"{num} objects lie outside of all tiles and are left out; they are listed in {path}",)


def _list_outside(ids: pa.Array, positions: Points, rows: NDArray[np.int64]) -> pa.Table:
    where = dict(zip(POSITION, positions[rows].T, strict=True))
    return pa.table({"id": ids.take(pa.array(rows)), **where})


def _nothing_inside(
    path: Path, ids: pa.Array, positions: Points, tiles: Sequence[Tile]
) -> DataError:
    if not len(ids):
        return DataError(f"{path} has no rows; give a catalogue with one object per row")
    ra, dec = positions[0].tolist()
    grid = tiles[0].grid
    width, height = grid.size_deg
    return DataError(
        f"none of the {len(ids)} objects of {path} lies in any of {len(tiles)} tiles: the first, "
        f"{ids[0].as_py()!r}, is at ra {ra:.6f} dec {dec:.6f}, tile {tiles[0].name} is "
        f"{width:.4g} x {height:.4g} degrees around ra {grid.centre[0]:.6f} dec "
        f"{grid.centre[1]:.6f}; correct `catalogue.position`, or give the tiles of these objects",
        cause="outside of all tiles",
    )


def _refuse_edges(
    ids: pa.Array,
    numbers: NDArray[np.int32],
    corners: Corners,
    tiles: Sequence[Tile],
    shape: tuple[int, int],
) -> None:
    """Raise naming all objects whose cut-outs (H,W) reach over an edge of their tile."""
    sides = np.array([tile.grid.shape[::-1] for tile in tiles])[numbers]
    crossing = ((corners < 0) | (corners + shape[::-1] > sides)).any(axis=1)
    defects = [
        Defect(
            path=str(ids[at]),
            cause="over an edge",
            error=f"the cut-out of {ids[at]} reaches over an edge of tile {tiles[numbers[at]].name}"
            "; set `mosaics.edge: fill` in DATASET, or leave it out of the catalogue",
        )
        for at in np.flatnonzero(crossing).tolist()
    ]
    if defects:
        raise refusal(sorted(defects, key=lambda one: one.path))  # rows lie in the order of tiles
