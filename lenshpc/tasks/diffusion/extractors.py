"""Frozen networks whose features are compared: written from a trained one, read back."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from lenshpc.models.backbones import Backbone, build
from lenshpc.models.encoder import EncoderClassifier
from lenshpc.registry import Shape
from lenshpc.tasks.diffusion.feature_extractors import HEADER, Card, read_card


def freeze(model: Backbone, card: Card, path: Path) -> None:
    """Write a network's weights in half precision, with its card in the header."""
    state = {
        # Counters of batch norm stay integers; weights come back as float32 to be computed with.
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.state_dict().items()
    }
    save_file(state, path, metadata={HEADER: card.model_dump_json()})


def backbone_of(card: Card) -> Backbone:
    """Return the network of a card, with random weights."""
    num_outputs = card.num_outputs

    def encoder(shape: Shape) -> nn.Module:
        return EncoderClassifier(shape[0], num_outputs, card.vit, drop_path=0.0)

    return build(
        card.network,
        image_shape=card.image_shape,
        num_outputs=num_outputs,
        own=encoder if card.network == "mae_vit" else None,
    )


class FrozenNetwork(nn.Module):
    """The features of any image by a network that does not learn."""

    mean: Tensor
    std: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.card = read_card(path)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.card, name))[:, None, None]
            self.register_buffer(name, values, persistent=False)
        self._backbone = backbone_of(self.card)
        state = {
            name: value.float() if value.is_floating_point() else value
            for name, value in load_file(path).items()
        }
        self._backbone.load_state_dict(state)
        self.eval().requires_grad_(requires_grad=False)

    def resize(self, image: Tensor) -> Tensor:
        """Return images (B, C', h, w) of the network's size, in [0, 1] each by itself."""
        channels, *sides = self.card.image_shape
        grey = _middle(image.float().mean(dim=1, keepdim=True), self.card.part)
        small = functional.interpolate(grey, tuple(sides), mode="bilinear", antialias=True)
        return in_unit_range(small).repeat(1, channels, 1, 1)

    def features(self, stretched: Tensor) -> Tensor:
        """Return features (B, D) of what `resize` gave, stretched as the card says."""
        # Not in autocast: distances are compared between runs, whose precision may differ.
        with torch.autocast(stretched.device.type, enabled=False):
            return self._backbone.features((stretched - self.mean) / self.std).float()


def in_unit_range(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) of which each runs from 0 to 1; one without contrast is 0."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)


def _middle(images: Tensor, part: float) -> Tensor:
    """Return the middle part of each side of images (B, C, H, W)."""
    height, width = (max(1, round(part * side)) for side in images.shape[2:])
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[:, :, top : top + height, left : left + width]
