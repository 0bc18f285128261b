"""The output folder of `lenshpc predict`: parts that any number of jobs write, then the whole.

request.json   what is predicted by what, sealed; another request is refused
model.json  fitted.safetensors    the ensemble, but its weights
parts/part-NNNNN.parquet          a table of `part_rows` images each, in the order of the source
parts/part-NNNNN.done             its hash, and those of its shards of arrays: a part without it
                                  is made again
arrays.zarr    what a task gives in more dimensions, one array a name and one shard a part
candidates.csv  gallery.html  summary.json    what the joining job makes, the last one last
"""

from __future__ import annotations

import hashlib
import io
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from lenshpc import __version__
from lenshpc.config import Count, Frozen, validate
from lenshpc.errors import ConfigError, DataError, IncompleteError, read_error
from lenshpc.files import (
    flush,
    flush_tree,
    make_open_folder,
    read_bytes,
    read_sealed,
    replacing,
    sha256,
    unique_name,
    write_sealed,
    write_text,
)
from lenshpc.registry import Request
from lenshpc.run.trained import TrainedEnsemble, read_model, write_arrays, write_spec

REQUEST = "request.json"
CHUNK_ROWS = 32


class PredictionRequest(Frozen):
    """What an output folder is for: the ensemble, the images, how they are shared out.

    `weights` and `code` are where the ensemble's files lie, by a member's index; `dataset` is the
    dataset file that tells what files are, None of a store; `arrays` are the names of arrays.
    """

    layout: int = 1
    code_version: str = __version__
    ensemble: str
    name: str
    weights: Mapping[int, str]
    code: str | None
    is_foreign: bool
    trust_code: bool = False
    source: str
    source_digest: str
    dataset: Mapping[str, Any] | None
    num_rows: int
    part_rows: Count
    arrays: tuple[str, ...] = ()
    prior: float | None = None
    rank_by: str | None = None
    top: Annotated[int, Field(ge=1, le=10_000)] = 100

    @property
    def asked(self) -> Request:
        """Return what the readout is asked for."""
        return Request(prior=self.prior, rank_by=self.rank_by)

    @property
    def chunk_rows(self) -> int:
        """Return how many images of an array are decoded together."""
        return math.gcd(self.part_rows, CHUNK_ROWS)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what decides on the predictions: not where files lie, nor how many are shown."""
        places = {"weights", "code", "source", "name", "is_foreign", "trust_code", "top"}
        return self.model_dump(mode="json", exclude=places)


@dataclass(frozen=True)
class Predictions:
    """An output folder."""

    root: Path

    @cached_property
    def request(self) -> PredictionRequest:
        """Return what the folder is for."""
        return _read_request(self.root)

    @cached_property
    def trained(self) -> TrainedEnsemble:
        """Return the ensemble, with its weights where they lay when the folder was begun."""
        request = self.request
        spec, arrays = read_model(self.root)
        if spec.digest != request.ensemble:
            raise DataError(f"{self.root} holds the model.json of another ensemble; put it back")
        return TrainedEnsemble(
            spec=spec,
            weights={index: Path(path) for index, path in request.weights.items()},
            arrays=arrays,
            code=None if request.code is None else Path(request.code),
            is_foreign=request.is_foreign,
        )

    @property
    def num_parts(self) -> int:
        """Return the number of parts."""
        return -(-self.request.num_rows // self.request.part_rows)

    def rows(self, part: int) -> range:
        """Return the rows of the source that a part is of."""
        first = part * self.request.part_rows
        return range(first, min(first + self.request.part_rows, self.request.num_rows))

    def part(self, part: int) -> Path:
        """Return where a part's table lies."""
        return self.root / "parts" / f"part-{part:05d}.parquet"

    def missing(self, element: int = 0, array_size: int = 1) -> list[int]:
        """Return the parts of an element's share that are not written, or were altered since."""
        # By the part's number, not its place among the missing ones, which other jobs shorten.
        return [
            part for part in range(element, self.num_parts, array_size) if not self._is_whole(part)
        ]

    def _is_whole(self, part: int) -> bool:
        try:
            return read_bytes(_mark(self.part(part))).decode() == self._seal(part)
        except (FileNotFoundError, UnicodeDecodeError):
            return False
        except OSError as error:
            raise read_error(error.filename or self.root, error) from error

    def _seal(self, part: int) -> str:
        """Return a hash of a part's bytes, of its number and of what is asked for."""
        folders = (self._shard_folder(name, part) for name in self.request.arrays)
        shards = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        told = [self._identity, str(part), *(sha256(file) for file in (self.part(part), *shards))]
        return hashlib.sha256(" ".join(told).encode()).hexdigest()

    @cached_property
    def _identity(self) -> str:
        return hashlib.sha256(repr(sorted(self.request.identity.items())).encode()).hexdigest()

    @property
    def arrays(self) -> Path:
        """Return where the arrays lie."""
        return self.root / "arrays.zarr"

    def _shard_folder(self, name: str, part: int) -> Path:
        return self.arrays / name / "c" / str(part)

    def write(self, part: int, table: pd.DataFrame, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a part, and then its mark."""
        path = self.part(part)
        _mark(path).unlink(missing_ok=True)
        for name, values in arrays.items():
            self._begin_array(name, values)
            self._write_shard(name, part, values)
        with replacing(path) as temporary:
            table.to_parquet(temporary, index=False)
        write_text(_mark(path), self._seal(part))

    def _write_shard(self, name: str, part: int, values: NDArray[Any]) -> None:
        import zarr

        folder, rows = self._shard_folder(name, part), self.rows(part)
        # zarr would read a damaged one, to write over a part of it.
        shutil.rmtree(folder, ignore_errors=True)
        array: Any = zarr.open_array(self.arrays / name, mode="r+", zarr_format=3)
        array[rows.start : rows.stop] = values
        flush_tree(folder)
        flush(folder.parent)

    def _begin_array(self, name: str, values: NDArray[Any]) -> None:
        """Make an array, unless it is there: jobs may come here at the same time."""
        import zarr

        path, inner = self.arrays / name, values.shape[1:]
        if path.exists():
            return
        zarr.open_group(self.arrays, mode="a", zarr_format=3)
        draft = unique_name(path, "tmp")
        zarr.create_array(
            draft,
            shape=(self.request.num_rows, *inner),
            chunks=(self.request.chunk_rows, *inner),
            shards=(self.request.part_rows, *inner),
            dtype=values.dtype,
            # Else zarr leaves out a shard of zeros, and `missing` would ask for it for ever.
            config={"write_empty_chunks": True},
        )
        try:
            draft.rename(path)
        except OSError:  # another job was first, and its array is the same
            shutil.rmtree(draft)
            if not path.exists():
                raise

    def read_part(self, part: int) -> pd.DataFrame:
        """Return a part's table."""
        return pd.read_parquet(io.BytesIO(read_bytes(self.part(part))))

    def check_whole(self) -> None:
        """Refuse predictions that lack a part."""
        missing = self.missing()
        if missing:
            raise IncompleteError(
                f"{self.root} lacks {len(missing)} of {self.num_parts} parts, the first is "
                f"{missing[0]}; repeat the command, which makes what is missing"
            )


def begin(root: Path, request: PredictionRequest, trained: TrainedEnsemble) -> Predictions:
    """Return the output folder, begun now or by an equal command before; refuse another's."""
    if (root / REQUEST).exists():
        found = _read_request(root)
        _check_same(root, found, request)
    elif root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} holds other files; give another folder as --out")
    make_open_folder(root)
    (root / "parts").mkdir(exist_ok=True)
    write_arrays(root, trained.arrays)
    write_spec(root, trained.spec)
    # Again where it was there: an export or a run may have been moved since.
    write_sealed(root / REQUEST, request.model_dump(mode="json"))
    return Predictions(root)


