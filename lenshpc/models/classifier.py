"""Networks of our own, with the methods of timm's that the rest of the package calls."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Classifier(nn.Module, ABC):
    """Maps or tokens of an image, their mean, and a last layer."""

    def __init__(self, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.head = nn.Linear(num_features, num_outputs)

    @abstractmethod
    def forward_features(self, image: Tensor) -> Tensor:
        """Return the maps or tokens (B, …)."""

    @abstractmethod
    def mean(self, maps: Tensor) -> Tensor:
        """Return the mean of the maps or tokens (B, num_features)."""

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the mean of the maps or tokens, or the outputs from it."""
        features = self.mean(maps)
        return features if pre_logits else self.head(features)

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, outputs)."""
        return self.forward_head(self.forward_features(image))

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """Return what timm's networks say of their parts."""
        return {"classifier": "head", "num_classes": self.head.out_features}
