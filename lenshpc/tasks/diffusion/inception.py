"""Inception v3 as the FID is defined on it (Heusel et al. 2017), by torch-fidelity."""

import torch
from torch import Tensor, nn

from lenshpc.models.importing import declare_missing_torchvision_ops
from lenshpc.run.extras import require
from lenshpc.tasks.diffusion.extractors import in_unit_range
from lenshpc.tasks.diffusion.feature_extractors import find_inception


class Inception(nn.Module):
    """The pooled features of images, in any units, by the published weights."""

    def __init__(self, path: str) -> None:
        super().__init__()
        file = find_inception(path)  # torch-fidelity unpickles it: safe, since its hash is known
        require("fid", "method.inception")
        declare_missing_torchvision_ops()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self._network = FeatureExtractorInceptionV3("inception", ["2048"], str(file))

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 2048) of images (B, C, H, W), each brought to 0…255 by itself.

        Three channels are taken as colours; any other number is averaged to grey.
        """
        colours = images if images.shape[1] == 3 else images.mean(dim=1, keepdim=True)
        # Whole bytes, as the FID is defined on: floats would give another distance under the same
        # name.
        bytes_of_each = (255 * in_unit_range(colours.float())).round().to(torch.uint8)
        self.to(images.device)
        # Not in autocast, for the same reason.
        with torch.autocast(images.device.type, enabled=False):
            features: Tensor = self._network(bytes_of_each.expand(-1, 3, -1, -1))[0]
        return features
