"""Features of images by frozen networks, for distances between sets of images.

Shapes: B rows, C channels, H by W pixels, D features.
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from lenshpc.data.stretch import stretch
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


def features(network: FrozenNetwork, images: Tensor) -> Tensor:
    """Return the features (B, D) of images in any units."""
    network.to(images.device)
    return network.features(stretch(network.resize(images), network.card.stretch))
