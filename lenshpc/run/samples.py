"""Samples of a run's generative model: an array that grows shard by shard, by any number of jobs.

`samples.zarr` in the run directory has an array (N, C, H, W) for each member and seed. A shard is
one file, written whole by one call. Its SHA-256 lies in the array's folder `sha256`, which zarr
passes over: a shard that does not have it is drawn again.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lenshpc.errors import ConfigError, DataError, IncompleteError, one_line, printable, read_error
from lenshpc.files import (
    flush,
    flush_tree,
    read_bytes,
    read_checked,
    replacing_folder,
    sha256,
    write_text,
)
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan

SHARD_ROWS, CHUNK_ROWS = 256, 32
HEAD = "zarr.json"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a member draws from one seed: image number i is a function of the seed and i."""

    path: Path
    array: Any

    @property
    def num(self) -> int:
        """Return how many images there are to be."""
        return int(self.array.shape[0])

    def rows(self, shard: int) -> range:
        """Return the numbers of a shard's images."""
        return range(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, self.num))

    def missing(self, element: int = 0, array_size: int = 1) -> list[int]:
        """Return the shards of an element's share that are not written, or were altered since."""
        # By the shard's number, not its place among the missing ones, which other tasks shorten.
        mine = range(element, -(-self.num // SHARD_ROWS), array_size)
        return [shard for shard in mine if not self._is_whole(shard)]

    def _is_whole(self, shard: int) -> bool:
        try:
            return self._seal(shard).encode() == read_bytes(_mark(self.path, str(shard)))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise read_error(error.filename or self.path, error) from error

    def _seal(self, shard: int) -> str:
        """Return a hash of a shard's bytes, of its number and of whose samples it belongs to."""
        whose = json.dumps(dict(self.array.attrs), sort_keys=True)
        told = f"{whose} {shard} {sha256(self._file(shard))}"
        return hashlib.sha256(told.encode()).hexdigest()

    def _file(self, shard: int) -> Path:
        return self.path / f"c/{shard}/0/0/0"

    def write(self, shard: int, images: npt.NDArray[np.float32]) -> None:
        """Write a shard's images, and then its hash."""
        rows = self.rows(shard)
        # zarr would read a damaged one, to write over a part of it.
        self._file(shard).unlink(missing_ok=True)
        self.array[rows.start : rows.stop] = images
        flush_tree(self.path / f"c/{shard}")
        flush(self.path / "c")
        write_text(_mark(self.path, str(shard)), self._seal(shard))


def start_samples(run: RunPaths, plan: Plan, member: Member, *, num: int, seed: int) -> Samples:
    """Return a member's samples of a seed, begun now or earlier; another number is refused."""
    import zarr

    path = _path(run, member, seed)
    if not path.exists():
        data = plan.recipe_of(member).data
        inner = data.model_shape(data.in_memory(plan.image_shape, "float32")[0])
        zarr.open_group(run.samples, mode="a", zarr_format=3)
        with replacing_folder(path) as draft:
            zarr.create_array(
                draft,
                shape=(num, *inner),
                chunks=(CHUNK_ROWS, *inner),
                shards=(SHARD_ROWS, *inner),
                dtype=np.float32,
                # Else zarr leaves out a shard of zeros, and `missing` would draw it for ever.
                config={"write_empty_chunks": True},
                attributes=_attributes(plan, member, seed),
            )
            _mark(draft, HEAD).parent.mkdir()
            write_text(_mark(draft, HEAD), sha256(draft / HEAD))
    samples = open_samples(run, plan, member, seed)
    if samples.num != num:
        raise ConfigError(
            f"{path} was begun for {samples.num:,} samples, not {num:,}; ask for that many, use "
            "another --seed, or move it away"
        )
    return samples


def _attributes(plan: Plan, member: Member, seed: int) -> dict[str, Any]:
    fingerprint = plan.member_fingerprint(member)
    return {"member": member.name, "seed": seed, "fingerprint": fingerprint}


def open_samples(run: RunPaths, plan: Plan, member: Member, seed: int) -> Samples:
    """Return samples that were begun; DataError where they are another member's, or damaged."""
    import zarr

    path = _path(run, member, seed)
    remedy = "move it away, or draw with another --seed"
    try:
        read_checked(path / HEAD, read_bytes(_mark(path, HEAD)).decode(errors="replace"))
        array = zarr.open_array(path, mode="r+", zarr_format=3)
    except (OSError, ValueError, LookupError, TypeError) as error:
        told = f"{path} holds no samples that can be read ({one_line(error)}); {remedy}"
        raise DataError(told) from error
    found = dict(array.attrs)
    if found != _attributes(plan, member, seed):
        whose = f"{found.get('member')} with seed {found.get('seed')}"
        raise DataError(f"{path} holds samples of {printable(whose)}; put it back, or {remedy}")
    return Samples(path=path, array=array)


def check_drawn(samples: Samples) -> None:
    """Refuse samples that lack a shard."""
    missing = samples.missing()
    if missing:
        raise IncompleteError(
            f"{samples.path} lacks {len(missing)} shards, the first is {missing[0]}; repeat the "
            "command, which generates what is missing"
        )


def _mark(path: Path, name: str) -> Path:
    return path / "sha256" / name


def _path(run: RunPaths, member: Member, seed: int) -> Path:
    return run.samples / f"member{member.index}_seed{seed}"
