"""The stacks of cut-outs that are made of the tiles of a mosaic, a tile a stack."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lenshpc.errors import DataError, IncompleteError, one_line
from lenshpc.files import read_json, read_sealed, replacing, write_json, write_sealed
from lenshpc.prep.cutting import Corners, TileRows, cut, open_tile, write_stack
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.defects import Defect, refusal
from lenshpc.prep.formats import ImageFormat
from lenshpc.prep.kept import is_kept
from lenshpc.prep.mosaics import CutoutPlan, stack_file
from lenshpc.prep.parallel import Count, Progress, share
from lenshpc.prep.read import SourceBlock, SourceReader
from lenshpc.prep.stamps import read_stamps
from lenshpc.prep.tiles import read_tile, tile_files
from lenshpc.store import Draft

_FOLDER = "cutouts"
_CORNERS = ".corners.npy"  # no tile's name begins with a dot


@dataclass(frozen=True)
class CutoutStacks:
    """The stacks in `folder` of the mosaics under `root`; `facts` are those of their plan."""

    folder: Path
    root: Path
    dataset: Dataset
    facts: Mapping[str, Any]

    @property
    def tiles(self) -> list[str]:
        """Return the tiles that hold objects."""
        return list(self.facts["rows"])

    def missing(self, element: int = 0, array_size: int = 1) -> list[int]:
        """Return the element's share of the tiles whose stacks are not made of their files.

        Every byte of a stack is read for it: one that is not as it was written is made again.
        """
        mine = range(element, len(self.tiles), array_size)
        # Threads: hashing lets go of Python's lock.
        with ThreadPoolExecutor() as pool:
            made = list(pool.map(self._is_made, [self.tiles[number] for number in mine]))
        return [number for number, is_made in zip(mine, made, strict=True) if not is_made]

    @property
    def has_any(self) -> bool:
        """Tell whether the stack of a tile is made, whatever of."""
        return any(self._seal(tile).exists() for tile in self.tiles)

    def num_cutouts(self, numbers: Sequence[int]) -> int:
        """Return how many objects some tiles hold."""
        spans = [self.facts["rows"][self.tiles[number]] for number in numbers]
        return sum(stop - first for first, stop in spans)

    def make(
        self, numbers: Sequence[int], *, workers: int = 1, progress: Progress | None = None
    ) -> None:
        """Make the stacks of some tiles, a tile at a time in each process.

        What is wrong with one costs no other; all of it is raised at the end.
        """
        tiles, num = [self.tiles[number] for number in numbers], self.num_cutouts(numbers)
        self._check_room(num)
        share(self, tiles, workers=workers, num_rows=num, progress=progress)
        defects = [self._read_defect(tile) for tile in tiles if self._fault(tile).exists()]
        if defects:
            raise refusal(defects)

    def check_whole(self) -> None:
        """Raise unless all stacks are made, by their sizes: `missing` has read their bytes."""
        missing = [tile for tile in self.tiles if not self._is_made(tile, by_hash=False)]
        if missing:
            raise IncompleteError(
                f"the cut-outs of {len(missing)} of {len(self.tiles)} tiles are missing or were "
                f"not made from the present files, such as those of {missing[0]}; repeat the "
                "lenshpc prepare command, which makes them"
            )

    def __call__(self, tile: str, count: Count) -> None:
        """Make the stack of a tile, or note what is wrong with it."""
        self._fault(tile).unlink(missing_ok=True)
        try:
            self._cut(tile, count)
        except DataError as error:
            write_json(self._fault(tile), {"cause": error.cause, "error": one_line(error)})

    def _cut(self, tile: str, count: Count) -> None:
        key, image = self._key(tile), self.dataset.image
        found = read_tile(self.root, self.dataset, tile)
        if found.digest != self.facts["grids"][tile]:
            raise self._change(tile)
        corners = self._corners_of(tile)
        with open_tile([f"{self.root}/{file}" for file in found.files], image) as planes:
            blocks = _counting(cut(planes, image, corners), count)
            state = write_stack(self.folder / stack_file(tile), image, len(corners), blocks)
        if self._key(tile) != key:
            raise self._change(tile)
        # Last: a stack without it is made anew.
        write_sealed(self._seal(tile), {"key": key, "stack": state})

    def _change(self, tile: str) -> DataError:
        return DataError(
            f"files of tile {tile} under {self.root} changed while the command ran; repeat it "
            "when they no longer change",
            cause="changed",
        )

    def _is_made(self, tile: str, *, by_hash: bool = True) -> bool:
        try:
            made = read_sealed(self._seal(tile))
            key, state = made["key"], made["stack"]
        except (FileNotFoundError, DataError, LookupError):
            return False
        return key == self._key(tile) and is_kept(
            self.folder / stack_file(tile), state, by_hash=by_hash
        )

    def _key(self, tile: str) -> dict[str, Any]:
        """Return all that a stack follows from, but for the pixels."""
        files = tile_files(self.dataset, tile)
        return {
            "image": self.dataset.image.model_dump(mode="json"),
            "grid": self.facts["grids"][tile],
            "corners": hashlib.sha256(self._corners_of(tile).tobytes()).hexdigest(),
            "files": [_identify(self.root / file) for file in files],
        }

    def _check_room(self, num: int) -> None:
        image = self.dataset.image
        needed = num * int(np.prod(image.shape)) * np.dtype(image.dtype).itemsize
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"{num} cut-outs take {needed / 1e9:.1f} GB, {self.folder} has {free / 1e9:.1f} GB "
                "free; make room there"
            )

    def _corners_of(self, tile: str) -> Corners:
        first, stop = self.facts["rows"][tile]
        return self._corners[first:stop]

    @property
    def _corners(self) -> Corners:
        # Not kept: processes get this object with all that it holds.
        found: Corners = np.load(self.folder / _CORNERS, mmap_mode="r", allow_pickle=False)
        return found

    def _read_defect(self, tile: str) -> Defect:
        return Defect(path=tile, **read_json(self._fault(tile)))

    def _seal(self, tile: str) -> Path:
        return self.folder / f"{tile}.json"

    def _fault(self, tile: str) -> Path:
        return self.folder / f"{tile}.fault"


def open_stacks(draft: Draft) -> CutoutStacks | None:
    """Return the stacks that a draft's images are read from; None where they are no cut-outs."""
    facts, root = draft.settings["mosaics"], Path(draft.settings["root"])
    dataset = Dataset.model_validate(draft.spec.source)
    return CutoutStacks(draft.folder / _FOLDER, root, dataset, facts) if facts else None


