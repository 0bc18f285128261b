"""Where a trained classifier looks: Grad-CAM, or integrated gradients where there are no maps.

R. R. Selvaraju et al., ICCV 2017 (arXiv 1610.02391); M. Sundararajan et al., ICML 2017 (arXiv
1703.01365); both by captum. Shapes: B images, C channels, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.data.fold import open_fold
from lenshpc.data.order import Rows
from lenshpc.engine.load import load_model
from lenshpc.models.backbones import Backbone
from lenshpc.registry import Batch
from lenshpc.run.extras import require
from lenshpc.run.manifest import NUMBERS
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, load_splits, open_planned_store

BATCH_ROWS = 16
NUM_STEPS = 32  # of the integral


def grad_cam(plan: Plan, run: RunPaths, member: Member, rows: Rows) -> npt.NDArray[np.float32]:
    """Return maps (n, H, W) in [0, 1] of what speaks for the predicted class of each row.

    The images are prepared as in training, by the statistics of the member's own fold.
    """
    model = cast(Backbone, load_model(run.root, member.index))
    with prepare_rows(plan, run, member, rows) as batches:
        return np.concatenate([class_maps(model, batch) for batch in batches])


@contextmanager
def prepare_rows(
    plan: Plan, run: RunPaths, member: Member, rows: Rows
) -> Iterator[Iterator[Batch]]:
    """Yield batches of the rows, prepared by the statistics of the member's own fold."""
    store, device = open_planned_store(plan), torch.device("cpu")
    blocks = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
    with open_fold(plan, member, load_splits(run, plan, NUMBERS), store, device) as data:
        yield data.source.batches(blocks)


def class_maps(model: Backbone, batch: Batch) -> npt.NDArray[np.float32]:
    """Return maps (B, H, W), the largest value of each 1, or all 0 where nothing speaks for it."""
    require("explain", "Grad-CAM")
    from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam

    image, scores = batch["image"], ClassLogits(model)
    with torch.no_grad():
        # Without gradients, and then again with them: the class is chosen, not differentiated.
        target_B = scores(image).argmax(dim=1)
    layer = last_maps(model, image[:1])
    if layer is None:
        integral = IntegratedGradients(scores).attribute(image, target=target_B, n_steps=NUM_STEPS)
        maps = integral.abs().sum(dim=1)
    else:
        coarse = LayerGradCam(scores, layer).attribute(
            image, target=target_B, relu_attributions=True
        )
        fine = LayerAttribution.interpolate(coarse, image.shape[2:], "bilinear")
        maps = cast(Tensor, fine)[:, 0]
    largest = maps.amax(dim=(1, 2), keepdim=True)
    # A map of zeros stays one, instead of NaN.
    scaled = maps / largest.clamp(min=torch.finfo(maps.dtype).tiny)
    return np.asarray(scaled.detach().clamp(0, 1).float())


class ClassLogits(nn.Module):
    """A network's scores (B, K), of a single logit z the two (-z, z)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores before the softmax."""
        logits: Tensor = self.model(image)
        return torch.cat([-logits, logits], dim=1) if logits.shape[1] == 1 else logits


@torch.no_grad()
def last_maps(model: Backbone, image: Tensor) -> nn.Module | None:
    """Return the layer whose maps (1, C, h, w) are the last that still have places.

    None for a network of tokens (ViT) or of channels that come last (Swin).
    """
    network = model.network
    features = network.forward_features(image)
    if features.ndim != 4 or features.shape[1] != network.num_features:
        return None
    found: list[nn.Module] = []

    def note(layer: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            found.append(layer)

    hooks = [layer.register_forward_hook(note) for layer in network.modules()]
    network.forward_features(image)
    for hook in hooks:
        hook.remove()
    return found[-1] if found else None
