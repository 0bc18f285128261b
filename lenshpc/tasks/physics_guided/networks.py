"""A classifier whose features also give the parameters of a lens."""

import torch
from torch import Tensor, nn

from lenshpc.models.backbones import Backbone, last_layer
from lenshpc.models.numerics import in_float32

SMALL = 1e-2  # of the first weights: every image begins with nearly the same lens


class GuidedBackbone(Backbone):
    """A network with a second last layer."""

    def __init__(
        self, network: nn.Module, num_parameters: int, *, linear_probe: bool = False
    ) -> None:
        super().__init__(network, linear_probe=linear_probe)
        last = last_layer(network, "the lens is found from what goes into the last layer")
        self.lens = nn.Linear(last.in_features, num_parameters)
        nn.init.normal_(self.lens.weight, std=SMALL)
        nn.init.zeros_(self.lens.bias)

    def lens_of(self, features: Tensor) -> Tensor:
        """Return the lens's numbers (B, P), without bounds."""
        return in_float32(self.lens, features)

    def forward(
        self,
        image: Tensor,
        partner: Tensor | None = None,
        mix: Tensor | None = None,
        mixed: Tensor | None = None,
        with_lens: bool = False,
    ) -> Tensor:
        """Return outputs, followed by the lens's numbers of each image itself if so asked."""
        if not with_lens:
            return super().forward(image, partner, mix, mixed)
        own, between = self.between(image, partner, mix, mixed)
        # The lens from the image's own features: of a mixture of two lenses there is no true one.
        return torch.cat([self.head(between), self.lens_of(own)], dim=1)