def _check_same(root: Path, found: PredictionRequest, asked: PredictionRequest) -> None:
    """Raise ConfigError unless a folder is of the same request, naming what differs first."""
    names = {
        "code_version": "the version of lenshpc",
        "ensemble": "the ensemble",
        "source_digest": "the images",
        "num_rows": "the number of images",
        "part_rows": "--part-rows",
        "prior": "--prior",
        "rank_by": "--rank-by",
    }
    theirs, ours = found.identity, asked.identity
    differing = [name for name in theirs if theirs[name] != ours[name]]
    if not differing:
        return
    told = names.get(differing[0], differing[0])
    before, now = (f"{one[differing[0]]!s:.16}" for one in (theirs, ours))
    raise ConfigError(
        f"{root} holds predictions of {found.name} for {found.source}, and {told} was {before} "
        f"then and is {now} now; give another folder as --out"
    )


def _read_request(root: Path) -> PredictionRequest:
    try:
        content = read_sealed(root / REQUEST)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{root} holds no predictions: {REQUEST} is missing; begin with: lenshpc predict"
        ) from error
    except OSError as error:
        raise read_error(root / REQUEST, error) from error
    return validate(PredictionRequest, content, str(root / REQUEST))


def _mark(path: Path) -> Path:
    return path.with_suffix(".done")
