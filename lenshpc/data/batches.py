"""Batches as the network sees them: read, augmented, stretched, normalised, on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lenshpc.data.augment import Augmenter, Changes, change, move
from lenshpc.data.order import Rows, Visits, group
from lenshpc.data.readers import ImageReader
from lenshpc.data.sending import BLOCK_VISITS, Cut, cut_places, send
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
    _placed: dict[tuple[float, torch.device], tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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
        # In place, which `Reader.read` promises to bear: its tensors are copies. Scale and std in
        # one factor spare a pass over the pixels.
        mean, factor = self._place_terms(scale, images.device)
        return images.sub_(mean).mul_(factor)

    def _place_terms(self, scale: float, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return what is subtracted from such pixels and what they are multiplied by, (C, 1, 1)."""
        key = (scale, device)
        if key not in self._placed:
            # By numpy: while a program is traced, torch would give no numbers to be kept.
            mean, std = (one[:, None, None] for one in (self.mean, self.std))
            terms = (mean / np.float32(scale), 1 / std * np.float32(scale))
            first, second = map(torch.from_numpy, terms)
            if device.type != "cpu":
                # Once a device: sent with every batch, they would wait for the step before it.
                first, second = first.to(device), second.to(device)
            self._placed[key] = first, second
        return self._placed[key]

    @cached_property
    def _is_plain(self) -> bool:
        return not self.mean.any() and bool((self.std == 1).all())


class Held(NamedTuple):
    """Pixels (B, C, H, W) as they are held in memory, and their masks where these are asked for."""

    pixels: Tensor
    masks: Tensor | None = None

    def part(self, start: int, stop: int | None = None) -> "Held":
        """Return some of the images."""
        masks = None if self.masks is None else self.masks[start:stop]
        return Held(self.pixels[start:stop], masks)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The other halves of pairs, and the factor that turns their pixels into floats."""

    reader: ImageReader
    scale: float


@dataclass(frozen=True, kw_only=True)
class Views:
    """Further rows of each batch, without a label, and how its weak and strong view are changed."""

    visits: Sequence[Visits]
    weak: Augmenter
    strong: Augmenter


# What a batch calls such images, how they are changed, by which visits, and where they come from.
Seen = tuple[str, Augmenter, Sequence[Visits], ImageReader]


@dataclass(frozen=True, kw_only=True)
class BatchSource:
    """Images with labels, and how they are prepared; of pairs, the targets too.

    `labels` are of the N rows and, after them, of the synthetic rows that mix two of them. `masks`
    are further channels of the images.
    """

    reader: ImageReader
    labels: npt.NDArray[np.int64]
    preparation: Preparation
    device: torch.device
    targets: Targets | None = None
    masks: ImageReader | None = None
    pairs: SyntheticPairs = field(default=NO_PAIRS)

    def batches(
        self,
        batches: Sequence[Visits],
        augmenter: Augmenter | None = None,
        epoch: int = 0,
        views: Views | None = None,
    ) -> Iterator[Batch]:
        """Yield each batch, in order.

        Of pairs there are targets; where rows are synthetic, partners and their weights.
        """
        # A visit counts by all rows, synthetic ones included; its row is the remainder. Readers and
        # labels take rows, augmentation takes visits.
        rows = [visits % len(self.labels) for visits in batches]
        # All that one reader gives to a batch is read as one, and so sent in one copy.
        parts = self._list_parts(rows, views)
        pixels = self.reader.read(parts)
        masks = self.masks.read(parts) if self.masks else [None] * len(rows)
        targets = self.targets.reader.read(rows) if self.targets else [None] * len(rows)
        seen = [*self._list_seen(batches, augmenter, views)]
        values = self._values(rows, seen, epoch)
        for one, mask, target, found in zip(pixels, masks, targets, values, strict=True):
            yield self._batch(Held(one, mask), target, found, has_views=views is not None)

    def _list_parts(self, rows: Sequence[Rows], views: Views | None) -> Sequence[Rows]:
        """Return the rows that are read for each batch: its own, partners', those of its views."""
        parts = [[self.pairs.first(some) for some in rows]]
        if len(self.pairs):
            parts.append([self.pairs.second(some) for some in rows])
        if views is not None:
            parts.append([visits % len(self.labels) for visits in views.visits])
        return [np.concatenate(of_batch) for of_batch in zip(*parts, strict=True)]

    def _list_seen(
        self, batches: Sequence[Visits], augmenter: Augmenter | None, views: Views | None
    ) -> Iterator[Seen]:
        """Yield which images of a batch are changed, by what, for which visits."""
        # By the visits of the batch and not by the parents' rows: image, partner and target of a
        # visit are turned alike.
        if augmenter is not None:
            yield "image", augmenter, batches, self.reader
            if self.targets is not None:
                yield "target", augmenter, batches, self.targets.reader
        if views is not None:
            yield "weak", views.weak, views.visits, self.reader
            yield "strong", views.strong, views.visits, self.reader

    def _values(
        self, rows: Sequence[Rows], seen: Sequence[Seen], epoch: int
    ) -> Iterator[dict[str, Any]]:
        """Yield what belongs to each batch beside its pixels, made and sent for many at once."""
        for part in group(BLOCK_VISITS, rows):
            sizes = [len(some) for some in rows[part]]
            together = np.concatenate(rows[part])
            values: dict[str, Any] = {
                "row": Cut(together, sizes),
                "label": Cut(self.labels[together], sizes),
                "changes": {
                    name: augmenter.draw(epoch, visits[part], reader.sides)
                    for name, augmenter, visits, reader in seen
                    if augmenter.has_steps
                },
            }
            if len(self.pairs):
                weights = self.pairs.mix(together)
                values["mix"] = Cut(weights, sizes)
                values["mixed"] = cut_places(weights != 0, sizes)
            yield from send(values, self.device)

    def _batch(
        self, held: Held, target: Tensor | None, values: dict[str, Any], *, has_views: bool
    ) -> Batch:
        """Return a batch of its pixels, and of those that were read with them."""
        changes, scale = values.pop("changes"), self.preparation.scale
        num = len(values["row"])
        batch = cast(Batch, values)
        batch["image"] = self._see(held.part(0, num), scale, changes.get("image"))
        if "mix" in values:
            batch["partner"] = self._see(held.part(num, 2 * num), scale, changes.get("image"))
            num *= 2
        if target is not None and self.targets is not None:
            batch["target"] = self._see(Held(target), self.targets.scale, changes.get("target"))
        if has_views:
            others = held.part(num)
            # A copy for the first: what sees pixels overwrites them.
            weak = others._replace(pixels=others.pixels.clone())
            batch["weak"] = self._see(weak, scale, changes.get("weak"))
            batch["strong"] = self._see(others, scale, changes.get("strong"))
        return batch

    def _see(self, held: Held, scale: float, changes: Changes | None) -> Tensor:
        """Return pixels as the network sees them, and after them their masks, if these are read."""
        images, masks = held.pixels.float(), held.masks
        if changes is not None:
            # Augmented in the store's units, before stretch and normalisation: noise and contrast
            # are given in those units.
            images, scale = change(images.mul_(scale), changes), 1.0
        prepared = self.preparation(images, scale)
        if masks is None:
            return prepared
        # 0 and 1 as they are: normalised, they would be other numbers in each fold.
        moved = masks.float() if changes is None else move(masks.float(), changes)
        return torch.cat([prepared, moved], dim=1)
