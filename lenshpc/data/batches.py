"""Batches as the network sees them: read, augmented, stretched, normalised, on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lenshpc.data.augment import Augmenter
from lenshpc.data.order import Rows, Visits
from lenshpc.data.readers import ImageReader
from lenshpc.data.smote import NO_PAIRS, SyntheticPairs
from lenshpc.data.stretch import stretch
from lenshpc.registry import Batch

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How pixels become what a network sees: scale, stretch, normalise, repeat the one channel.

    `mean` and `std` are of the stretched pixels, a channel each; `each_image` normalises
    every image and channel by its own instead.
    """

    scale: float
    mean: Floats
    std: Floats
    stretch: str = "none"
    each_image: bool = False
    repeats: int = 1

    def __call__(self, pixels: Tensor, scale: float) -> Tensor:
        """Return the images (B, C, H, W) of pixels that `scale` turns into the store's floats."""
        # Stretched before it is normalised: the stretch is of pixels in the store's units, and mean
        # and std are those of stretched pixels.
        if self.stretch != "none":
            pixels, scale = stretch(pixels.mul_(scale), self.stretch), 1.0
        if self.repeats > 1:
            # A copy and not `expand`: what follows writes in place, and one channel would be
            # written three times.
            pixels = pixels.repeat(1, self.repeats, 1, 1)
        if self.each_image:
            # Before the subtraction, which overwrites the pixels.
            std, mean = torch.std_mean(pixels, dim=(2, 3), keepdim=True, correction=0)
            # The least normal number: a constant image becomes 0, not NaN, and any other is not
            # changed.
            return pixels.sub_(mean).div_(std.clamp(min=torch.finfo(std.dtype).tiny))
        return self._normalise(pixels, scale)

    def _normalise(self, images: Tensor, scale: float) -> Tensor:
        """Overwrite pixels by (pixels * scale - mean) / std, in two passes or none."""
        if scale == 1 and self._is_plain:
            return images
        mean, std = (
            torch.from_numpy(values).to(images.device)[:, None, None]
            for values in (self.mean, self.std)
        )
        # In place, which `Reader.read` promises to bear: its tensors are copies. Scale and std in
        # one factor spare a pass over the pixels.
        return images.sub_(mean / scale).mul_(scale / std)

    @cached_property
    def _is_plain(self) -> bool:
        return not self.mean.any() and bool((self.std == 1).all())


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The other halves of pairs, and the factor that turns their pixels into floats."""

    reader: ImageReader
    scale: float


@dataclass(frozen=True, kw_only=True)
class BatchSource:
    """Images with labels, and how they are prepared; of pairs, the targets too.

    `labels` are of the N rows and, after them, of the synthetic rows that mix two of them.
    """

    reader: ImageReader
    labels: npt.NDArray[np.int64]
    preparation: Preparation
    device: torch.device
    targets: Targets | None = None
    pairs: SyntheticPairs = field(default=NO_PAIRS)

    def batches(
        self, batches: Sequence[Visits], augmenter: Augmenter | None = None, epoch: int = 0
    ) -> Iterator[Batch]:
        """Yield each batch, in order.

        Of pairs there are targets; where rows are synthetic, partners and their weights.
        """
        # A visit counts by all rows, synthetic ones included; its row is the remainder. Readers and
        # labels take rows, augmentation takes visits.
        rows = [visits % len(self.labels) for visits in batches]
        firsts = [self.pairs.first(some) for some in rows]
        # By the visits of the batch and not by the parents' rows: image, partner and target of a
        # visit are turned alike.
        images = self._read(self.reader, firsts, self.preparation.scale, batches, augmenter, epoch)
        others = self._others(rows, batches, augmenter, epoch)
        for rows_B, image, other in zip(rows, images, others, strict=True):
            yield {
                "image": image,
                "label": torch.from_numpy(self.labels[rows_B]).to(self.device),
                "row": torch.from_numpy(rows_B).to(self.device),
                **other,
            }

    def views(
        self, batches: Sequence[Visits], augmenter: Augmenter, epoch: int
    ) -> Iterator[Tensor]:
        """Yield the images of each batch alone."""
        rows = [visits % len(self.labels) for visits in batches]
        return self._read(self.reader, rows, self.preparation.scale, batches, augmenter, epoch)

    def _others(
        self,
        rows: Sequence[Rows],
        batches: Sequence[Visits],
        augmenter: Augmenter | None,
        epoch: int,
    ) -> Iterator[Batch]:
        """Yield what a batch holds beside its images."""
        if self.targets is not None:
            reader, scale = self.targets.reader, self.targets.scale
            read = self._read(reader, rows, scale, batches, augmenter, epoch)
            for target in read:
                yield {"target": target}
        elif len(self.pairs):
            seconds = [self.pairs.second(some) for some in rows]
            scale = self.preparation.scale
            read = self._read(self.reader, seconds, scale, batches, augmenter, epoch)
            for some, partner in zip(rows, read, strict=True):
                weights = self.pairs.mix(some)
                # Found here: on a GPU it would be waited for.
                places = {"mix": weights, "mixed": weights.nonzero()[0]}
                sent = {key: torch.from_numpy(one).to(self.device) for key, one in places.items()}
                yield {"partner": partner, "mix": sent["mix"], "mixed": sent["mixed"]}
        else:
            yield from repeat({}, len(rows))

    def _read(
        self,
        reader: ImageReader,
        rows: Sequence[Rows],
        scale: float,
        batches: Sequence[Visits],
        augmenter: Augmenter | None,
        epoch: int,
    ) -> Iterator[Tensor]:
        """Yield prepared images; whatever belongs to one visit is augmented alike."""
        for visits, pixels in zip(batches, reader.read(rows), strict=True):
            images, left = pixels.float(), scale
            if augmenter is not None and augmenter.has_steps:
                # Augmented in the store's units, before stretch and normalisation: noise and
                # contrast are given in those units.
                images, left = augmenter(images.mul_(scale), epoch, visits), 1.0
            yield self.preparation(images, left)
