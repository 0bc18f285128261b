"""What a simulator makes of a number: an image, the truth, and where the mass is."""

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from lenshpc.prep.simulation.draws import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """An image (C, H, W), its row of truth.csv, and the point masses in it.

    `target` is the high-resolution image of a pair, on the same scale.
    `points` is (4, K): x and y in arcsec, Einstein radius in arcsec, fraction of the total mass.
    """

    image: NDArray[Any]
    truth: dict[str, Any]
    points: NDArray[Any] | None = None
    target: NDArray[Any] | None = None


class Simulator(Protocol):
    """One model of the sky with an instrument."""

    def make(self, stream: Stream, number: int) -> Sample:
        """Return image `number` of a stream, which depends on these two alone."""
