"""The tiles of a mosaic: which files they are, and how they lie on the sky, by their headers."""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lenshpc.errors import DataError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import Defect, collecting, refusal
from lenshpc.prep.pixels import format_shape
from lenshpc.prep.planes import open_plane
from lenshpc.prep.skygrid import SkyGrid

MAX_OFFSET_PX = 0.05  # by which the bands of a tile may lie beside each other


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One field of the sky: a file under SOURCE for each channel, on one grid."""

    name: str
    files: tuple[str, ...]
    grid: SkyGrid

    @property
    def digest(self) -> str:
        """Return the SHA-256 of files and grid; pixels are not in it."""
        return sha256(f"{self.files} {self.grid.text}".encode()).hexdigest()


def tile_files(dataset: Dataset, tile: str) -> tuple[str, ...]:
    """Return the paths under SOURCE of a tile's files, a channel each."""
    pattern = _pattern(dataset)
    channels = dataset.image.channels
    return tuple(pattern.replace("{band}", band).replace("{tile}", tile) for band in channels)


def _pattern(dataset: Dataset) -> str:
    if dataset.mosaics is None:
        raise TypeError("only a dataset with mosaics has tiles")
    return dataset.mosaics.files


def list_tiles(root: Path, dataset: Dataset) -> list[str]:
    """Return the names of the tiles, sorted; raise naming all files that they lack."""
    pattern, channels = _pattern(dataset), dataset.image.channels
    held: dict[str, set[str]] = {}
    for band in channels:
        for tile, file in _matches(root, pattern.replace("{band}", band)):
            held.setdefault(tile, set()).add(file)
    if not held:
        raise DataError(
            f"{root} holds no files {pattern} with a band of {', '.join(channels)}; "
            "set `mosaics.files` and `image.channels` in DATASET as the files are"
        )
    lacking = [
        Defect(
            path=file,
            cause="band missing",
            error=f"{root}/{file} is missing; every tile needs the bands {', '.join(channels)}: "
            f"add it, or move the other files of tile {tile} away",
        )
        for tile in sorted(held)
        for file in tile_files(dataset, tile)
        if file not in held[tile]
    ]
    if lacking:
        raise refusal(lacking)
    return sorted(held)


def _matches(root: Path, pattern: str) -> list[tuple[str, str]]:
    """Return the tile's name and the path of each file that a pattern with {tile} fits."""
    before, after = pattern.split("{tile}")
    wanted = re.compile(f"{re.escape(before)}([^/]+){re.escape(after)}")
    literal = [re.sub(r"([*?\[])", r"[\1]", part) for part in (before, after)]
    paths = [str(path.relative_to(root)) for path in root.glob("*".join(literal))]
    tiles = [(found[1], path) for path in paths if (found := wanted.fullmatch(path))]
    odd = next((path for _, path in tiles if not path.isprintable()), None)
    if odd is not None:
        raise DataError(f"cannot use the file name {odd!a}; rename it")
    return [(tile, path) for tile, path in tiles if not tile.startswith(".")]


def read_tiles(root: Path, dataset: Dataset) -> list[Tile]:
    """Return all tiles, by name; raise naming every one whose headers do not fit."""
    tiles: list[Tile] = []
    defects: list[Defect] = []
    for name in list_tiles(root, dataset):
        with collecting(defects, name):
            tiles.append(read_tile(root, dataset, name))
    if defects:
        raise refusal(defects)
    return tiles


def read_tile(root: Path, dataset: Dataset, name: str) -> Tile:
    """Return a tile; raise unless its bands have one grid and pixels that the store can hold."""
    files, grids = tile_files(dataset, name), []
    for file in files:
        with open_plane(f"{root}/{file}", dataset.image) as plane:
            if not plane.is_packed:  # those are unpacked when they are cut, and not before
                plane.rows(0, 1)
            grids.append(plane.grid())
    for file, grid in zip(files[1:], grids[1:], strict=True):
        _check_same(root, (files[0], grids[0]), (file, grid))
    return Tile(name=name, files=files, grid=grids[0])


def _check_same(root: Path, first: tuple[str, SkyGrid], other: tuple[str, SkyGrid]) -> None:
    """Raise unless two bands of a tile have one grid."""
    (name, grid), (file, found) = first, other
    if found.shape != grid.shape:
        raise DataError(
            f"{root}/{file} has shape {format_shape(found.shape)}, {name} "
            f"{format_shape(grid.shape)}; the bands of a tile need the same grid: resample them",
            cause="bands of several shapes",
        )
    offset = grid.offset_px(found)
    if not offset <= MAX_OFFSET_PX:
        raise DataError(
            f"{root}/{file} is shifted by {offset:.3g} pixels against {name} by its WCS; the "
            "bands of a tile need the same grid: resample them",
            cause="bands beside each other",
        )
