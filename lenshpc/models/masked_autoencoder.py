"""A vision transformer learnt by drawing hidden patches from those that are seen.

K. He et al., "Masked autoencoders are scalable vision learners", CVPR 2022 (arXiv 2111.06377),
written from the paper. There is no class token: features are the mean of the tokens. Shapes: B
images, C channels, H × W pixels; N patches of P² pixels, in rows; V of them seen; D features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lenshpc.models.classifier import Classifier
from lenshpc.models.importing import timm_module
from lenshpc.models.vit import Vit
from lenshpc.tasks.anomaly.scorers import Shape
from lenshpc.tasks.foundation.settings import Foundation, num_hidden

NUM_SWEEPS = 200  # of the relaxation; a hole of three patches of 8 pixels is smooth by then
TINY = 1e-6  # added to the variance of a patch, which may be flat


class Encoder(nn.Module):
    """Patches, positions and transformer blocks; images of any size, padded to whole patches.

    Positions are sines and cosines of a patch's row and column, made for each size of image: so a
    larger image has further positions, and the distance between two patches means the same.
    """

    def __init__(self, channels: int, size: Vit, drop_path: float = 0.0) -> None:
        super().__init__()
        self.size = size
        self.patches = nn.Conv2d(channels, size.width, size.patch, size.patch)
        last = max(1, size.depth - 1)
        rates = [drop_path * layer / last for layer in range(size.depth)]
        self.blocks = nn.ModuleList(block(size.width, size.heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(size.width)
        self.apply(initialise)

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Return how many patches lie below and beside one another."""
        height, width = image.shape[2:]
        return -(-height // self.size.patch), -(-width // self.size.patch)

    def forward(self, image: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return tokens (B, V, D) of the patches numbered `seen` (B, V), or of all (B, N, D)."""
        tokens = self.patches(padded(image, self.size.patch)).flatten(2).transpose(1, 2)
        tokens = tokens + positions(self.grid(image), self.size.width, image.device)
        if seen is not None:
            tokens = chosen(tokens, seen)
        for each in self.blocks:
            tokens = each(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def layer_of(self, name: str) -> int:
        """Return which layer a parameter is of: 0 are the patches, depth + 1 what follows all."""
        part, _, rest = name.partition(".")
        if part == "patches":
            return 0
        return int(rest.partition(".")[0]) + 1 if part == "blocks" else self.size.depth + 1


class MaskedAutoencoder(nn.Module):
    """An encoder of the seen patches and a light decoder of all, of which training needs both."""

    def __init__(self, image_shape: Shape, method: Foundation) -> None:
        super().__init__()
        channels, width = image_shape[0], method.decoder_width
        self._method = method
        self.encoder = Encoder(channels, method.vit)
        self.inwards = nn.Linear(method.vit.width, width)
        self.hidden = nn.Parameter(0.02 * torch.randn(width))
        self.decoder = nn.Sequential(
            *(block(width, method.decoder_heads) for _ in range(method.decoder_depth)),
            nn.LayerNorm(width),
            nn.Linear(width, channels * method.vit.patch**2),
        )
        self.inwards.apply(initialise)
        self.decoder.apply(initialise)

    def forward(self, image: Tensor, order: Tensor | None = None) -> Tensor:
        """Return the mean squared error (B,) over the hidden patches of each image.

        `order` (B, N) has the patches' numbers, the seen ones first; drawn anew if absent.
        """
        if order is None:
            rows, columns = self.encoder.grid(image)
            order = torch.rand(len(image), rows * columns).argsort(dim=1).to(image.device)
        drawn, hidden = self.draw(image, order)
        return self.error(image, drawn, hidden)

    def split(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of the patches that are seen and of those that are hidden."""
        num_seen = order.shape[1] - num_hidden(order.shape[1], self._method.mask_ratio)
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
        target = chosen(self.cut(image), hidden)
        if self._method.norm_pixels:
            mean, deviation = _moments(target)
            target = (target - mean) / deviation
        return (drawn - target).square().mean(dim=(1, 2))

    def error_of_filled(self, image: Tensor, filled: Tensor, hidden: Tensor) -> Tensor:
        """Return the same error (B,) of images (B, C, H, W) whose hidden patches were filled in.

        Of normalised patches the filling is told as much as the decoder: mean and deviation.
        """
        drawn, target = (chosen(self.cut(each), hidden) for each in (filled, image))
        if self._method.norm_pixels:
            drawn = (drawn - drawn.mean(dim=2, keepdim=True)) / _moments(target)[1]
        return self.error(image, drawn, hidden)

    def paste(self, image: Tensor, drawn: Tensor, hidden: Tensor) -> Tensor:
        """Return images (B, C, H, W) with the hidden patches drawn, and the seen ones as they are.

        Of normalised patches the truth lends mean and deviation.
        """
        patches = self.cut(image)
        if self._method.norm_pixels:
            mean, deviation = _moments(chosen(patches, hidden))
            drawn = drawn * deviation + mean
        index = hidden[:, :, None].expand(-1, -1, patches.shape[2])
        return spread(patches.scatter(1, index, drawn), self.encoder, image)

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
        cut = functional.pixel_unshuffle(padded(image.float(), patch), patch)
        return cut.flatten(2).transpose(1, 2)


class EncoderClassifier(Classifier):
    """The encoder, the mean of its tokens, and a last layer."""

    def __init__(self, channels: int, num_outputs: int, size: Vit, drop_path: float) -> None:
        super().__init__(size.width, num_outputs)
        self.encoder = Encoder(channels, size, drop_path)

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the tokens (B, N, D)."""
        tokens: Tensor = self.encoder(image)
        return tokens

    def mean(self, maps: Tensor) -> Tensor:
        """Return the mean token (B, D)."""
        return maps.mean(dim=1)


class EncoderMaps(nn.Module):
    """Maps of each pixel: its patch's token, spread over its pixels, and what lies beside it."""

    def __init__(self, channels: int, width: int, size: Vit) -> None:
        super().__init__()
        self.encoder = Encoder(channels, size)
        self.widen = nn.Linear(size.width, width * size.patch**2)
        self.beside = nn.Conv2d(channels, width, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, width, H, W)."""
        near: Tensor = self.beside(image)
        return near + spread(self.widen(self.encoder(image)), self.encoder, image)


def block(width: int, heads: int, drop_path: float = 0.0) -> nn.Module:
    """Return a transformer block, the norm before attention and before the layers of each token."""
    timm_module()
    from timm.models.vision_transformer import Block

    made: nn.Module = Block(width, heads, mlp_ratio=4, qkv_bias=True, drop_path=drop_path)
    return made


def initialise(layer: nn.Module) -> None:
    """Give a layer of weights the paper's initial values (Glorot and Bengio 2010), no bias."""
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(layer.weight.data.flatten(1))
    if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
        nn.init.zeros_(layer.bias)


def positions(grid: tuple[int, int], width: int, device: torch.device) -> Tensor:
    """Return what tells the places of a grid's patches apart, (N, D): fixed sines and cosines."""
    timm_module()
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

    found: Tensor = build_sincos2d_pos_embed(list(grid), width, device=device)
    return found


def spread(patches: Tensor, encoder: Encoder, image: Tensor) -> Tensor:
    """Return values of patches (B, N, C P²) as maps (B, C, H, W) of the size of `image`."""
    rows, columns = encoder.grid(image)
    maps = patches.transpose(1, 2).reshape(len(patches), -1, rows, columns)
    large = functional.pixel_shuffle(maps, encoder.size.patch)
    return large[:, :, : image.shape[2], : image.shape[3]]


def padded(image: Tensor, patch: int) -> Tensor:
    """Return images reflected at the lower and right edges until patches fill them."""
    height, width = image.shape[2:]
    missing = (-width % patch, -height % patch)
    return functional.pad(image, (0, missing[0], 0, missing[1]), "reflect")


def chosen(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Return the tokens (B, V, D) of those numbers (B, V) out of all (B, N, D)."""
    return tokens.gather(1, numbers[:, :, None].expand(-1, -1, tokens.shape[2]))


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


def encoder_of(model: nn.Module) -> Encoder | None:
    """Return the encoder in a network, if it has one."""
    return next((part for part in model.modules() if isinstance(part, Encoder)), None)


def layer_factors(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Return parameter → factor of its learning rate: 1 after the encoder, less in each layer down.

    Layer-wise decay as in Clark et al. 2020 (arXiv 2003.10555); empty without an encoder.
    """
    encoder = encoder_of(model)
    if encoder is None:
        return {}
    last = encoder.size.depth + 1
    return {
        parameter: decay ** (last - encoder.layer_of(name))
        for name, parameter in encoder.named_parameters()
    }


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (B, N, 1) of each patch."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return mean, (variance + TINY).sqrt()
