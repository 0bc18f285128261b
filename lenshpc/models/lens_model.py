"""An autoencoder whose decoder is a lens: a network guesses its numbers, ray tracing draws it.

What all images share (Einstein radius, profiles, blur, noise) are weights, so a lens that differs
in these, or that no smooth lens draws, is reconstructed badly. Shapes: B images, C channels, H × W
pixels, L = 8 numbers an image, T = 3 templates. Lengths are in pixels, angles in radians.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lenshpc.models.autoencoders import Encoder
from lenshpc.models.d4 import NUM_SYMMETRIES, transformed
from lenshpc.models.scorers import Scorer, Shape, row_mean
from lenshpc.physics import deflect_shear, deflect_sis

NUM_LATENTS = 8
# γ1, γ2 · source's place in Einstein radii · ellipticities of source and lens light
REACH = (0.5, 0.5, 1.5, 1.5, 0.6, 0.6, 0.6, 0.6)
SOFTENING_PX = 0.1
KERNEL_RADIUS_PX = 4
RIDGE = 1e-4
SMALLEST = 1e-8
NOISE_RATE = 10.0  # Adam moves all weights alike; the noise map has furthest to go


class LensAutoencoder(Scorer):
    """An isothermal sphere with shear before a Sersic source, and a Sersic galaxy in its centre.

    Brightness of source, lens light and sky, a channel each, are not guessed but solved for: the
    image is linear in them.
    """

    x: Tensor
    y: Tensor
    reach: Tensor

    def __init__(self, image_shape: Shape) -> None:
        super().__init__()
        _, height, width = image_shape
        self.encoder = Encoder(image_shape, NUM_LATENTS)
        nn.init.normal_(self.encoder.out.weight, std=1e-3)
        lengths = torch.tensor([0.2, 0.08, 0.08]) * min(height, width)
        # Einstein radius, radii of source and lens light
        self.lengths = nn.Parameter(lengths.log())
        self.indices = nn.Parameter(torch.tensor([1.5, 2.5]).log())
        self.blur = nn.Parameter(torch.zeros(1))
        self.noise = nn.Parameter(torch.zeros(height, width))  # only its shape matters
        sides = (torch.arange(side) - (side - 1) / 2 for side in (height, width))
        y, x = torch.meshgrid(*sides, indexing="ij")
        self.register_buffer("x", x, persistent=False)
        self.register_buffer("y", y, persistent=False)
        self.register_buffer("reach", torch.tensor(REACH), persistent=False)

    def forward(self, image: Tensor, _progress: Tensor | None = None) -> Tensor:
        """Return minus the log-likelihood of each image, a mean a pixel.

        Each image has noise of its own strength, at its most likely value: log σ + log(RSS)/2.
        """
        with torch.autocast(image.device.type, enabled=False):
            left = self._weighted(image - self._drawn(self.encoder(image), image))
            return self.log_noise.mean() + left.log() / 2

    def judge(self, image: Tensor) -> dict[str, Tensor]:
        """Return the best of the reconstructions that are guessed from the eight views.

        So an image is judged by the best lens that was found for it, and judged alike from all
        sides.
        """
        with torch.autocast(image.device.type, enabled=False):
            views = [self._seen(image, symmetry) for symmetry in range(NUM_SYMMETRIES)]
            drawn = torch.stack([view for view in views if view.shape == image.shape])
            left = torch.stack(
                [row_mean(((view - image) / self.log_noise.exp()) ** 2) for view in drawn]
            )
            best = left.argmin(dim=0)
        return {"reconstruction": drawn[best, torch.arange(len(image), device=best.device)]}

    def _seen(self, image: Tensor, symmetry: int) -> Tensor:
        """Return the reconstruction guessed from the image under a symmetry, turned back."""
        view = transformed(image, symmetry)
        if view.shape != image.shape:
            return view
        return restored(self._drawn(self.encoder(view), view), symmetry)

    @property
    def log_noise(self) -> Tensor:
        """Return the logarithm of each pixel's noise (H, W), up to a constant."""
        return NOISE_RATE * self.noise

    def _weighted(self, left: Tensor) -> Tensor:
        """Return the mean square of each image's residual in units of the noise (B,)."""
        return row_mean((left / self.log_noise.exp()) ** 2) + SMALLEST

    def _drawn(self, latent: Tensor, image: Tensor) -> Tensor:
        """Return the sum of templates that comes nearest to the images, (B, C, H, W)."""
        templates = self.templates(latent)[:, None].flatten(3)  # (B, 1, T, N)
        weight = (-self.log_noise.detach()).exp().expand_as(image)
        weighted = templates * weight.flatten(2)[:, :, None]
        target = (image * weight).flatten(2)[..., None]
        normal = weighted @ weighted.mT
        ridge = RIDGE * torch.diagonal(normal, dim1=2, dim2=3).mean(dim=2)
        eye = torch.eye(3, device=image.device, dtype=image.dtype)
        bright = torch.linalg.solve(normal + ridge[..., None, None] * eye, weighted @ target)
        drawn: Tensor = bright.mT @ templates
        return drawn.reshape(image.shape)

    def templates(self, latent: Tensor) -> Tensor:
        """Return source, lens light and sky, (B, 3, H, W), each of brightness about 1."""
        gamma1, gamma2, at_x, at_y, *shapes = (
            (torch.tanh(latent) * self.reach).T[..., None, None].unbind()
        )
        radius, source_radius, light_radius = self.lengths.exp().unbind()
        source_index, light_index = self.indices.exp().unbind()
        alpha = deflect_sis(self.x, self.y, radius, SOFTENING_PX)
        sheared = deflect_shear(self.x, self.y, gamma1, gamma2)
        beta_x = self.x - alpha[0] - sheared[0] - radius * at_x
        beta_y = self.y - alpha[1] - sheared[1] - radius * at_y
        source = sersic(beta_x, beta_y, source_radius, source_index, *shapes[:2])
        light = sersic(self.x, self.y, light_radius, light_index, *shapes[2:])
        blurred = self._blurred(torch.stack([source, light], dim=1))
        return torch.cat([blurred, torch.ones_like(blurred[:, :1])], dim=1)

    def _blurred(self, maps: Tensor) -> Tensor:
        """Return maps (B, T, H, W) seen through a Gaussian point-spread function."""
        at = torch.arange(-KERNEL_RADIUS_PX, KERNEL_RADIUS_PX + 1, device=maps.device)
        kernel = torch.softmax(-((at / self.blur.exp()) ** 2) / 2, dim=0)
        flat = maps.flatten(0, 1)[:, None]
        flat = functional.conv2d(flat, kernel[None, None, :, None], padding=(KERNEL_RADIUS_PX, 0))
        flat = functional.conv2d(flat, kernel[None, None, None, :], padding=(0, KERNEL_RADIUS_PX))
        return flat.view_as(maps)


def restored(image: Tensor, symmetry: int) -> Tensor:
    """Return the image that `transformed` turned into this one."""
    turned = torch.rot90(image, -(symmetry % 4), dims=(-2, -1))
    return turned.flip(-1) if symmetry >= 4 else turned


def sersic(x: Tensor, y: Tensor, radius: Tensor, index: Tensor, e1: Tensor, e2: Tensor) -> Tensor:
    """Return a Sersic profile of brightness 1 at the effective radius; the index may be learnt.

    b by the series of Ciotti and Bertin (1999, A&A 352, 447), eq. 18, good to 1e-3 above n = 0.5;
    e1, e2 are (1 - q²)/(1 + q²) times the cosine and sine of twice the angle.
    """
    b = 2 * index - 1 / 3 + 4 / (405 * index)
    square = x**2 + y**2 - e1 * (x**2 - y**2) - 2 * e2 * x * y
    square = square / (1 - e1**2 - e2**2).sqrt() + SOFTENING_PX**2
    return (b - b * (square / radius**2) ** (0.5 / index)).exp()
