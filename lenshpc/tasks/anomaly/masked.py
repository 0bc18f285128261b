"""Models that learn normal images from parts of them: what is hidden is drawn from what is seen.

After masked autoencoders (He et al. 2022, arXiv 2111.06377), with convolutions in the place of a
transformer. Shapes: B images, C channels, H × W pixels, F features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lenshpc.registry import Shape
from lenshpc.tasks.anomaly.scorers import Scorer, row_mean

WIDTHS = (16, 32, 64, 96)
PATCHES_A_SIDE = 12
HIDDEN = 0.5  # of all patches
NUM_MASK_PAIRS = 2
MOMENTUM = 0.02  # of the features' mean and covariance, a step
SHRINKAGE = 0.05  # of the covariance towards its diagonal


class MaskedReconstructor(Scorer):
    """A convolutional network with skips that fills in hidden patches; HIDDEN of them at a time.

    An image is judged by a few fixed masks with their complements, so that each pixel is drawn
    NUM_MASK_PAIRS times without having been seen.
    """

    masks: Tensor

    def __init__(self, image_shape: Shape) -> None:
        super().__init__()
        channels, height, width = image_shape
        self._patch = max(1, min(height, width) // PATCHES_A_SIDE)
        before = (channels + 1, *WIDTHS)
        self.down = nn.ModuleList(_block(a, b, 2) for a, b in zip(before, WIDTHS, strict=False))
        self.up = nn.ModuleList(
            _block(a + b, b, 1) for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(WIDTHS[0] + channels + 1, channels, 3, padding=1)
        rows, columns = -(-height // self._patch), -(-width // self._patch)
        half = _random_masks(NUM_MASK_PAIRS, rows, columns, torch.Generator().manual_seed(0))
        self.register_buffer("masks", torch.cat([half, ~half]), persistent=False)

    def forward(self, image: Tensor, _progress: Tensor | None = None) -> Tensor:
        """Return the mean squared error over the hidden pixels of each image."""
        if not self.training:
            return row_mean((self._filled_in(image) - image) ** 2)
        hidden = self._pixels(_random_masks(len(image), *self.masks.shape[1:]), image)
        error = (self._drawn(image, hidden) - image) ** 2 * hidden
        return row_mean(error) / row_mean(hidden)

    def judge(self, image: Tensor) -> dict[str, Tensor]:
        """Return the image of hidden pixels."""
        return {"reconstruction": self._filled_in(image)}

    def _filled_in(self, image: Tensor) -> Tensor:
        """Return each pixel as it is drawn when hidden, the mean over the masks that hide it."""
        total = torch.zeros_like(image)
        for mask in self.masks:
            hidden = self._pixels(mask[None], image)
            total += self._drawn(image, hidden.expand(len(image), -1, -1, -1)) * hidden
        return total / NUM_MASK_PAIRS

    def _pixels(self, masks: Tensor, image: Tensor) -> Tensor:
        """Return masks of patches as masks of pixels, (B, 1, H, W), 1 where hidden."""
        large = masks.to(image).repeat_interleave(self._patch, 1).repeat_interleave(self._patch, 2)
        return large[:, None, : image.shape[2], : image.shape[3]]

    def _drawn(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Return the image as it is drawn from what is not hidden."""
        maps = [torch.cat([image * (1 - hidden), hidden], dim=1)]
        for down in self.down:
            maps.append(down(maps[-1]))
        coarse = maps.pop()
        for up in self.up:
            coarse = up(_enlarged_beside(coarse, maps.pop()))
        drawn: Tensor = self.out(_enlarged_beside(coarse, maps.pop()))
        return drawn

    def features(self, image: Tensor) -> Tensor:
        """Return the means of the coarse maps of the whole image, the two last ones, (B, F)."""
        maps = torch.cat([image, torch.zeros_like(image[:, :1])], dim=1)
        found = []
        for down in self.down:
            maps = down(maps)
            found.append(maps.mean(dim=(2, 3)))
        return torch.cat(found[-2:], dim=1)


class FeatureDistance(MaskedReconstructor):
    """The Mahalanobis distance of features that were learnt by filling in hidden patches.

    Mean and covariance are running ones over the training images, as batch norm has them.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, image_shape: Shape) -> None:
        super().__init__(image_shape)
        num_features = sum(WIDTHS[-2:])
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("covariance", torch.eye(num_features))

    def forward(self, image: Tensor, _progress: Tensor | None = None) -> Tensor:
        """Return the masked loss; in training the features' statistics follow along."""
        if self.training:
            self._follow(image)
        return super().forward(image)

    @torch.no_grad()
    def _follow(self, image: Tensor) -> None:
        features = self.features(image).float()
        self.mean.lerp_(features.mean(dim=0), MOMENTUM)
        left = features - self.mean
        self.covariance.lerp_(left.T @ left / len(left), MOMENTUM)

    def judge(self, image: Tensor) -> dict[str, Tensor]:
        """Return the squared distance a feature, under a covariance shrunk to its diagonal."""
        left = (self.features(image).float() - self.mean).double()
        covariance = self.covariance.double()
        shrunk = torch.lerp(covariance, covariance.diagonal().diag(), SHRINKAGE)
        shrunk.diagonal().add_(1e-6 * covariance.diagonal().mean())
        distance = (left * torch.linalg.solve(shrunk, left.T).T).mean(dim=1)
        return {"score": distance.float()}


def _block(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1),
        nn.BatchNorm2d(after),
        nn.SiLU(),
        nn.Conv2d(after, after, 3, 1, 1),
        nn.BatchNorm2d(after),
        nn.SiLU(),
    )


def _enlarged_beside(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return the coarse maps, enlarged to the size of the fine ones, and these."""
    return torch.cat([functional.interpolate(coarse, size=fine.shape[2:]), fine], dim=1)


def _random_masks(
    num: int, rows: int, columns: int, generator: torch.Generator | None = None
) -> Tensor:
    """Return (num, rows, columns), True in a random HIDDEN part of each."""
    order = torch.rand(num, rows * columns, generator=generator).argsort(dim=1)
    return (order < int(HIDDEN * rows * columns)).view(num, rows, columns)
