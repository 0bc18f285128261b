"""How far two sets lie apart: Fréchet distance, KID, Wasserstein-1; numpy in double precision.

Shapes: n rows of each set, D features, K numbers of an image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Apart = Callable[[Floats, Floats], float]

NUM_SUBSETS, MAX_SUBSET_ROWS = 100, 1000  # of KID
NUM_HALVINGS = 5
SEED = 0


@dataclass(frozen=True, kw_only=True)
class MeanStd:
    """A mean over draws, and their standard deviation."""

    mean: float
    std: float


def frechet(one: Floats, other: Floats) -> float:
    """Return the Fréchet distance of Gaussians fitted to features (n, D), squared as is usual.

    |m - m'|² + Tr(S + S' - 2 (S S')^½), Dowson and Landau 1982. The eigenvalues of S S' are those
    of S^½ S' S^½, which is symmetric.
    """
    (mean, own), (their_mean, theirs) = _moments(one), _moments(other)
    values, vectors = np.linalg.eigh(own)
    # eigh of symmetric matrices and no matrix root of a product: that one turns complex by
    # rounding.
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    joint = np.linalg.eigvalsh(root @ theirs @ root)
    crossed = np.sqrt(joint.clip(min=0)).sum()
    shift = ((mean - their_mean) ** 2).sum()
    return float(shift + np.trace(own) + np.trace(theirs) - 2 * crossed)


def _moments(features: Floats) -> tuple[Floats, Floats]:
    # From half precision to float64: covariances of hundreds of features cancel in the trace.
    values = features.astype(np.float64)
    return values.mean(axis=0), np.atleast_2d(np.cov(values, rowvar=False))


def kid(one: Floats, other: Floats) -> MeanStd:
    """Return the kernel distance (Bińkowski et al. 2018) over 100 subsets of at most 1,000 rows.

    It is the unbiased squared MMD under the kernel (x·y / D + 1)³. A subset has half of the rows at
    most, since subsets that are all alike would have no spread; NaN where it has fewer than two.
    """
    size = min(MAX_SUBSET_ROWS, len(one) // 2, len(other) // 2)
    if size < 2:
        return MeanStd(mean=float("nan"), std=float("nan"))
    # Always the same subsets: lines of a table are compared on the same rows.
    rng = np.random.default_rng(SEED)
    draws = [
        polynomial_mmd(
            one[rng.choice(len(one), size, replace=False)],
            other[rng.choice(len(other), size, replace=False)],
        )
        for _ in range(NUM_SUBSETS)
    ]
    return MeanStd(mean=float(np.mean(draws)), std=float(np.std(draws)))


def polynomial_mmd(one: Floats, other: Floats) -> float:
    """Return the unbiased squared maximum mean discrepancy of equally many rows (n, D)."""
    one, other, num = one.astype(np.float64), other.astype(np.float64), len(one)

    def kernel(x: Floats, y: Floats) -> Floats:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    # Without the diagonal, where a row is compared with itself: that is what makes it unbiased.
    within = sum(
        float(own.sum() - np.trace(own)) for own in (kernel(one, one), kernel(other, other))
    )
    return within / (num * (num - 1)) - 2 * float(kernel(one, other).mean())


def wasserstein(one: Floats, other: Floats) -> float:
    """Return the Wasserstein-1 distance of each of K numbers over n rows, their mean over K."""
    gaps = np.sort(one, axis=0).astype(np.float64) - np.sort(other, axis=0)
    return float(np.abs(gaps).mean())


def halvings(num: int) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Return random pairs of disjoint, equally large halves of `num` rows."""
    rng, half = np.random.default_rng(SEED), num // 2
    orders = (rng.permutation(num) for _ in range(NUM_HALVINGS))
    return [(order[:half], order[half : 2 * half]) for order in orders]


def over_halves(apart: Apart, one: Floats, real: Floats) -> MeanStd:
    """Return the distance of one half of a set from the other half of the real one.

    With the real set itself as `one` it is the floor. Neither side ever holds an image and what was
    made of it, and all lines have the same number of rows, on which such distances depend.
    """
    draws = [apart(one[first], real[second]) for first, second in halvings(len(real))]
    return MeanStd(mean=float(np.mean(draws)), std=float(np.std(draws)))
