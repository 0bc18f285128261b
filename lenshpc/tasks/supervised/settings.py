"""Settings of a classification: loss, imbalance, mixing, unlabelled images, test-time turns."""

import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from lenshpc.config import Frozen
from lenshpc.models.vit import Vit
from lenshpc.run.augmentations import Affine, Augmentation, Contrast, Noise, Part, PsfJitter
from lenshpc.tasks.physics_guided.settings import Physics
from lenshpc.tasks.settings_base import Monitors, Scored

NETWORKS = ("d4_net", "mae_vit")  # beside timm's


def _weights_source(weights: str) -> str:
    if weights in {"random", "imagenet"} or re.search(r"\.(safetensors|pt|pth|bin)$", weights):
        return weights
    raise ValueError("expected random, imagenet, or the path of a .safetensors or .pth file")


class Smote(Frozen):
    """Synthetic rows of rare classes, made from the training rows of the member's own fold."""

    space: Literal["pixel", "feature"] = Field(
        default="pixel", description="feature: between the features before the last layer"
    )
    ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="each class's size afterwards, as a part of the largest's"
    )
    neighbours: PositiveInt = 5


class Consistency(Frozen):
    """FixMatch (Sohn et al. 2020, arXiv 2001.07685) on the store's unlabelled rows."""

    weight: PositiveFloat = Field(default=1.0, description="of the loss on unlabelled images")
    threshold: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        default=0.95, description="probability from which a prediction counts as a label"
    )
    ratio: PositiveInt = Field(default=4, description="unlabelled images a labelled one")
    strong: tuple[Augmentation, ...] = Field(
        default=(Affine(shift=0.1, scale=0.2), PsfJitter(), Contrast(factor=0.3), Noise()),
        description="on top of data.augment, for the image that has to agree",
    )


class Classification(Frozen):
    """Two or more classes; of two, the second is the positive one."""

    kind: Literal["classification"] = "classification"
    loss: Literal["cross_entropy", "bce", "focal", "complement"] = "cross_entropy"
    focal_gamma: NonNegativeFloat = 2.0
    label_smoothing: Part = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    smote: Smote | None = None
    mixup_alpha: NonNegativeFloat = Field(default=0.0, description="0: no mixup")
    cutmix_alpha: NonNegativeFloat = Field(default=0.0, description="0: no CutMix")
    consistency: Consistency | None = None
    physics: Physics | None = Field(
        default=None, description="guide the features by redrawing each image through a lens"
    )
    weights: Annotated[str, AfterValidator(_weights_source)] = Field(
        default="random", description="initial ones: random, imagenet, or a file"
    )
    weights_sha256: str | None = Field(
        default=None, description="of the file of initial weights; noted at submission"
    )
    vit: Vit = Field(default=Vit(), description="the size of mae_vit")
    frozen: bool = Field(
        default=False, description="train the last layer alone, on standardised features"
    )
    drop_path: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="rate at which the last block is skipped in training"
    )
    tta: Literal["none", "d4"] = Field(
        default="none", description="d4: mean over the eight symmetries"
    )
    test_prior: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="share of the positive class among the objects to be searched"
    )

    monitors: ClassVar[Monitors] = MappingProxyType({"auc": 1, "pr_auc": 1, "loss": -1})
    scored: ClassVar[Scored] = ("oof", "test")
    needs_targets: ClassVar[bool] = False
    measures_pixels: ClassVar[bool] = False
    networks: ClassVar[tuple[str, ...] | None] = None

    @model_validator(mode="after")
    def _mixes_in_one_place(self) -> Self:
        between_features = self.smote is not None and self.smote.space == "feature"
        if between_features and (self.mixup_alpha or self.cutmix_alpha):
            raise ValueError("smote.space feature goes with neither mixup nor CutMix; use pixel")
        return self

    @model_validator(mode="after")
    def _redraws_single_images(self) -> Self:
        mixing = {
            "mixup_alpha": self.mixup_alpha > 0,
            "cutmix_alpha": self.cutmix_alpha > 0,
            "smote.space pixel": self.smote is not None and self.smote.space == "pixel",
        }
        mixed = [key for key, chosen in mixing.items() if chosen]
        if self.physics is not None and mixed:
            raise ValueError(f"{mixed[0]} mixes images, and physics redraws single lenses; drop it")
        if self.physics is not None and self.loss == "complement":
            raise ValueError("loss complement has steps of its own; physics goes with the others")
        return self

    @model_validator(mode="after")
    def _frozen_features_stay(self) -> Self:
        if self.frozen and self.drop_path:
            raise ValueError("drop_path skips blocks that learn, and frozen lets none; drop one")
        return self

    def num_outputs(self, num_classes: int) -> int:
        """Return how many numbers a network gives an image."""
        return 1 if self.loss == "bce" else num_classes

    def remedies(self) -> Sequence[str]:
        """Return the keys that make rare classes count more."""
        balanced = self.class_weights == "balanced"
        named = {"method.class_weights balanced": balanced, "method.smote": self.smote is not None}
        return [name for name, chosen in named.items() if chosen]
