"""Autoencoders of images: plain, variational and Wasserstein.

Shapes: B images, C channels, H × W pixels, D latent numbers.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lenshpc.models.numerics import widen
from lenshpc.registry import Shape
from lenshpc.tasks.anomaly.scorers import Scorer, row_mean

WIDTHS = (16, 32, 64, 128)
NUM_HIDDEN = 256
MMD_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def coarse_sides(image_shape: Shape) -> tuple[int, int]:
    """Return the sides after the four halvings, which round up."""
    height, width = (-(-side // 2 ** len(WIDTHS)) for side in image_shape[1:])
    return height, width


class ConvEncoder(nn.Module):
    """Four convolutions that halve the sides, then two dense layers."""

    def __init__(self, image_shape: Shape, num_outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((image_shape[0], *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 5, 2, 2), nn.BatchNorm2d(after), nn.SiLU()]
        self.maps = nn.Sequential(*layers)
        height, width = coarse_sides(image_shape)
        self.dense = nn.Sequential(nn.Linear(WIDTHS[-1] * height * width, NUM_HIDDEN), nn.SiLU())
        self.out = nn.Linear(NUM_HIDDEN, num_outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, outputs)."""
        outputs: Tensor = self.out(self.dense(self.maps(image).flatten(1)))
        return outputs


class ConvDecoder(nn.Module):
    """The encoder's way back, by enlarging and convolving, which leaves no checkerboard."""

    def __init__(self, image_shape: Shape, num_latents: int) -> None:
        super().__init__()
        self._image_shape, self._coarse = image_shape, coarse_sides(image_shape)
        height, width = self._coarse
        self.dense = nn.Sequential(
            nn.Linear(num_latents, NUM_HIDDEN),
            nn.SiLU(),
            nn.Linear(NUM_HIDDEN, WIDTHS[-1] * height * width),
        )
        widths = WIDTHS[::-1]
        layers: list[nn.Module] = []
        for before, after in zip(widths, (*widths[1:], widths[-1]), strict=True):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
            layers += [nn.BatchNorm2d(after), nn.SiLU()]
        self.maps = nn.Sequential(*layers, nn.Conv2d(widths[-1], image_shape[0], 3, padding=1))

    def forward(self, latent: Tensor) -> Tensor:
        """Return images (B, C, H, W) of latents (B, D)."""
        maps: Tensor = self.maps(self.dense(latent).unflatten(1, (WIDTHS[-1], *self._coarse)))
        return maps[:, :, : self._image_shape[1], : self._image_shape[2]]


class Autoencoder(Scorer):
    """D numbers between a convolutional encoder and decoder; the loss is the squared error."""

    def __init__(self, image_shape: Shape, num_latents: int) -> None:
        super().__init__()
        self.encoder = ConvEncoder(image_shape, num_latents)
        self.decoder = ConvDecoder(image_shape, num_latents)

    def forward(self, image: Tensor, _progress: Tensor | None = None) -> Tensor:
        """Return the mean squared error of each image."""
        return row_mean((self.decoder(self.encoder(image)) - image) ** 2)

    def reconstruct(self, image: Tensor) -> Tensor:
        """Return the decoded latents."""
        drawn: Tensor = self.decoder(self.encoder(image))
        return drawn


class VariationalAutoencoder(Scorer):
    """A variational autoencoder (Kingma & Welling 2014) whose noise is learnt.

    One variance for all pixels instead of a weight on the KL term (Rybkin et al. 2021,
    arXiv 2006.13202); that term grows to its full weight during the first part of the training.
    """

    def __init__(self, image_shape: Shape, num_latents: int, kl_anneal: float) -> None:
        super().__init__()
        self.encoder = ConvEncoder(image_shape, 2 * num_latents)
        self.decoder = ConvDecoder(image_shape, num_latents)
        self.log_noise = nn.Parameter(torch.zeros(()))
        self._kl_anneal = kl_anneal

    def forward(self, image: Tensor, progress: Tensor | None = None) -> Tensor:
        """Return minus the evidence bound a pixel; drawn in training, of the mean otherwise."""
        # float32: the exponential of a variance in float16 is soon infinite.
        mean, log_variance = widen(self.encoder(image)).chunk(2, dim=1)
        kl = (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        latent = mean
        if self.training:
            latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        squared = row_mean((self.decoder(latent) - image) ** 2)
        weight = 1.0 if progress is None else (progress / self._kl_anneal).clamp(max=1)
        likelihood = self.log_noise + squared / (2 * (2 * self.log_noise).exp())
        loss: Tensor = likelihood + weight * kl / math.prod(image.shape[1:])
        return loss

    def reconstruct(self, image: Tensor) -> Tensor:
        """Return the decoded means of the latents."""
        drawn: Tensor = self.decoder(self.encoder(image).chunk(2, dim=1)[0])
        return drawn


class WassersteinAutoencoder(Autoencoder):
    """A Wasserstein autoencoder (Tolstikhin et al. 2018, arXiv 1711.01558, algorithm 2).

    The latents of a batch are pulled towards a normal distribution by their maximum mean
    discrepancy; what is validated is the squared error alone, which is a value a row.
    """

    def __init__(self, image_shape: Shape, num_latents: int, mmd_weight: float) -> None:
        super().__init__(image_shape, num_latents)
        self._mmd_weight = mmd_weight

    def forward(self, image: Tensor, _progress: Tensor | None = None) -> Tensor:
        """Return the mean squared error of each image, in training with the batch's penalty."""
        latent = self.encoder(image)
        # A value a row also in training; only the penalty is of the batch, and validation leaves it
        # out.
        squared = row_mean((self.decoder(latent) - image) ** 2)
        if not self.training:
            return squared
        return squared + self._mmd_weight * discrepancy(widen(latent))


def discrepancy(latent_BD: Tensor) -> Tensor:
    """Return the unbiased squared MMD between latents and as many draws of a standard normal.

    The kernel is the sum of inverse multiquadratics C/(C + |x - y|²), C = 2 D times each scale.
    """
    num, num_latents = latent_BD.shape
    if num < 2:
        return latent_BD.new_zeros(())
    # float64: distances are small differences of what autocast and TF32 round to three digits.
    both = torch.cat([latent_BD, torch.randn_like(latent_BD)]).double()
    # Rounding may put a squared distance below 0, and the kernel has a pole there.
    square = functional.relu(
        both.square().sum(1)[:, None] + both.square().sum(1) - 2 * both @ both.T
    )
    scales = [2 * num_latents * scale for scale in MMD_SCALES]
    kernel = torch.stack([scale / (scale + square) for scale in scales]).sum(dim=0)
    own = kernel[:num, :num].sum() + kernel[num:, num:].sum() - kernel.diagonal().sum()
    return (own / (num * (num - 1)) - 2 * kernel[:num, num:].mean()).to(latent_BD.dtype)
