"""Whether the spread of members tells where their mean is wrong, pixel by pixel."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

NUM_BINS = 15
NUM_EDGE_PIXELS = 200_000


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Pixels of test images in bins of about equal mass, by the spread over members.

    `predicted` and `observed` are the root mean squares of spread and error; `within_one` and
    `within_two` the shares of pixels whose error is at most one and two spreads (0.68 and 0.95 of a
    calibrated Gaussian); `rank_correlation` that of an image's mean spread with its error.
    """

    num_members: int
    counts: npt.NDArray[np.int64]
    predicted: Floats
    observed: Floats
    within_one: float
    within_two: float
    rank_correlation: float


@dataclass
class CalibrationSums:
    """Sums over pixels, grown block by block; the first block decides on the bins."""

    num_members: int
    edges: Floats = field(default_factory=lambda: np.empty(0))
    sums: Floats = field(default_factory=lambda: np.zeros((3, NUM_BINS)))
    within: Floats = field(default_factory=lambda: np.zeros(2))
    images: list[Floats] = field(default_factory=list)

    def add(self, spread: Floats, error: Floats) -> None:
        """Add images (n, C, H, W): the deviation over members and the error of their mean."""
        if not len(self.edges):
            some = spread.ravel()[:: max(1, spread.size // NUM_EDGE_PIXELS)]
            # Fixed by the first block and never moved: sums of bins with other edges could not be
            # added.
            self.edges = np.quantile(some, np.arange(1, NUM_BINS) / NUM_BINS)
        place = np.searchsorted(self.edges, spread.ravel(), side="right")
        # Squares are added and the root taken once, at the end: means of roots are not the root of
        # a mean.
        weights = (None, spread.ravel() ** 2, error.ravel() ** 2)
        self.sums += [np.bincount(place, one, NUM_BINS) for one in weights]
        distance = np.abs(error)
        self.within += [(distance <= spread).sum(), (distance <= 2 * spread).sum()]
        roots = [np.sqrt((one**2).mean(axis=(1, 2, 3))) for one in (spread, error)]
        self.images.append(np.stack(roots))

    def calibration(self) -> Calibration:
        """Return what the sums amount to."""
        from scipy.stats import spearmanr

        kept = self.sums[:, self.sums[0] > 0]
        spread, error = np.concatenate(self.images, axis=1)
        varies = len(spread) > 1 and np.ptp(spread) > 0 and np.ptp(error) > 0
        within = self.within / kept[0].sum()
        return Calibration(
            num_members=self.num_members,
            counts=kept[0].astype(np.int64),
            predicted=np.sqrt(kept[1] / kept[0]),
            observed=np.sqrt(kept[2] / kept[0]),
            within_one=float(within[0]),
            within_two=float(within[1]),
            rank_correlation=float(spearmanr(spread, error).statistic) if varies else float("nan"),
        )
