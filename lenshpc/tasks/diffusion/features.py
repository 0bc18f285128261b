"""Features of images by frozen networks, for distances between sets of images.

Shapes: B rows, C channels, H by W pixels, D features.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.data.stretch import stretch
from lenshpc.statistics.image_metrics import blur
from lenshpc.tasks.diffusion import feature_extractors
from lenshpc.tasks.diffusion.extractors import FrozenNetwork
from lenshpc.tasks.diffusion.inception import Inception

Network = Callable[[Tensor], Tensor]


class Features:
    """The networks that ship, and Inception if its file is given; read when first asked."""

    def __init__(self, inception: str | None) -> None:
        self._inception = inception
        self._networks: dict[str, Network] | None = None

    def __call__(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the features (B, D) of each kind of images by each network, by array name."""
        if self._networks is None:
            self._networks = self._read()
        return {
            feature_extractors.array_name(name, which): network(some)
            for name, network in self._networks.items()
            for which, some in images.items()
        }

    def _read(self) -> dict[str, Network]:
        networks: dict[str, Network] = {
            name: partial(features, FrozenNetwork(path))
            for name, path in feature_extractors.find_shipped()
        }
        if self._inception:
            networks[feature_extractors.FID] = Inception(self._inception)
        return networks


class Blur(nn.Module):
    """The blur of `statistics.image_metrics` as two matrix products on any device."""

    rows: Tensor
    columns: Tensor

    def __init__(self, sides: tuple[int, int]) -> None:
        super().__init__()
        for name, side in zip(("rows", "columns"), sides, strict=True):
            self.register_buffer(name, torch.from_numpy(_blur_matrix(side)).double())

    def forward(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W), blurred, in float32."""
        # Autocast and TF32 change matrix products of float32, never those of float64.
        blurred = self.rows @ images.double() @ self.columns.T
        return blurred.float()


def _blur_matrix(side: int) -> npt.NDArray[np.float32]:
    """Return the matrix (side, side) that blurs along an axis, from the blur of unit images."""
    # A constant axis stays as it is: the other side is blurred alone.
    units = np.eye(side, dtype=np.float32)[:, None, :, None].repeat(2, axis=3)
    return np.ascontiguousarray(blur(units)[:, 0, :, 0].T)


def features(network: FrozenNetwork, images: Tensor) -> Tensor:
    """Return the features (B, D) of images in any units."""
    network.to(images.device)
    return network.features(stretch(network.resize(images), network.card.stretch))
