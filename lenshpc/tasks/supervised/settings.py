"""Settings of what tells classes apart: loss, imbalance, mixing, test-time turns."""

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lenshpc.config import NonNegative
from lenshpc.errors import ConfigError
from lenshpc.models.vit import Vit, check_patch
from lenshpc.models.weights import HUB, find_weights
from lenshpc.registry import Monitors, Scored, StoreFacts, TaskSettings
from lenshpc.run.augmentations import Part
from lenshpc.run.extras import require
from lenshpc.run.recipe import Recipe, network_of
from lenshpc.run.sampling import Consistency, Smote


def _weights_source(weights: str) -> str:
    of_hub = re.fullmatch(rf"{HUB}[\w-][\w.-]*/[\w-][\w.-]*", weights)
    of_file = re.search(r"\.(safetensors|pt|pth|bin)$", weights)
    if weights in {"random", "imagenet"} or of_hub or (of_file and not weights.startswith(HUB)):
        return weights
    raise ValueError(
        f"expected random, imagenet, {HUB}ORG/NAME, or the path of a .safetensors or .pth file"
    )


class Supervised(TaskSettings):
    """Two or more classes; of two, the second is the positive one."""

    loss: str = Field(default="cross_entropy", description="by name, or FILE.py:NAME")
    focal_gamma: NonNegative = 2.0
    label_smoothing: Part = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    smote: Smote | None = None
    mixup_alpha: NonNegative = Field(default=0.0, description="0: no mixup")
    cutmix_alpha: NonNegative = Field(default=0.0, description="0: no CutMix")
    consistency: Consistency | None = None
    weights: Annotated[str, AfterValidator(_weights_source)] = Field(
        default="random", description="initial ones: random, imagenet, hf-hub:ORG/NAME, or a file"
    )
    weights_sha256: str | None = Field(
        default=None, description="of the file of initial weights; noted at submission"
    )
    vit: Vit = Field(default=Vit(), description="the size of mae_vit")
    linear_probe: bool = Field(
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
    calibration: Literal["platt", "isotonic"] = Field(
        default="platt",
        description="map from the ensemble's to calibrated probabilities, fitted out-of-fold",
    )

    family: ClassVar[str] = "classification"
    pipeline_tag: ClassVar[str | None] = "image-classification"
    monitors: ClassVar[Monitors] = MappingProxyType({"auc": 1, "pr_auc": 1, "loss": -1})
    scored: ClassVar[Scored] = ("oof", "test")
    takes_timm: ClassVar[bool] = True
    loss_keys: ClassVar[tuple[str, ...]] = ("loss",)
    encoders: ClassVar[tuple[str, ...]] = ("mae_vit",)
    judging: ClassVar[tuple[str, ...]] = ("test_prior", "calibration")
    combines: ClassVar[bool] = True
    file_keys: ClassVar[Mapping[str, str | None]] = MappingProxyType({"weights": "weights_sha256"})

    @model_validator(mode="after")
    def _mixes_in_one_place(self) -> Self:
        between_features = self.smote is not None and self.smote.space == "feature"
        if between_features and (self.mixup_alpha or self.cutmix_alpha):
            raise ValueError(
                "smote.space feature cannot be combined with mixup or CutMix; use pixel"
            )
        return self

    @model_validator(mode="after")
    def _probed_features_stay(self) -> Self:
        if self.linear_probe and self.drop_path:
            raise ValueError(
                "drop_path skips blocks that are trained, and linear_probe trains none; remove one"
            )
        return self

    @property
    def begins_learnt(self) -> bool:
        """Return whether initial weights are not random."""
        return self.weights != "random"

    @property
    def takes_masks(self) -> bool:
        """Return that masks are as good as any other channel."""
        return True

    @property
    def synthetic(self) -> Smote | None:
        """Return how rows of rare classes are made."""
        return self.smote

    @property
    def unlabelled(self) -> Consistency | None:
        """Return how unlabelled rows are learnt from."""
        return self.consistency

    def num_outputs(self, num_classes: int) -> int:
        """Return how many numbers a network gives an image."""
        return 1 if self.loss == "bce" else num_classes

    def check_store(self, recipe: Recipe, facts: StoreFacts) -> None:
        """Refuse classes, sides or unlabelled rows that a store cannot give."""
        if self.smote is not None:
            require("smote", "method.smote")
        self._check_classes(facts)
        _, height, width = facts.held_shape
        check_patch(self.vit, self.encoders, map(network_of, recipe.models), min(height, width))
        if self.tta == "d4" and height != width:
            raise ConfigError(
                f"method.tta d4 rotates images by 90°, and these have {height} by {width} pixels; "
                f"use --set method.tta=none, or data.image_size={min(height, width)}"
            )

    def _check_classes(self, facts: StoreFacts) -> None:
        classes = facts.classes
        if len(classes) < 2:
            raise ConfigError(
                f"{facts.path} has one class, {classes[0]}; a classification needs two or more"
            )
        if self.loss == "bce" and len(classes) != 2:
            raise ConfigError(
                f"method.loss bce is for two classes, {facts.path} has {len(classes)} "
                f"({', '.join(classes)}); use --set method.loss=cross_entropy"
            )
        if self.loss == "complement" and len(classes) == 2:
            raise ConfigError(
                "method.loss complement needs three classes or more: of two, only one is wrong, "
                "and the entropy over it is 0; use --set method.loss=cross_entropy, or focal"
            )
        if self.consistency and not facts.num_unlabelled:
            raise ConfigError(
                f"method.consistency learns from unlabelled rows, and {facts.path} has none; "
                "name their folder as `unlabelled` in the dataset file and prepare it again"
            )

    def warnings(self, recipe: Recipe) -> Iterator[str]:
        """Yield that several remedies make rare classes count more."""
        named = {
            "data.sampling balanced": recipe.data.sampling == "balanced",
            "method.class_weights balanced": self.class_weights == "balanced",
            "method.smote": self.smote is not None,
        }
        remedies = [name for name, chosen in named.items() if chosen]
        if len(remedies) > 1:
            yield f"{' and '.join(remedies)} count rare classes {len(remedies)} times; keep one"

    def find_files(self, networks: Iterable[str]) -> dict[str, Any]:
        """Return the file of initial weights, found and hashed."""
        return find_weights(self.weights, networks)

    def for_inference(self) -> Self:
        """Return the settings without initial weights and class weights."""
        # A trained network is loaded whole: it must open where the file of its first weights is
        # gone, or the package of its loss, and no fold is at hand to count classes.
        needless = {
            "weights": "random",
            "weights_sha256": None,
            "class_weights": "none",
            # It decides on the number of outputs.
            "loss": self.loss if self.loss == "bce" else "cross_entropy",
        }
        return self.model_copy(update=needless)
