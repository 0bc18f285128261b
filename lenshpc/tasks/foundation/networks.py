"""The masked autoencoder: hidden patches drawn from those that are seen; simple fillings beside it.

K. He et al., "Masked autoencoders are scalable vision learners", CVPR 2022 (arXiv 2111.06377),
written from the paper. Shapes: B images, C channels, H × W pixels; N patches of P² pixels, in rows;
V of them seen; D features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lenshpc.models.encoder import (
    VitEncoder,
    block,
    choose_tokens,
    initialise,
    pad,
    positions,
    unpatchify,
)
from lenshpc.registry import Shape, TaskSpec
from lenshpc.tasks.foundation.settings import Foundation, num_hidden

NUM_SWEEPS = 200  # of the relaxation; a hole of three patches of 8 pixels is smooth by then
TINY = 1e-6  # added to the variance of a patch, which may be flat


def mae_vit(spec: TaskSpec) -> "MaskedAutoencoder":
    """Return the autoencoder for the images and settings of a spec."""
    return MaskedAutoencoder(spec.image_shape, Foundation.of(spec.settings))


class MaskedAutoencoder(nn.Module):
    """An encoder of the seen patches and a light decoder of all, of which training needs both."""

    def __init__(self, image_shape: Shape, settings: Foundation) -> None:
        super().__init__()
        channels, width = image_shape[0], settings.decoder_width
        self._settings = settings
        self.encoder = VitEncoder(channels, settings.vit)
        self.inwards = nn.Linear(settings.vit.width, width)
        self.hidden = nn.Parameter(0.02 * torch.randn(width))
        self.decoder = nn.Sequential(
            *(block(width, settings.decoder_heads) for _ in range(settings.decoder_depth)),
            nn.LayerNorm(width),
            nn.Linear(width, channels * settings.vit.patch**2),
        )
        self.inwards.apply(initialise)
        self.decoder.apply(initialise)

    def forward(self, image: Tensor, order: Tensor | None = None) -> Tensor:
        """Return the mean squared error (B,) over the hidden patches of each image.

        `order` (B, N) has the patches' numbers, the seen ones first; drawn anew if absent.
        """
        if order is None:
            rows, columns = self.encoder.grid(image)
            order = torch.rand(len(image), rows * columns, device=image.device).argsort(dim=1)
        drawn, hidden = self.draw(image, order)
        return self.error(image, drawn, hidden)

    def split(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of the patches that are seen and of those that are hidden."""
        num_seen = order.shape[1] - num_hidden(order.shape[1], self._settings.mask_ratio)
        return order[:, :num_seen], order[:, num_seen:]

    def draw(self, image: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden patches as they are drawn, (B, N - V, C P²), and their numbers."""
        seen, hidden = self.split(order)
        tokens = self.inwards(self.encoder(image, seen))
        masked = self.hidden.to(tokens.dtype).expand(len(image), hidden.shape[1], -1)
        places = positions(self.encoder.grid(image), tokens.shape[2], image.device)
        tokens = torch.cat([tokens, masked], dim=1) + places[order].to(tokens.dtype)
        drawn: Tensor = self.decoder(tokens)[:, seen.shape[1] :]
        return drawn.float(), hidden

    def error(self, image: Tensor, drawn: Tensor, hidden: Tensor) -> Tensor:
        """Return the mean squared error (B,) of what is drawn of the hidden patches."""
        # From float32 pixels: under autocast the target, too, would be rounded to three digits.
        target = choose_tokens(self.cut(image), hidden)
        if self._settings.norm_pixels:
            mean, std = _moments(target)
            target = (target - mean) / std
        return (drawn - target).square().mean(dim=(1, 2))

    def error_of_filled(self, image: Tensor, filled: Tensor, hidden: Tensor) -> Tensor:
        """Return the same error (B,) of images (B, C, H, W) whose hidden patches were filled in.

        Of normalised patches the filling is told as much as the decoder: mean and std.
        """
        drawn, target = (choose_tokens(self.cut(each), hidden) for each in (filled, image))
        if self._settings.norm_pixels:
            drawn = (drawn - drawn.mean(dim=2, keepdim=True)) / _moments(target)[1]
        return self.error(image, drawn, hidden)

    def paste(self, image: Tensor, drawn: Tensor, hidden: Tensor) -> Tensor:
        """Return images (B, C, H, W) with the hidden patches drawn, and the seen ones as they are.

        Of normalised patches the truth lends mean and std.
        """
        patches = self.cut(image)
        if self._settings.norm_pixels:
            mean, std = _moments(choose_tokens(patches, hidden))
            drawn = drawn * std + mean
        index = hidden[:, :, None].expand(-1, -1, patches.shape[2])
        return unpatchify(patches.scatter(1, index, drawn), self.encoder, image)

    def mask(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Return (B, 1, H, W), True where a pixel of whole patches is hidden."""
        rows, columns = self.encoder.grid(image)
        flags = torch.zeros(len(image), rows * columns, dtype=torch.bool, device=image.device)
        flags = flags.scatter(1, hidden, value=True).view(len(image), 1, rows, columns)
        patch = self.encoder.size.patch
        return flags.repeat_interleave(patch, 2).repeat_interleave(patch, 3)

    def cut(self, image: Tensor) -> Tensor:
        """Return the patches (B, N, C P²) of padded images."""
        patch = self.encoder.size.patch
        cut = functional.pixel_unshuffle(pad(image.float(), patch), patch)
        return cut.flatten(2).transpose(1, 2)


def fill_with_mean(image: Tensor, mask: Tensor) -> Tensor:
    """Return images whose hidden pixels are the mean of the seen ones, channel by channel."""
    seen = ~mask
    mean = (image * seen).sum(dim=(2, 3)) / seen.sum(dim=(2, 3))
    return torch.where(mask, mean[:, :, None, None], image)


def fill_smoothly(image: Tensor, mask: Tensor) -> Tensor:
    """Return images whose hidden pixels are each the mean of the four beside them.

    That is Laplace's equation, solved by relaxation: bilinear interpolation for holes of any form.
    """
    filled = fill_with_mean(image, mask)
    for _ in range(NUM_SWEEPS):
        wide = functional.pad(filled, (1, 1, 1, 1), "replicate")
        beside = wide[:, :, 1:-1, :-2] + wide[:, :, 1:-1, 2:]
        beside += wide[:, :, :-2, 1:-1] + wide[:, :, 2:, 1:-1]
        filled = torch.where(mask, beside / 4, image)
    return filled


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and std (B, N, 1) of each patch."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return mean, (variance + TINY).sqrt()
