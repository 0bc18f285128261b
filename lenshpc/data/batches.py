"""Batches of rows for one rank: which rows, in which order, as tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from lenshpc.data.augment import Augmenter
from lenshpc.data.cache import Images

Rows = npt.NDArray[np.int64]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Images with labels, and the per-channel normalisation that training rows gave."""

    images: Images
    labels: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]


class ImageRows(Dataset[Batch]):
    """The dataset behind the loader: a list of row numbers becomes one batch."""

    def __init__(self, source: Source, augmenter: Augmenter | None = None, epoch: int = 0) -> None:
        self._source, self._augmenter, self._epoch = source, augmenter, epoch

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """Return images (B, C, H, W), labels (B,) and rows (B,)."""
        images = self._source.images[list(rows)]
        if self._augmenter is not None:
            pairs = zip(images, rows, strict=True)
            images = np.stack([self._augmenter(image, self._epoch, row) for image, row in pairs])
        mean, deviation = self._source.mean, self._source.deviation
        return {
            "image": torch.from_numpy((images - mean[:, None, None]) / deviation[:, None, None]),
            "label": torch.from_numpy(self._source.labels[list(rows)]),
            "row": torch.tensor(rows),
        }


def load(
    dataset: ImageRows, batches: Sequence[Rows], *, num_workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Yield the batches in order."""
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=_as_it_is,
    )
    return iter(loader)


def _as_it_is(batch: Any) -> Any:
    return batch  # the dataset has made a whole batch already


def training_batches(
    rows: Rows, batch_size: int, *, seed: int, epoch: int, rank: int, world_size: int
) -> list[Rows]:
    """Return this rank's share of each step of an epoch; the rest below a full step is left out.

    The order belongs to (seed, epoch): the ranks together see the same steps whatever their number.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    num_steps = len(order) // batch_size
    steps = order[: num_steps * batch_size].reshape(num_steps, batch_size)
    return [step[rank::world_size] for step in steps]


def evaluation_batches(rows: Rows, batch_size: int, *, rank: int, world_size: int) -> list[Rows]:
    """Return this rank's batches; every rank gets equally many rows, the first ones repeated.

    Equal numbers matter: under ZeRO-3 a forward pass is collective.
    """
    share = np.resize(rows, -(-len(rows) // world_size) * world_size)[rank::world_size]
    return np.split(share, range(batch_size, len(share), batch_size))
