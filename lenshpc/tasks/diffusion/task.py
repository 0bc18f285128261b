"""Diffusion: a network that takes noise out of images, and so draws new ones.

The fold's normalisation gives images a deviation of 1; they are halved, as Karras et al. 2022
(arXiv 2206.00364) have it, so that most pixels lie in [-1, 1], whatever the store's units.
Shapes: B rows of a batch, C channels, H by W pixels.
"""

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.data.normalisation import dtype_that_holds, in_units, on_device
from lenshpc.registry import Batch, TaskSpec, build_component
from lenshpc.tasks.diffusion.features import Blur, Features
from lenshpc.tasks.diffusion.noise_schedule import NoiseSchedule
from lenshpc.tasks.diffusion.sampling import Sampler, SeededNoise
from lenshpc.tasks.diffusion.settings import Diffusion

STD = 0.5  # of the images that the network sees
# What noise is drawn for: each purpose has numbers of its own.
# The numbers are part of every draw: a new purpose goes to the end.
VALIDATION, EVALUATION, SAMPLES = range(3)


class Denoising:
    """A network that is told the level of noise; images are drawn level by level."""

    num_phases = 1

    def __init__(self, spec: TaskSpec) -> None:
        settings = Diffusion.of(spec.settings)
        self._settings, self._spec, self.shape = settings, spec, spec.image_shape
        self.num_classes = len(spec.classes) if settings.guidance else 0
        self._kept = dtype_that_holds(spec.mean, spec.std)
        self._schedule = NoiseSchedule(
            num_steps=settings.num_steps,
            kind=settings.schedule,
            prediction=settings.prediction,
            zero_terminal_snr=settings.zero_terminal_snr,
        )
        self._features, self._blur = Features(settings.inception), Blur(self.shape[1:])

    def build_model(self, name: str) -> nn.Module:
        """Return the network that takes images, levels and classes."""
        network: nn.Module = build_component("networks", self._spec, name)
        return network

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the mean weighted error at random levels; of some rows the class is hidden."""
        image, label = STD * batch["image"], None
        # From the device's generator, whose state each rank saves beside the CPU's.
        level = torch.randint(self._settings.num_steps, (len(image),), device=image.device)
        if self._settings.guidance:
            hidden = torch.rand(len(image), device=image.device) < self._settings.guidance.dropout
            label = torch.where(hidden, self.num_classes, batch["label"])
        return {"loss": self._losses(model, image, torch.randn_like(image), level, label).mean()}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted error of each row, at a level and with noise that are its own."""
        # Of the row alone: a level drawn anew each epoch would scatter the loss more than an epoch
        # lowers it.
        image, noise = STD * batch["image"], SeededNoise((VALIDATION,), batch["row"])
        level, drawn = noise.levels(self._settings.num_steps), noise.draw(self.shape)
        return {"loss": self._losses(model, image, drawn, level, self._label(batch))}

    def infer(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the same, an image `sample` (B, C, H, W) in the store's units, and features.

        The features are of the drawn image, of the row's own one and of that one blurred.
        """
        drawn = self.draw(model, EVALUATION, 0, batch["row"], self._label(batch))
        real = in_units(batch["image"], self._spec.mean, self._spec.std)
        blurred = self._blur.to(real.device)(real)
        features = self._features({"sample": drawn, "real": real, "blurred": blurred})
        return {**self.predict(model, batch), "sample": drawn.to(self._kept), **features}

    def summarise(
        self, _labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return the mean error."""
        return {"loss": float(predictions["loss"].mean(dtype=np.float64))}

    def draw(
        self,
        model: nn.Module,
        purpose: int,
        seed: int,
        rows: Tensor,
        label: Tensor | None = None,
    ) -> Tensor:
        """Return images (B, C, H, W) in the store's units: functions of purpose, seed and row.

        The rows (B,) lie where the network does.
        """
        noise = SeededNoise((purpose, seed), rows)
        return self.decode(model, noise.draw(self.shape), label, noise=noise)

    def decode(
        self,
        model: nn.Module,
        start: Tensor,
        label: Tensor | None = None,
        *,
        noise: SeededNoise | None = None,
        most_steps: int | None = None,
    ) -> Tensor:
        """Return the images of what is noise alone; by DDIM where no further noise is given."""
        steps = self._settings.sampling_steps
        sampler = Sampler(
            schedule=self._schedule,
            kind=self._settings.sampler,
            num_steps=steps if most_steps is None else min(steps, most_steps),
            scale=self._settings.guidance.scale if self._settings.guidance else None,
            bounds=self._bounds(start.device),
        )
        draw = (lambda: noise.draw(self.shape)) if noise else None
        return self._in_units(sampler(model, start, label, draw))

    def _losses(
        self, model: nn.Module, image: Tensor, noise: Tensor, level: Tensor, label: Tensor | None
    ) -> Tensor:
        """Return the weighted mean squared error of each row (B,)."""
        noisy = self._schedule.add_noise(image, noise, level)
        # Error and weights in float32; Min-SNR weighs small errors up.
        output = cast(Tensor, model(noisy, level, label)).float()
        error = (output - self._schedule.target(image, noise, level)).square().mean(dim=(1, 2, 3))
        return self._schedule.weights(level, self._settings.min_snr_gamma) * error

    def _label(self, batch: Batch) -> Tensor | None:
        return batch["label"] if self._settings.guidance else None

    def _in_units(self, image: Tensor) -> Tensor:
        """Return what the network sees in the units of the store."""
        return in_units(image.float() / STD, self._spec.mean, self._spec.std)

    def _bounds(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Return the least and the largest pixel that the network shall draw, (C, 1, 1) each."""
        if self._settings.pixel_range is None:
            return None
        low, high = self._settings.pixel_range
        mean, std = (
            on_device(values, device).view(-1, 1, 1) for values in (self._spec.mean, self._spec.std)
        )
        factor = STD / std
        return (low - mean) * factor, (high - mean) * factor