def begin_stacks(scratch: Path, root: Path, dataset: Dataset, plan: CutoutPlan) -> CutoutStacks:
    """Return the stacks of a plan in a folder of `scratch`; some may be made already."""
    folder = scratch / _FOLDER
    folder.mkdir(exist_ok=True)
    with replacing(folder / _CORNERS) as temporary, temporary.open("wb") as stream:
        np.save(stream, plan.corners)
    return CutoutStacks(folder, root, dataset, plan.facts)


class CutoutReader(SourceReader):
    """Reads the cut-outs in the stacks under `folder`, and names them by their objects."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        stack = {"format": "npy", "stack": True, "axes": "chw", "hdu": None}
        image = dataset.image.model_copy(update=stack)
        super().__init__(dataset.model_copy(update={"image": image}), folder, scratch=folder)

    def read(self, rows: pa.Table) -> SourceBlock:
        """Return some rows of the table of a scan."""
        block = super().read(rows)
        return replace(block, defects=tuple(self._rename(rows, one) for one in block.defects))

    def _rename(self, rows: pa.Table, defect: Defect) -> Defect:
        name, file, at = (rows[column][defect.at].as_py() for column in ("id", "file", "at"))
        told = f"the cut-out of {name} from tile {file.removesuffix('.npy')}"
        error = defect.error.replace(f"{self._root}/{file}#{at}", told)
        return replace(defect, path=name, error=error)


class MosaicReader(CutoutReader):
    """Cuts objects out of mosaics when they are asked for, best in the order of the plan."""

    def __init__(self, dataset: Dataset, root: Path, plan: CutoutPlan) -> None:
        super().__init__(dataset, root)
        self._mosaics, self._plan, self._tiles = dataset, plan, dict[str, TileRows]()

    def _open(self, file: str, image: ImageFormat) -> TileRows:  # noqa: ARG002 - as its base
        """Return the cut-outs of a tile; the last tile stays open, for the rows that follow."""
        tile = file.removesuffix(".npy")
        if tile not in self._tiles:
            self._tiles.clear()
            first, stop = self._plan.rows[tile]
            paths = [f"{self._root}/{file}" for file in tile_files(self._mosaics, tile)]
            corners = self._plan.corners[first:stop]
            self._tiles[tile] = TileRows(paths, self._mosaics.image, corners)
        return self._tiles[tile]


def open_reader(
    dataset: Dataset, root: Path, scratch: Path, *, allow_pickle: bool = False
) -> SourceReader:
    """Return what reads the images under `root`, or the cut-outs of them that lie in `scratch`."""
    if dataset.mosaics:
        return CutoutReader(dataset, scratch / _FOLDER)
    stamps = read_stamps(scratch)
    return SourceReader(dataset, root, allow_pickle=allow_pickle, scratch=scratch, stamps=stamps)


def _counting(blocks: Iterator[NDArray[Any]], count: Count) -> Iterator[NDArray[Any]]:
    for block in blocks:
        yield block
        count(len(block))


def _identify(path: Path) -> list[int]:
    """Return what tells a file from others of its name, without reading it.

    The time of change too, which no program sets.
    """
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
