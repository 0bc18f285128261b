"""A vision transformer over patches, learnt by a masked autoencoder and used by other networks.

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


class VitEncoder(nn.Module):
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
        # After all layers are made; timm's blocks have drawn values of their own before, which this
        # replaces.
        self.apply(initialise)

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Return how many patches lie below and beside one another."""
        height, width = image.shape[2:]
        return -(-height // self.size.patch), -(-width // self.size.patch)

    def forward(self, image: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return tokens (B, V, D) of the patches numbered `seen` (B, V), or of all (B, N, D)."""
        tokens = self.patches(pad(image, self.size.patch)).flatten(2).transpose(1, 2)
        # Before patches are left out: a token keeps the position of its own place.
        tokens = tokens + positions(self.grid(image), self.size.width, image.device)
        if seen is not None:
            tokens = choose_tokens(tokens, seen)
        for each in self.blocks:
            tokens = each(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def group_matcher(self, *, coarse: bool = False) -> dict[str, str]:
        """Return how a parameter's name says its layer, as timm asks: `norm` is above all."""
        del coarse  # each block is a layer
        return {"stem": r"^patches", "blocks": r"^blocks\.(\d+)"}


class EncoderClassifier(Classifier):
    """The encoder, the mean of its tokens, and a last layer."""

    def __init__(self, channels: int, num_outputs: int, size: Vit, drop_path: float) -> None:
        super().__init__(size.width, num_outputs)
        self.encoder = VitEncoder(channels, size, drop_path)

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
        self.encoder = VitEncoder(channels, size)
        self.widen = nn.Linear(size.width, width * size.patch**2)
        self.beside = nn.Conv2d(channels, width, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, width, H, W)."""
        near: Tensor = self.beside(image)
        return near + unpatchify(self.widen(self.encoder(image)), self.encoder, image)


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


def unpatchify(patches: Tensor, encoder: VitEncoder, image: Tensor) -> Tensor:
    """Return values of patches (B, N, C P²) as maps (B, C, H, W) of the size of `image`."""
    rows, columns = encoder.grid(image)
    maps = patches.transpose(1, 2).reshape(len(patches), -1, rows, columns)
    large = functional.pixel_shuffle(maps, encoder.size.patch)
    return large[:, :, : image.shape[2], : image.shape[3]]


def pad(image: Tensor, patch: int) -> Tensor:
    """Return images reflected at the lower and right edges until patches fill them."""
    height, width = image.shape[2:]
    missing = (-width % patch, -height % patch)
    # At the lower and right edges alone, so the first patches lie alike in images of any size.
    return functional.pad(image, (0, missing[0], 0, missing[1]), "reflect")


def choose_tokens(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Return the tokens (B, V, D) of those numbers (B, V) out of all (B, N, D)."""
    return tokens.gather(1, numbers[:, :, None].expand(-1, -1, tokens.shape[2]))


def encoder_of(model: nn.Module) -> VitEncoder | None:
    """Return the encoder in a network, if it has one."""
    return next((part for part in model.modules() if isinstance(part, VitEncoder)), None)
