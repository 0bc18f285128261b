"""Features of images by the frozen networks that ship, for distances between sets of images.

Shapes: B rows, C channels, H by W pixels, D features.
"""

from collections.abc import Mapping

from torch import Tensor

from lenshpc import frozen
from lenshpc.data.stretch import stretched
from lenshpc.models.frozen import FrozenNetwork


class Features:
    """The networks that ship, read when they are first asked."""

    def __init__(self) -> None:
        self._networks: dict[str, FrozenNetwork] | None = None

    def __call__(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the features (B, D) of each kind of images by each network, by array name."""
        if self._networks is None:
            self._networks = {name: FrozenNetwork(path) for name, path in frozen.shipped()}
        return {
            frozen.array_name(name, which): features(network.to(some.device), some)
            for name, network in self._networks.items()
            for which, some in images.items()
        }


def features(network: FrozenNetwork, images: Tensor) -> Tensor:
    """Return the features (B, D) of images in any units."""
    return network.features(stretched(network.resized(images), network.card.stretch))
