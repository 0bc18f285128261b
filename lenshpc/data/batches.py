"""Batches as the network sees them: read, augmented, normalised, on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lenshpc.data.augment import Augmenter
from lenshpc.data.order import Visits
from lenshpc.data.readers import Reader

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Images with labels, and the per-channel normalisation that training rows gave."""

    reader: Reader
    scale: float
    labels: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]
    device: torch.device

    def batches(
        self, batches: Sequence[Visits], augmenter: Augmenter | None = None, epoch: int = 0
    ) -> Iterator[Batch]:
        """Yield images (B, C, H, W), labels (B,) and rows (B,) of each batch, in order."""
        rows = [visits % len(self.labels) for visits in batches]
        for visits, rows_B, pixels in zip(batches, rows, self.reader.read(rows), strict=True):
            images, scale = pixels.float(), self.scale
            if augmenter is not None and augmenter.steps:
                images, scale = augmenter(images.mul_(scale), epoch, visits), 1.0
            yield {
                "image": self._normalised(images, scale),
                "label": torch.from_numpy(self.labels[rows_B]).to(self.device),
                "row": torch.from_numpy(rows_B).to(self.device),
            }

    def _normalised(self, images: Tensor, scale: float) -> Tensor:
        """Overwrite pixels by (pixels * scale - mean) / deviation, in two passes or none."""
        mean, deviation = self._constants
        if scale == 1 and self._is_plain:
            return images
        return images.sub_(mean / scale).mul_(scale / deviation)

    @cached_property
    def _is_plain(self) -> bool:
        return not self.mean.any() and bool((self.deviation == 1).all())

    @cached_property
    def _constants(self) -> tuple[Tensor, Tensor]:
        mean, deviation = (torch.from_numpy(x).to(self.device) for x in (self.mean, self.deviation))
        return mean[:, None, None], deviation[:, None, None]
