"""Networks that enlarge images: a correction to bicubic interpolation, zero before training.

Shapes: B images, C channels, H by W pixels, s the scale. All work at low resolution and enlarge at
the end by pixel shuffle (Shi et al. 2016, arXiv 1609.05158).
"""

from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from lenshpc.models.encoder import EncoderMaps
from lenshpc.models.vit import Vit
from lenshpc.registry import TaskSpec
from lenshpc.tasks.super_resolution.settings import SuperResolution, scale_of

RESIDUAL_SCALE = 0.1  # EDSR's
REDUCTION = 16  # RCAN's: channels to those of the bottleneck of its attention
GROUP_BLOCKS = 4  # RCAN's blocks under one skip
DEFAULT_VIT = Vit()

Layer = Callable[[], nn.Module]


class SuperResolver(nn.Module):
    """Bicubic interpolation, as cv2 and torch have it (a = -0.75), plus what a network adds.

    The network's last convolution starts at zero, so an untrained model is bicubic exactly.
    """

    def __init__(self, network: nn.Sequential, scale: int) -> None:
        super().__init__()
        last = network[-1]
        # Zero, so that training begins from bicubic and not from noise; the layers before get their
        # gradients from the second step on.
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.network, self.scale = network, scale

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, C, sH, sW) of images (B, C, H, W)."""
        enlarged: Tensor = bicubic(image, self.scale) + self.network(image)
        return enlarged


def bicubic(image: Tensor, scale: int) -> Tensor:
    """Return images enlarged by bicubic interpolation; pixel areas are aligned, not centres."""
    return functional.interpolate(image, scale_factor=scale, mode="bicubic", align_corners=False)


class Residual(nn.Module):
    """Add to an input what layers make of it, times a factor."""

    def __init__(self, layers: Iterable[nn.Module], factor: float = 1.0) -> None:
        super().__init__()
        self.layers, self.factor = nn.Sequential(*layers), factor

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        change: Tensor = self.layers(maps)
        return maps + (change if self.factor == 1 else self.factor * change)


class ChannelAttention(nn.Module):
    """Weigh the channels by what their means say (Zhang et al. 2018, section 3.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // REDUCTION)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        weighed: Tensor = maps * self.weigh(maps)
        return weighed


def srresnet(channels: int, scale: int, width: int, blocks: int) -> nn.Sequential:
    """Return SRResNet (Ledig et al. 2017, arXiv 1609.04802): 16 blocks of 64 with batch norm."""

    def block() -> nn.Module:
        first = [_conv(width, width), nn.BatchNorm2d(width), nn.PReLU()]
        return Residual([*first, _conv(width, width), nn.BatchNorm2d(width)])

    body = [*(block() for _ in range(blocks)), _conv(width, width), nn.BatchNorm2d(width)]
    head = [_conv(channels, width, 9), nn.PReLU()]
    return nn.Sequential(
        *head, Residual(body), *_enlarge(width, scale, nn.PReLU), _conv(width, channels, 9)
    )


def edsr(channels: int, scale: int, width: int, blocks: int) -> nn.Sequential:
    """Return EDSR (Lim et al. 2017, arXiv 1707.02921), its baseline's size: no batch norm."""

    def block() -> nn.Module:
        return Residual([_conv(width, width), nn.ReLU(), _conv(width, width)], RESIDUAL_SCALE)

    body = [*(block() for _ in range(blocks)), _conv(width, width)]
    return _plain(channels, scale, width, body)


def rcan(channels: int, scale: int, width: int, blocks: int) -> nn.Sequential:
    """Return a small RCAN (Zhang et al. 2018, arXiv 1807.02758): groups of channel attention.

    The published one has 10 groups of 20 blocks; this one has groups of 4.
    """

    def block() -> nn.Module:
        convolutions = [_conv(width, width), nn.ReLU(), _conv(width, width)]
        return Residual([*convolutions, ChannelAttention(width)])

    def group(num_blocks: int) -> nn.Module:
        return Residual([*(block() for _ in range(num_blocks)), _conv(width, width)])

    sizes = [min(GROUP_BLOCKS, blocks - first) for first in range(0, blocks, GROUP_BLOCKS)]
    return _plain(channels, scale, width, [*map(group, sizes), _conv(width, width)])


def mae_sr(
    channels: int, scale: int, width: int, blocks: int, vit: Vit = DEFAULT_VIT
) -> nn.Sequential:
    """Return EDSR whose first maps come from the encoder of a masked autoencoder too."""
    layers = [*edsr(channels, scale, width, blocks)]
    return nn.Sequential(EncoderMaps(channels, width, vit), *layers[1:])


def build_srresnet(spec: TaskSpec) -> SuperResolver:
    """Return SRResNet for the images and settings of a spec."""
    return _build_corrector(spec, srresnet)


def build_edsr(spec: TaskSpec) -> SuperResolver:
    """Return EDSR for the images and settings of a spec."""
    return _build_corrector(spec, edsr)


def build_rcan(spec: TaskSpec) -> SuperResolver:
    """Return RCAN for the images and settings of a spec."""
    return _build_corrector(spec, rcan)


def build_mae_sr(spec: TaskSpec) -> SuperResolver:
    """Return the network that shares its encoder with a masked autoencoder."""
    return _build_corrector(spec, partial(mae_sr, vit=SuperResolution.of(spec.settings).vit))


def _build_corrector(
    spec: TaskSpec, make: Callable[[int, int, int, int], nn.Sequential]
) -> SuperResolver:
    settings = SuperResolution.of(spec.settings)
    scale = scale_of(spec.image_shape, spec.target_shape or spec.image_shape)
    network = make(spec.image_shape[0], scale, settings.width, settings.blocks)
    return SuperResolver(network, scale)


def _plain(channels: int, scale: int, width: int, body: list[nn.Module]) -> nn.Sequential:
    """Return a network of 3 × 3 convolutions around a body under one skip."""
    return nn.Sequential(
        _conv(channels, width),
        Residual(body),
        *_enlarge(width, scale, nn.Identity),
        _conv(width, channels),
    )


def _enlarge(width: int, scale: int, activation: Layer) -> list[nn.Module]:
    """Return layers that double the sides as often as the scale asks for."""
    steps = scale.bit_length() - 1
    return [
        layer
        for _ in range(steps)
        for layer in (_conv(width, 4 * width), nn.PixelShuffle(2), activation())
    ]


def _conv(inner: int, outer: int, side: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, side, padding=side // 2)
