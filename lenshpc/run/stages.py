"""The stages of an aggregation: what is under way, seconds of each, and what is kept of them.

What is kept is a cache: a folder a key, of the hashes of all that it was made of, with a part a
file. So an aggregation that was killed goes on after the parts that it has made, and the next one
makes none again that would be the same. The folder can be deleted at any time.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeVar

import numpy.typing as npt

from lenshpc.files import hash_value, lock, remove_drafts
from lenshpc.run.values import pack, unpack
from lenshpc.store.parts import read_part, write_part

Stage = Literal["gate", "merge", "baselines", "scores", "pictures"]
Say = Callable[[str], None]
Array = npt.NDArray[Any]
T = TypeVar("T")


def silent(_: str) -> None:
    """Say nothing."""


def hash_arrays(arrays: Mapping[str, Array]) -> dict[str, str]:
    """Return the SHA-256 of each array's numbers."""
    return {name: hashlib.sha256(one.tobytes()).hexdigest() for name, one in arrays.items()}


class Shelf:
    """The parts that are kept under one key; without a folder it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, part: int) -> dict[str, Array] | None:
        """Return the arrays of a part; None where it is absent or damaged."""
        return None if self._folder is None else read_part(self._folder / f"{part:05d}")

    def write(self, part: int, arrays: Mapping[str, Array]) -> None:
        """Keep the arrays of a part."""
        if self._folder is not None:
            self._folder.mkdir(exist_ok=True)
            write_part(self._folder / f"{part:05d}", arrays)


@dataclass(kw_only=True)
class Stages:
    """What an aggregation does, told by `say` as it begins and by `tell` once a stage has ended.

    `folder` holds what is kept, if anything is; `code` is the hash of the code that makes it.
    """

    folder: Path | None = None
    code: str = ""
    say: Say = silent
    tell: Say = silent
    seconds: dict[str, float] = field(default_factory=dict)
    _inner_s: float = 0.0
    _used: set[str] = field(default_factory=set)

    @contextmanager
    def time(self, stage: Stage) -> Iterator[None]:
        """Count the seconds of what runs inside as the stage's, but for stages within it."""
        began, outer_s = perf_counter(), self._inner_s
        self._inner_s = 0.0
        self.say(stage)
        yield
        all_s = perf_counter() - began
        own_s = all_s - self._inner_s
        self._inner_s = outer_s + all_s
        self.seconds[stage] = self.seconds.get(stage, 0.0) + own_s
        self.tell(f"{stage}: {own_s:.1f} s")

    def list_seconds(self) -> dict[str, float]:
        """Return the seconds of each stage that has ended, in their order, to a hundredth."""
        return {stage: round(took, 2) for stage, took in self.seconds.items()}

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be the only aggregation that goes to this place; IncompleteError where another is.

        At a good end, what was kept and not asked for is removed.
        """
        if self.folder is None:
            yield
            return
        self.folder.mkdir(exist_ok=True)
        with lock(self.folder / "lock"):
            for shelf in self._list_shelves():
                remove_drafts(shelf)
            yield
            for shelf in self._list_shelves():
                if shelf.name not in self._used:
                    shutil.rmtree(shelf)

    def open_shelf(self, name: str, inputs: Mapping[str, Any]) -> Shelf:
        """Return what is kept of something that is made of `inputs` and the code alone."""
        if self.folder is None:
            return Shelf(None)
        key = f"{name}-{hash_value({**inputs, 'code': self.code})[:16]}"
        self._used.add(key)
        return Shelf(self.folder / key)

    def keep(
        self, name: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Array]]
    ) -> dict[str, Array]:
        """Return arrays by name: those that were kept, or else what `make` makes."""
        shelf = self.open_shelf(name, inputs)
        found = shelf.read(0)
        if found is None:
            found = make()
            shelf.write(0, found)
        return found

    def keep_value(
        self, name: str, inputs: Mapping[str, Any], kind: type[T], make: Callable[[], T]
    ) -> T:
        """Return a frozen value: the one that was kept, or else what `make` makes."""
        if self.folder is None:
            return make()
        value: T = unpack(kind, self.keep(name, inputs, lambda: pack(make())))
        return value

    def _list_shelves(self) -> list[Path]:
        return [] if self.folder is None else [one for one in self.folder.iterdir() if one.is_dir()]
