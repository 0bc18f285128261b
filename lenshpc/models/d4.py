"""A small network that is the same for an image and its seven turns and mirror images.

Group convolutions over the eight symmetries of the square, p4m: T. S. Cohen and M. Welling, "Group
equivariant convolutional networks", ICML 2016 (arXiv 1602.07576). Shapes: B images, C and O
channels, G = 8 symmetries, H × W pixels, k × k taps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lenshpc.models.classifier import Classifier

NUM_SYMMETRIES = 8


def transform(image: Tensor, symmetry: int) -> Tensor:
    """Return (…, H, W) mirrored left-right if `symmetry` >= 4, then turned symmetry % 4 times."""
    mirrored = image.flip(-1) if symmetry >= 4 else image
    return torch.rot90(mirrored, symmetry % 4, dims=(-2, -1))


def relative_symmetries() -> Tensor:
    """Return (G, G): the symmetry g⁻¹h in row g, column h."""
    mark = torch.arange(4).reshape(2, 2)  # tells all eight apart
    seen = [transform(mark, g) for g in range(NUM_SYMMETRIES)]

    def quotient(g: int, h: int) -> int:
        """Return the x for which gx = h: g after x."""
        found = [torch.equal(transform(seen[x], g), seen[h]) for x in range(NUM_SYMMETRIES)]
        return found.index(True)

    table = [[quotient(g, h) for h in range(NUM_SYMMETRIES)] for g in range(NUM_SYMMETRIES)]
    return torch.tensor(table)


class LiftingConv(nn.Module):
    """Correlate images (B, C, H, W) with eight views of each filter: (B, O·G, H, W), eq. 10."""

    views: Tensor

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, size * size))
        nn.init.kaiming_normal_(self.weight)
        taps = torch.arange(size * size).reshape(size, size)
        views = torch.stack([transform(taps, g).flatten() for g in range(NUM_SYMMETRIES)])
        # Not persistent: an index that follows from the architecture has no place in files of
        # weights.
        self.register_buffer("views", views, persistent=False)
        self._size = size

    def forward(self, image: Tensor) -> Tensor:
        """Return the maps, the symmetries of a filter side by side."""
        size = self._size
        filters_OGCT = self.weight[:, :, self.views].transpose(1, 2)
        filters = filters_OGCT.reshape(-1, image.shape[1], size, size)
        # Stride 1 and odd sizes only: anything that singles out a corner breaks the symmetry.
        return functional.conv2d(image, filters, padding=size // 2)


class GroupConv(nn.Module):
    """Correlate maps over positions and symmetries: (B, C·G, H, W) → (B, O·G, H, W), eq. 11.

    The filter of the output g is ψ moved by g: its taps are transformed, and where h stands it has
    what ψ has at g⁻¹h.
    """

    moved: Tensor

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        num_taps = size * size
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 8 * num_taps))
        nn.init.kaiming_normal_(self.weight)
        taps = torch.arange(num_taps).reshape(size, size)
        views_GT = torch.stack([transform(taps, g).flatten() for g in range(NUM_SYMMETRIES)])
        moved_GHT = relative_symmetries()[:, :, None] * num_taps + views_GT[:, None, :]
        self.register_buffer("moved", moved_GHT.flatten(1), persistent=False)
        self._size = size

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps, the symmetries of a filter side by side."""
        size = self._size
        filters_OGCT = self.weight[:, :, self.moved].transpose(1, 2)
        filters = filters_OGCT.reshape(-1, maps.shape[1], size, size)
        return functional.conv2d(maps, filters, padding=size // 2)


class GroupNorm(nn.BatchNorm3d):
    """Normalise each channel over batch, symmetries and pixels together."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, C·G, H, W) as it came in."""
        return super().forward(by_symmetry(maps)).flatten(1, 2)


def by_symmetry(maps: Tensor) -> Tensor:
    """Return (B, C, G, H, W)."""
    return torch.unflatten(maps, 1, (-1, NUM_SYMMETRIES))


def halve(maps: Tensor) -> Tensor:
    """Return means over windows that lie alike from all sides, whether the sides are odd or even.

    Strides would begin at one corner, which a turn moves.
    """
    height, width = maps.shape[-2:]
    return functional.adaptive_avg_pool2d(maps, ((height + 1) // 2, (width + 1) // 2))


class ResidualBlock(nn.Module):
    """Two group convolutions beside a way past them (He et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            GroupConv(in_channels, out_channels, 3),
            GroupNorm(out_channels),
            nn.ReLU(),
            GroupConv(out_channels, out_channels, 3),
            GroupNorm(out_channels),
        )
        same = in_channels == out_channels
        self.past = nn.Identity() if same else GroupConv(in_channels, out_channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same size."""
        return functional.relu(self.body(maps) + self.past(maps))


class D4Net(Classifier):
    """A residual network of group convolutions: 0.24 M parameters; any channels, any size."""

    WIDTHS = (8, 16, 24, 32)

    def __init__(self, in_channels: int, num_outputs: int) -> None:
        super().__init__(self.WIDTHS[-1], num_outputs)
        width = self.WIDTHS[0]
        self.stem = nn.Sequential(LiftingConv(in_channels, width, 7), GroupNorm(width), nn.ReLU())
        pairs = zip((width, *self.WIDTHS), self.WIDTHS, strict=False)
        self.blocks = nn.ModuleList(ResidualBlock(*pair) for pair in pairs)

    def forward_features(self, image: Tensor) -> Tensor:
        """Return (B, C, H/16, W/16), the largest values over the symmetries; they turn with it."""
        maps = self.stem(image)
        for block in self.blocks:
            maps = block(halve(maps))
        return by_symmetry(maps).amax(dim=2)

    def mean(self, maps: Tensor) -> Tensor:
        """Return the mean over the pixels (B, C), which no turn changes."""
        return maps.mean(dim=(2, 3))
