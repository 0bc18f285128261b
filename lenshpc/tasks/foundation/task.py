"""Pre-training of an encoder by a masked autoencoder; images need no labels.

Shapes: B rows of a batch, C channels, H by W pixels, N patches.
"""

from types import MappingProxyType
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.data.draws import standard_normal
from lenshpc.data.normalisation import dtype_that_holds, in_units
from lenshpc.data.stretch import unstretch
from lenshpc.models.encoder import pad
from lenshpc.registry import Batch, TaskSpec, build_component
from lenshpc.tasks.foundation.networks import (
    MaskedAutoencoder,
    fill_smoothly,
    fill_with_mean,
)
from lenshpc.tasks.foundation.settings import Foundation

FILLS = MappingProxyType({"mean_error": fill_with_mean, "smooth_error": fill_smoothly})


class MaskedPretraining:
    """Hide most patches of an image and draw them; the loss is of the hidden ones alone."""

    num_phases = 1

    def __init__(self, spec: TaskSpec) -> None:
        self._settings, self._spec = Foundation.of(spec.settings), spec
        self._kept = dtype_that_holds(spec.mean, spec.std)

    def build_model(self, name: str) -> nn.Module:
        """Return the autoencoder for this task's images."""
        network: nn.Module = build_component("networks", self._spec, name)
        return network

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss under masks that are drawn anew."""
        return {"loss": model(batch["image"]).mean()}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of each row, whose mask depends on the row alone."""
        network = cast(MaskedAutoencoder, model)
        return {"loss": network(batch["image"], _orders(network, batch))}

    def infer(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, two baselines of it, and what pictures and maps are made of.

        `mean_error` is the loss of hidden pixels filled with the mean of the seen ones,
        `smooth_error` that of a smooth interpolation. `reconstruction` (B, C, H, W) has the hidden
        patches drawn and the seen ones pasted, in the store's units; `mask` (B, H, W) is 1 where
        pixels were hidden; `embedding` (B, D) is the mean token of the whole image.
        """
        network, (height, width) = cast(MaskedAutoencoder, model), batch["image"].shape[2:]
        image = pad(batch["image"], self._settings.vit.patch)
        drawn, hidden = network.draw(image, _orders(network, batch))
        mask = network.mask(image, hidden)
        pasted = self._in_units(network.paste(image, drawn, hidden)).to(self._kept)
        return {
            "loss": network.error(image, drawn, hidden),
            **{
                name: network.error_of_filled(image, fill(image, mask), hidden)
                for name, fill in FILLS.items()
            },
            "reconstruction": pasted[:, :, :height, :width],
            "mask": mask[:, 0, :height, :width].to(torch.uint8),
            "embedding": _average_tokens(network, image),
        }

    def apply(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `embedding` (B, D); nothing is hidden, and nothing drawn."""
        image = pad(batch["image"], self._settings.vit.patch)
        return {"embedding": _average_tokens(cast(MaskedAutoencoder, model), image)}

    def summarise(
        self, _labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return the mean loss."""
        return {"loss": float(predictions["loss"].mean(dtype=np.float64))}

    def _in_units(self, image: Tensor) -> Tensor:
        """Return normalised, stretched images in the units of the store."""
        return unstretch(in_units(image, self._spec.mean, self._spec.std), self._spec.stretch)


def _average_tokens(network: MaskedAutoencoder, image: Tensor) -> Tensor:
    """Return the mean token (B, D) of whole padded images, in half precision."""
    tokens: Tensor = network.encoder(image)
    return tokens.mean(dim=1).half()


def _orders(network: MaskedAutoencoder, batch: Batch) -> Tensor:
    """Return the patches' numbers (B, N) in an order drawn for each row."""
    num_rows, num_columns = network.encoder.grid(batch["image"])
    # Of the row alone: epochs, members and ranks are judged under the same masks, or a lucky mask
    # would pick the epoch.
    return standard_normal(batch["row"], num_rows * num_columns).argsort(dim=1)
