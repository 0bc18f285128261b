"""Every task, network, loss and method that changes a step, at toy size: built, with a batch."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lenshpc.engine.load import make_task
from lenshpc.registry import Batch, Shape, Task, TaskSpec, find_task
from lenshpc.run.recipe import load_recipe, network_of
from lenshpc.run.sections import Train

FUNCTIONS = ("predict", "infer", "apply")
RECIPES = sorted(Path(__file__).parents[1].glob("jobs/*.yaml"))
ROWS = 4
SMALL_VIT = {"patch": 8, "width": 24, "depth": 2, "heads": 2}
MAE = {"vit": SMALL_VIT, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
UNET = {"width": 8, "multipliers": (1, 2), "blocks": 1, "sampling_steps": 3, "num_steps": 20}
LINEAR = {"schedule": "linear", "num_steps": 1000, "prediction": "epsilon"}
RCAN = {"width": 8, "blocks": 2}
PHYSICS = {"pixel_scale_arcsec": 0.2, "source_side": 8}
SMOTE = {"smote": {"space": "feature"}}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task with its settings, the network that it trains, and what its batches hold besides."""

    task: str
    network: str
    method: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 2
    scale: int = 0  # of the targets
    mixes: bool = False  # with parents of synthetic rows
    views: int = 0  # of unlabelled images
    side: int = 32
    channels: int = 1

    def build(self) -> tuple[Task, nn.Module, Batch]:
        """Return the task, its network and a batch, on the CPU; no layer gives zeros."""
        task = self._task()
        model = task.build_model(self.network)
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        return task, model, self._batch()

    def _task(self) -> Task:
        shape: Shape = (self.channels, self.side, self.side)
        target: Shape = (self.channels, self.scale * self.side, self.scale * self.side)
        spec = TaskSpec(
            settings=find_task(self.task).settings(**self.method),
            train=Train(),
            classes=tuple(f"class{k}" for k in range(self.num_classes)),
            # Anomalies, and what a foundation model does not learn, are no training rows.
            class_counts=(10, *(0 if self.task == "anomaly" else 5,) * (self.num_classes - 1)),
            image_shape=shape,
            target_shape=target if self.scale else None,
            mean=(0.25,) * self.channels,
            std=(0.5,) * self.channels,
        )
        return make_task(self.task, spec)

    def _batch(self) -> Batch:
        side = self.side
        label = torch.arange(ROWS) % self.num_classes * (self.task != "anomaly")
        batch: Batch = {
            "image": _images(ROWS, side).repeat(1, self.channels, 1, 1),
            "label": label,
            "row": torch.arange(ROWS) + 7,
            "phase": 0,
            "progress": torch.tensor(0.5),
        }
        if self.scale:
            batch["target"] = _images(ROWS, self.scale * side)
        if self.mixes:
            batch["partner"] = _images(ROWS, side)
            batch["mix"] = torch.tensor([0, 0.25, 0, 0.5])
            batch["mixed"] = torch.tensor([1, 3])
        if self.views:
            batch["weak"] = batch["strong"] = _images(self.views, side)
        return batch


def _images(num: int, side: int) -> Tensor:
    """Return images (B, 1, H, W) of a ring each, with noise."""
    at = torch.arange(side) - (side - 1) / 2
    radius = torch.hypot(at[:, None], at) / side
    rings = torch.exp(-((radius - torch.linspace(0.2, 0.35, num)[:, None, None]) ** 2) * 400)
    return (rings + 0.1 * torch.randn(num, side, side))[:, None]


def recipe_cases(path: Path) -> Iterator[Case]:
    """Yield a case for each model of a recipe, small where the settings say so."""
    small: dict[str, dict[str, Any]] = {"diffusion": UNET, "super-resolution": RCAN}
    recipe = load_recipe(str(path))
    for model in recipe.models:
        one = recipe.of(model)
        named = {"normal", "classes"}  # classes of a store that is not here
        method = one.method.model_dump(exclude_unset=True, exclude=named) | small.get(one.task, {})
        yield Case(
            task=one.task,
            network=network_of(model),
            method={**method, **({"weights": "random"} if one.method.takes_timm else {})},
            num_classes=2 if one.task == "lens-finding" else 3,
            scale=2 * one.method.needs_targets,
            mixes=one.method.synthetic is not None,
            views=6 * (one.method.unlabelled is not None),
            side=16 if one.task in small else one.data.image_size or 64,
            channels=3 if one.data.grey_to_rgb else 1,
        )


LENSES = Case(task="lens-finding", network="test_resnet")
CLASSES = Case(task="multiclass", network="test_resnet", num_classes=3)
GUIDED = Case(task="physics-guided", network="test_resnet", method={"physics": PHYSICS})
LARGER = Case(task="super-resolution", network="edsr", method=RCAN, scale=2, side=16)
NOISE = Case(task="diffusion", network="unet", method=UNET, side=16)
CASES = {
    "lens-finding": LENSES,
    "bce": replace(LENSES, method={"loss": "bce", "class_weights": "balanced"}),
    "focal": replace(LENSES, method={"loss": "focal"}),
    "fixmatch": replace(LENSES, method={"consistency": {"threshold": 0.6}}, views=6),
    "smote": replace(LENSES, method={"smote": {"space": "pixel"}}, mixes=True),
    "smote-features": replace(LENSES, method=SMOTE, mixes=True),
    "multiclass": CLASSES,
    "complement": replace(CLASSES, method={"loss": "complement"}),
    "mixup": replace(CLASSES, method={"mixup_alpha": 0.8, "label_smoothing": 0.1}),
    "cutmix": replace(CLASSES, method={"cutmix_alpha": 0.8, "tta": "d4"}),
    "probe": replace(CLASSES, method={"linear_probe": True}),
    "d4_net": replace(CLASSES, network="d4_net"),
    "mae_vit": replace(CLASSES, network="mae_vit", method={"vit": SMALL_VIT, "drop_path": 0.1}),
    "resnet": replace(CLASSES, network="resnet10t"),
    "convnext": replace(CLASSES, network="convnextv2_atto", side=64),
    "vit": replace(CLASSES, network="test_vit"),
    "guided": GUIDED,
    "guided-sie": replace(
        GUIDED, method={"physics": {**PHYSICS, "lens": "sie", "shear": False}, **SMOTE}, mixes=True
    ),
    "unguided": replace(GUIDED, method={}),
    **{
        name: Case(task="anomaly", network=name, method={"latents": 4})
        for name in ("conv_ae", "conv_vae", "wae")
    },
    "lens_ae": Case(task="anomaly", network="lens_ae", side=16),
    **{name: replace(LARGER, network=name) for name in ("srresnet", "edsr", "rcan")},
    "mae_sr": replace(LARGER, network="mae_sr", method={**RCAN, "vit": SMALL_VIT}, scale=4),
    **{
        loss: replace(LARGER, method={**RCAN, "loss": loss, "patch": 12})
        for loss in ("l2", "fourier", "l1_ssim")
    },
    "foundation": Case(task="foundation", network="mae_vit", method=MAE),
    "foundation-norm": Case(
        task="foundation", network="mae_vit", method={**MAE, "norm_pixels": True}, side=30
    ),
    "diffusion": replace(NOISE, method={**UNET, "min_snr_gamma": 5}),
    "guided-diffusion": replace(NOISE, method={**UNET, "guidance": {"dropout": 0.5}}),
    "ancestral": replace(NOISE, method={**UNET, "sampler": "ancestral", "pixel_range": None}),
    "epsilon": replace(NOISE, method={**UNET, **LINEAR}, side=18),
}
