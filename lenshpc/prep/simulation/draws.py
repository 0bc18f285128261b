"""Draw the parameters of one image: independent and uniform, or as the original code did."""

import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.random import Generator, SeedSequence

from lenshpc.prep.labelling import SplitName

_NUM_LEGACY_VALUES = 5


@dataclass(frozen=True)
class Stream:
    """The images of one class in one split; they and their numbers fix all that is drawn."""

    seed: int
    split: SplitName
    name: str

    def sequence(self, *key: int) -> SeedSequence:
        """Return the seed of image `key`, or of the whole stream."""
        # By the names and not by their places: a class that is added changes no image of the
        # others.
        digest = sha256(f"{self.split}/{self.name}".encode()).digest()
        return SeedSequence(self.seed, spawn_key=(int.from_bytes(digest[:8]), *key))


@dataclass(frozen=True)
class Draws:
    """The random numbers of image `number` of a stream.

    Two faults of the original code return with `legacy`: a parameter takes only 5 values in a
    stream, and orientations of 0..2 pi radians, read as degrees, lie within 0..6.28 degrees.
    """

    stream: Stream
    number: int
    legacy: bool = False

    @cached_property
    def random(self) -> Generator:
        """Return the generator of this image alone."""
        return np.random.default_rng(self.stream.sequence(self.number))

    def uniform(self, limits: tuple[float, float]) -> float:
        """Return a value of a range."""
        if not self.legacy:
            return self.random.uniform(*limits)
        values = self._values.uniform(*limits, size=_NUM_LEGACY_VALUES)
        # Every draw advances both generators, so the order of draws in `draw_halo` is part of the
        # data set.
        return float(values[self.random.integers(_NUM_LEGACY_VALUES)])

    def orientation(self) -> float:
        """Return the angle of an axis."""
        if self.legacy:
            return math.radians(self.uniform((0, 2 * math.pi)))
        return self.uniform((0, math.pi))

    def position(self, distance: float) -> tuple[float, float]:
        """Return a point at a distance from the centre."""
        angle = self.uniform((0, 2 * math.pi))
        return distance * math.cos(angle), distance * math.sin(angle)

    @cached_property
    def _values(self) -> Generator:
        """Return a generator that offers each image of the stream the same values."""
        return np.random.default_rng(self.stream.sequence())
