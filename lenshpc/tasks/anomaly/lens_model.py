"""An autoencoder whose decoder is a lens: a network guesses its numbers, ray tracing draws it.

The guess is where a least-squares fit of each image begins, once training has ended.

What all images share (Einstein radius, profiles, blur, noise) are weights, so a lens that differs
in these, or that no smooth lens draws, is reconstructed badly. Shapes: B images, C channels, H × W
pixels, L = 8 numbers an image, T = 3 templates. Lengths are in pixels, angles in radians.
"""

import torch
from torch import Tensor, nn

from lenshpc.models.d4 import NUM_SYMMETRIES, transform
from lenshpc.models.numerics import product, solve
from lenshpc.physics import deflect_shear, deflect_sis
from lenshpc.registry import Shape
from lenshpc.tasks.anomaly.autoencoders import ConvEncoder
from lenshpc.tasks.anomaly.scorers import Scorer, row_mean

NUM_LATENTS = 8
# γ1, γ2 · source's place in Einstein radii · ellipticities of source and lens light
REACH = (0.5, 0.5, 1.5, 1.5, 0.6, 0.6, 0.6, 0.6)
SOFTENING_PX = 0.1
RIDGE = 1e-4
SMALLEST = 1e-8
NUM_STEPS = 2  # of the fit to an image; a third changes little
DIFFERENCE = 1e-3  # of a latent number, for the derivative by it
DAMPING = 1e-2  # of the fit's first step
MAX_STEP = 0.5  # of a latent number
MAX_LATENT = 4.0  # where tanh is 0.999: what lies beyond draws the same
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
        self.encoder = ConvEncoder(image_shape, NUM_LATENTS)
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
        # Not in autocast: in bfloat16 it would draw, fit and solve with three digits.
        with torch.autocast(image.device.type, enabled=False):
            # The logarithm of a perfect fit would be minus infinity.
            left = self._misfit(self.encoder(image), image) + SMALLEST
            return self.log_noise.mean() + left.log() / 2

    def reconstruct(self, image: Tensor) -> Tensor:
        """Return the best reconstruction that is found from the guesses of the eight views.

        So an image is judged by the best lens that was found for it, and judged alike from all
        sides.
        """
        with torch.autocast(image.device.type, enabled=False):
            turned = {at: transform(image, at) for at in range(NUM_SYMMETRIES)}
            views = {at: view for at, view in turned.items() if view.shape == image.shape}
            seen = torch.stack([*views.values()])
            guessed = torch.stack([self.encoder(view) for view in seen])
            left = torch.stack([self._misfit(*pair) for pair in zip(guessed, seen, strict=True)])
            best = left.argmin(dim=0), torch.arange(len(image), device=image.device)
            drawn = self._draw(self.fit(guessed[best], seen[best]), seen[best])
            back = torch.stack([restore(drawn, at) for at in views])
        return back[best]

    def fit(self, latent: Tensor, image: Tensor) -> Tensor:
        """Return latents (B, L) from which the images are drawn better, or the same ones.

        Steps of Levenberg and Marquardt with differences for derivatives: eight more drawings a
        step, which takes less than automatic differentiation.
        """
        left, eye = self._residual(latent, image), torch.eye(NUM_LATENTS, device=image.device)
        damping = torch.full_like(latent[:, :1, None], DAMPING)
        for _ in range(NUM_STEPS):
            changed = [self._residual(latent + DIFFERENCE * one, image) for one in eye]
            slope = torch.stack([(one - left) / DIFFERENCE for one in changed], dim=2)
            normal = product(slope.mT, slope)
            scale = torch.diagonal(normal, dim1=1, dim2=2)[:, None] + SMALLEST
            right = product(slope.mT, left[..., None])
            step = solve(normal + damping * scale * eye, right)
            tried = (latent - step[..., 0].clamp(-MAX_STEP, MAX_STEP)).clamp(
                -MAX_LATENT, MAX_LATENT
            )
            left_there = self._residual(tried, image)
            # A step that makes it worse, or gives NaN, is not taken: NaN is never less.
            better = (row_mean(left_there**2) < row_mean(left**2))[:, None]
            latent = torch.where(better, tried, latent)
            left = torch.where(better, left_there, left)
            damping = torch.where(better[..., None], damping / 3, damping * 5)
        return latent

    def _residual(self, latent: Tensor, image: Tensor) -> Tensor:
        """Return what is left of each image, in units of the noise, (B, C · H · W)."""
        return ((self._draw(latent, image) - image) / self.log_noise.exp()).flatten(1)

    def _misfit(self, latent: Tensor, image: Tensor) -> Tensor:
        """Return the mean square (B,) of what is left of each image."""
        return row_mean(self._residual(latent, image) ** 2)

    @property
    def log_noise(self) -> Tensor:
        """Return the logarithm of each pixel's noise (H, W), up to a constant."""
        return NOISE_RATE * self.noise

    def _draw(self, latent: Tensor, image: Tensor) -> Tensor:
        """Return the sum of templates that comes nearest to the images, (B, C, H, W)."""
        templates = self.templates(latent)[:, None].flatten(3)  # (B, 1, T, N)
        # detach: the noise is learnt by the likelihood, not by bending the fit of the brightnesses.
        weight = (-self.log_noise.detach()).exp().expand_as(image)
        weighted = templates * weight.flatten(2)[:, :, None]
        target = (image * weight).flatten(2)[..., None]
        normal = product(weighted, weighted.mT)
        # Relative to the templates: two that are alike would make the matrix singular.
        ridge = RIDGE * torch.diagonal(normal, dim1=2, dim2=3).mean(dim=2)
        eye = torch.eye(3, device=image.device, dtype=image.dtype)
        bright = solve(normal + ridge[..., None, None] * eye, product(weighted, target))
        return product(bright.mT, templates).reshape(image.shape)

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
        blurred = self._blur(torch.stack([source, light], dim=1))
        return torch.cat([blurred, torch.ones_like(blurred[:, :1])], dim=1)

    def _blur(self, maps: Tensor) -> Tensor:
        """Return maps (B, T, H, W) seen through a Gaussian point-spread function."""
        rows, columns = (self._gaussian(side) for side in maps.shape[2:])
        return product(product(rows, maps), columns)

    def _gaussian(self, side: int) -> Tensor:
        """Return the matrix that blurs a side."""
        at = torch.arange(side, device=self.blur.device)
        weight = (-(((at[:, None] - at) / self.blur.exp()) ** 2) / 2).exp()
        return weight / weight[side // 2].sum()


def restore(image: Tensor, symmetry: int) -> Tensor:
    """Return the image that `transform` turned into this one."""
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
