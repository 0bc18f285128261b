"""What a model of the normal class promises: a loss an image, and its reconstruction."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Scorer(nn.Module, ABC):
    """A network that learns images without labels.

    `forward` is all that training calls, since DDP allows nothing else.
    """

    @abstractmethod
    def forward(self, image: Tensor, progress: Tensor | None = None) -> Tensor:
        """Return the loss (B,) of each image; `progress` is the part of the training done."""

    @abstractmethod
    def reconstruct(self, image: Tensor) -> Tensor:
        """Return the images as the network draws them, (B, C, H, W)."""


def row_mean(values: Tensor) -> Tensor:
    """Return the mean over all but the first axis, (B,)."""
    return values.flatten(1).mean(dim=1)
