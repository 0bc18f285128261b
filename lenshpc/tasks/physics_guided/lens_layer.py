"""A lens as a differentiable layer: trace rays, rebuild the source, draw the image again.

x runs along columns and y along rows, in arcsec from the middle of the image, as in the simulator.
Shapes: B images, C channels, H × W pixels, N rays, S × S nodes of the source, P parameters.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lenshpc.physics import deflect_shear, deflect_sie, deflect_sis
from lenshpc.tasks.physics_guided.settings import Physics

LEAST_COVER = 1e-3  # added to the weight of a node: one that a ray barely touches stays near 0
ROUND = 1e-4  # an ellipticity below it has no direction, whose gradient would be unbounded
TINY = 1e-12


class LensParameters(NamedTuple):
    """An isothermal lens with external shear for each image, (B,); lengths in arcsec."""

    theta_e_arcsec: Tensor
    centre_x_arcsec: Tensor
    centre_y_arcsec: Tensor
    gamma1: Tensor
    gamma2: Tensor
    axis_ratio: Tensor
    angle_rad: Tensor


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Light and what the lens makes of it at the rays (B, N), and the source between (B, S, S)."""

    light: Tensor
    render: Tensor
    source: Tensor


class LensRenderer(nn.Module):
    """Square images of one pixel scale, seen through a lens each; it has no weights.

    A ray goes through each pixel of the ring; all else of an image counts for nothing.
    """

    x: Tensor
    y: Tensor
    ring: Tensor
    places: Tensor

    def __init__(self, physics: Physics, side_px: int, pixel_scale_arcsec: float) -> None:
        super().__init__()
        self.physics = physics
        at = (torch.arange(side_px) - (side_px - 1) / 2) * pixel_scale_arcsec
        y, x = torch.meshgrid(at, at, indexing="ij")
        low, high = physics.ring_arcsec
        ring = (low <= torch.hypot(x, y)) & (torch.hypot(x, y) <= high)
        # Of the ring's pixels in a flat image: a mask would have a GPU waited for.
        places = ring.flatten().nonzero()[:, 0]
        buffers = {"x": x[ring], "y": y[ring], "ring": ring, "places": places}
        for name, values in buffers.items():
            # Follows from settings and size of image; in a file of weights it would bind the
            # network to one size.
            self.register_buffer(name, values, persistent=False)

    def lens(self, raw_BP: Tensor) -> LensParameters:
        """Return the lenses of numbers without bounds; zeros are a round one in the middle."""
        # float32 whatever the network runs in: in bfloat16 the grid of rays itself would be rounded
        # to whole pixels.
        physics, raw = self.physics, raw_BP.to(self.x.dtype)
        low, high = physics.theta_e_arcsec
        none = torch.zeros_like(raw[:, 0])
        further = iter((torch.tanh(raw[:, 3:])).unbind(dim=1))
        shear = (next(further), next(further)) if physics.shear else (none, none)
        axis_ratio, angle = self._ellipse(*further) if physics.lens == "sie" else (none + 1, none)
        return LensParameters(
            theta_e_arcsec=low + (high - low) * torch.sigmoid(raw[:, 0]),
            centre_x_arcsec=physics.max_centre_arcsec * torch.tanh(raw[:, 1]),
            centre_y_arcsec=physics.max_centre_arcsec * torch.tanh(raw[:, 2]),
            gamma1=physics.max_shear * shear[0],
            gamma2=physics.max_shear * shear[1],
            axis_ratio=axis_ratio,
            angle_rad=angle,
        )

    def _ellipse(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return axis ratio and angle of ellipticities in (-1, 1), (1 - q)/(1 + q) at most |e|.

        The angle is half that of (first, second), so that half a turn is no turn.
        """
        least = self.physics.min_axis_ratio
        largest = (1 - least) / (1 + least)
        # atan2 and the root have no gradient at 0, where untrained networks begin.
        first = torch.where(first.square() + second.square() < ROUND**2, first + ROUND, first)
        length = (first.square() + second.square()).sqrt()
        flat = largest * torch.tanh(length)
        return (1 - flat) / (1 + flat), torch.atan2(second, first) / 2

    def trace(self, lens: LensParameters) -> tuple[Tensor, Tensor]:
        """Return where each ray comes from, x and y (B, N) about the lens's own axis."""
        of = LensParameters(*(values[:, None] for values in lens))
        x, y = self.x - of.centre_x_arcsec, self.y - of.centre_y_arcsec
        core = self.physics.softening_arcsec
        if self.physics.lens == "sie":
            alpha = deflect_sie(x, y, of.theta_e_arcsec, of.axis_ratio, of.angle_rad, core)
        else:
            alpha = deflect_sis(x, y, of.theta_e_arcsec, core)
        shear = deflect_shear(x, y, of.gamma1, of.gamma2)
        return x - alpha[0] - shear[0], y - alpha[1] - shear[1]

    def reconstruct(self, image: Tensor, lens: LensParameters) -> Reconstruction:
        """Return the source that images (B, C, H, W) would have behind the lens, and its images.

        Several images of one place in the source are averaged: every ray's light is shared out
        among the four nodes about the place that it comes from, with bilinear weights, and a node
        has the weighted mean. Drawing takes the same weights. Neither undoes the blurring by the
        point-spread function, so the source is the blurred one.
        """
        light = light_of(image.to(self.x.dtype)).flatten(1)[:, self.places]
        index, weight = self._nodes(*self.trace(lens))
        side = self.physics.source_side
        total, cover = (
            _sums(index, values, side**2) for values in (weight * light[:, None], weight)
        )
        # A node that no ray touches is 0 by this, not 0/0.
        source = total / (cover + LEAST_COVER)
        behind = source.gather(1, index.flatten(1)).reshape(weight.shape)
        return Reconstruction(
            light=light,
            render=(weight * behind).sum(dim=1),
            source=source.reshape(-1, side, side),
        )

    def draw(self, rays: Tensor) -> Tensor:
        """Return values at the rays (B, N) as images (B, H, W), 0 outside the ring."""
        images = rays.new_zeros(len(rays), self.ring.numel())
        return images.index_copy(1, self.places, rays).view(-1, *self.ring.shape)

    def losses(self, image: Tensor, lens: LensParameters) -> Tensor:
        """Return each image's misfit (B,), as a part of the misfit without any lens.

        So 1 is a lens that explains nothing, whatever the brightness of the image.
        """
        none = torch.zeros_like(lens.theta_e_arcsec)
        nothing = LensParameters(*[none] * len(lens))._replace(axis_ratio=none + 1)
        with torch.no_grad():
            unlensed = self._misfits(image, nothing).clamp(min=TINY)
        return self._misfits(image, lens) / unlensed

    def _misfits(self, image: Tensor, lens: LensParameters) -> Tensor:
        """Return the mean difference at the rays, and the source's mean slope by its weight.

        The slope is taken over half the width of the source, so both are brightnesses.
        """
        found = self.reconstruct(image, lens)
        steps = [found.source.diff(dim=axis).abs().sum(dim=(1, 2)) for axis in (1, 2)]
        slope = (steps[0] + steps[1]) / (2 * (self.physics.source_side - 1))
        misfit = (found.render - found.light).abs().mean(dim=1)
        return misfit + self.physics.smoothness * slope

    def _nodes(self, beta_x: Tensor, beta_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the four nodes about each ray, as places in the flat source, and their weights.

        Both (B, 4, N); a node beyond the square has the weight 0.
        """
        side = self.physics.source_side
        spacing = 2 * self.physics.source_half_width_arcsec / (side - 1)
        columns, rows = ((beta / spacing + (side - 1) / 2).flatten(1) for beta in (beta_x, beta_y))
        places, weights = [], []
        for row, row_weight in _neighbours(rows):
            for column, column_weight in _neighbours(columns):
                inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
                places.append(row.clamp(0, side - 1) * side + column.clamp(0, side - 1))
                weights.append(row_weight * column_weight * inside)
        return torch.stack(places, dim=1), torch.stack(weights, dim=1)


def light_of(image: Tensor) -> Tensor:
    """Return the mean over channels (B, H, W) above the sky, the median of the outermost pixels."""
    light = image.mean(dim=1)
    edges = (light[:, 0], light[:, -1], light[:, :, 0], light[:, :, -1])
    return light - torch.cat(edges, dim=1).median(dim=1).values[:, None, None]


def _neighbours(at: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the whole numbers below and above, each with its linear weight."""
    # The node is a choice and has no gradient; the weight has.
    below = at.detach().floor()
    part = at - below
    return (below.long(), 1 - part), (below.long() + 1, part)


def _sums(index: Tensor, values: Tensor, num_nodes: int) -> Tensor:
    """Return the sum (B, nodes) of the values (B, 4, N) that fall on each node."""
    zeros = values.new_zeros(len(values), num_nodes)
    return zeros.scatter_add(1, index.flatten(1), values.flatten(1))
