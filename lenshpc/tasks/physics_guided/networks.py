"""A classifier whose features also give the parameters of a lens."""

import torch
from torch import Tensor, nn

from lenshpc.models.backbones import Backbone, last_layer

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

    def forward(
        self,
        image: Tensor,
        partner: Tensor | None = None,
        mix: Tensor | None = None,
        with_lens: bool = False,
    ) -> Tensor:
        """Return outputs, followed by the lens's numbers of each image itself if so asked."""
        if not with_lens:
            return super().forward(image, partner, mix)
        own, mixed = self.between(image, partner, mix)
        # The lens from the image's own features: of a mixture of two lenses there is no true one.
        return torch.cat([self.head(mixed), self.lens(own)], dim=1)
