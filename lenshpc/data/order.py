"""Which rows each rank takes at each step: a function of (seed, epoch), never a state.

A visit is a row and how often the epoch drew it before: of N rows, visit v is row v % N for the
(v // N + 1)th time. Only balanced sampling draws a row twice; a list of rows is one of visits.
All batches of an epoch are computed at once, so going on at any step means slicing the list.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Visits = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]

CHUNK_ROWS = 32  # fixed: the order must not depend on how a store was cut into chunks
WINDOW_BLOCKS = 16
WINDOW_ROWS, WINDOW_BYTES = 2048, 2**28


def window_rows(image_bytes: int) -> int:
    """Return how many rows a stream mixes: 2048, fewer of large images, never below 16 chunks."""
    smallest = WINDOW_BLOCKS * CHUNK_ROWS
    return max(1, min(WINDOW_ROWS, WINDOW_BYTES // image_bytes) // smallest) * smallest


@dataclass(frozen=True, kw_only=True)
class TrainingOrder:
    """The order in which the rows of a fold train; `labels` are of all N rows of the store.

    `window` is the number of rows that a stream mixes; without one, all rows are mixed.
    """

    rows: Rows
    labels: Labels
    batch_size: int
    seed: int
    sampling: Literal["natural", "balanced"] = "natural"
    window: int | None = None

    @property
    def num_steps(self) -> int:
        """Return the number of whole steps in an epoch."""
        return len(self.rows) // self.batch_size

    def batches(self, epoch: int, *, rank: int, world_size: int) -> list[Visits]:
        """Return this rank's share of each step; the rest below a full step is left out."""
        visits = self.rows if self.sampling == "natural" else self._balance(epoch)
        # Only whole steps: ranks with unequal shares would weigh their rows unequally in the mean
        # gradient, or take another number of steps.
        kept, share = self.num_steps * self.batch_size, self.batch_size // world_size
        if self.window is None:
            # The ranks together see the same steps whatever their number.
            mixed = np.random.default_rng([self.seed, epoch]).permutation(visits)[:kept]
            # Cut into steps first and dealt to ranks then: the other way round, a step would hold
            # other rows for another number of ranks.
            return list(mixed.reshape(-1, self.batch_size)[:, rank::world_size])
        dealt = self._in_blocks(visits, epoch, self.window // WINDOW_BLOCKS)[:kept]
        mine = dealt.reshape(world_size, -1)[rank]
        window = max(1, self.window // share) * share
        generator = np.random.default_rng([self.seed, epoch, rank])
        windows = np.split(mine, range(window, len(mine), window))
        return list(np.concatenate([*map(generator.permutation, windows)]).reshape(-1, share))

    def _in_blocks(self, visits: Visits, epoch: int, block_rows: int) -> Visits:
        """Return the visits with blocks of neighbouring rows in random order."""
        blocks = visits % len(self.labels) // block_rows
        places = np.random.default_rng([self.seed, epoch]).permutation(blocks.max() + 1)
        # Stable: visits of a block keep their order, so neighbours stay together and each chunk is
        # decoded once a window.
        return visits[np.argsort(places[blocks], kind="stable")]

    def _balance(self, epoch: int) -> Visits:
        """Draw as many visits as there are rows, the classes equally often (to one).

        No row comes again before all of its class have come.
        """
        generator = np.random.default_rng([self.seed, epoch, 0, 0])
        classes = generator.permutation(np.unique(self.labels[self.rows]))
        quotas = [len(part) for part in np.array_split(self.rows, len(classes))]
        return np.concatenate(
            [
                self._draw(self.rows[self.labels[self.rows] == label], quota, generator)
                for label, quota in zip(classes, quotas, strict=True)
            ]
        )

    def _draw(self, rows: Rows, quota: int, generator: np.random.Generator) -> Visits:
        times = -(-quota // len(rows))
        rounds = [generator.permutation(rows) + n * len(self.labels) for n in range(times)]
        return np.concatenate(rounds)[:quota]


@dataclass(frozen=True, kw_only=True)
class UnlabelledOrder:
    """The order in which unlabelled rows accompany the steps of an epoch.

    A visit is counted as `TrainingOrder` does, `num_labels` being its number of labels.
    """

    rows: Rows
    num_labels: int
    num_a_step: int
    seed: int

    def batches(self, epoch: int, num_steps: int, *, rank: int, world_size: int) -> list[Visits]:
        """Return this rank's share of each step; no row comes again before all have come."""
        generator = np.random.default_rng([self.seed, epoch, 0, 1])
        needed = num_steps * self.num_a_step
        times = range(-(-needed // len(self.rows)))
        rounds = [generator.permutation(self.rows) + n * self.num_labels for n in times]
        steps = np.concatenate([*rounds, self.rows[:0]])[:needed].reshape(num_steps, -1)
        return list(steps[:, rank::world_size])


def group(num_rows: int, batches: Sequence[Rows]) -> Iterator[slice]:
    """Yield the places of batches that follow each other, of at most that many rows together.

    A batch that is larger is alone.
    """
    num = max(1, num_rows // max([1, *map(len, batches)]))
    yield from (slice(start, start + num) for start in range(0, len(batches), num))


def evaluation_batches(rows: Rows, batch_size: int, *, rank: int, world_size: int) -> list[Rows]:
    """Return this rank's batches of neighbouring rows, the last one shorter.

    Every rank gets equally many rows, the first ones repeated: under ZeRO-3 a forward pass is
    collective. Merging drops the repetitions.
    """
    # Neighbouring rows to one rank, so that a stream decodes a chunk once.
    share = np.resize(rows, -(-len(rows) // world_size) * world_size).reshape(world_size, -1)[rank]
    return np.split(share, range(batch_size, len(share), batch_size))
