"""What a model of the normal class promises: a loss an image, and what is seen in it."""

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
    def judge(self, image: Tensor) -> dict[str, Tensor]:
        """Return `reconstruction` (B, C, H, W), `score` (B,), or both; larger is stranger."""


def row_mean(values: Tensor) -> Tensor:
    """Return the mean over all but the first axis, (B,)."""
    return values.flatten(1).mean(dim=1)
