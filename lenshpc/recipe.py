"""The recipe: what a user asks to run, as one frozen, strictly validated value."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from lenshpc.config import Frozen, locate, override, read_yaml, shipped, unknown, validate
from lenshpc.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
Part = Annotated[float, Field(ge=0, lt=1)]


class Flips(Frozen):
    """Mirror left-right and up-down, each with probability 1/2."""

    kind: Literal["flips"] = "flips"


class D4(Frozen):
    """One of the eight flips and quarter turns."""

    kind: Literal["d4"] = "d4"


class Affine(Frozen):
    """Turn, scale and shift about the centre; what comes in from outside is reflected."""

    kind: Literal["affine"] = "affine"
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = Field(180.0, description="either way")
    scale: Part = Field(0.1, description="0.1: by 0.9 to 1.1")
    shift: Part = Field(0.05, description="along each axis, as a part of the side")


class Crop(Frozen):
    """Cut out a part of the same shape at a random place, enlarged to the whole."""

    kind: Literal["crop"] = "crop"
    min_side: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="of the whole side")


class Noise(Frozen):
    """Add Gaussian noise whose deviation is drawn between 0 and `std`."""

    kind: Literal["noise"] = "noise"
    std: PositiveFloat = Field(0.02, description="in the units of the pixels")


class PsfJitter(Frozen):
    """Blur by a Gaussian whose deviation is drawn between 0 and `sigma_px`."""

    kind: Literal["psf_jitter"] = "psf_jitter"
    sigma_px: Annotated[float, Field(gt=0, le=4)] = 0.5


class Contrast(Frozen):
    """Stretch pixels about the mean of their image and channel, and add a constant."""

    kind: Literal["contrast"] = "contrast"
    factor: Part = Field(0.1, description="0.1: by 0.9 to 1.1")
    brightness: NonNegativeFloat = Field(0.0, description="either way, in the pixels' units")


AUGMENTATIONS: Mapping[str, type[Frozen]] = MappingProxyType(
    {
        "flips": Flips,
        "d4": D4,
        "affine": Affine,
        "crop": Crop,
        "noise": Noise,
        "psf_jitter": PsfJitter,
        "contrast": Contrast,
    }
)


def _spelt_out(step: Any) -> Any:
    """Return `affine` or `{affine: {scale: 0.2}}` as the keys of its class."""
    if isinstance(step, str):
        step = {step: None}
    if not isinstance(step, Mapping) or len(step) != 1 or "kind" in step:
        return step
    ((kind, values),) = step.items()
    if kind not in AUGMENTATIONS:
        raise ValueError(unknown("augmentation", str(kind), AUGMENTATIONS))
    known = [key for key in AUGMENTATIONS[kind].model_fields if key != "kind"]
    if not isinstance(values, Mapping | None):
        keys = ", ".join(f"{key}: …" for key in known)
        raise ValueError(f"{kind} takes a mapping of keys, {{{kind}: {{{keys}}}}}")  # noqa: TRY004
    for key in values or {}:
        if key not in known:
            raise ValueError(unknown(f"key of {kind}", str(key), known))
    return {"kind": kind, **(values or {})}


Augmentation = Annotated[
    Flips | D4 | Affine | Crop | Noise | PsfJitter | Contrast,
    Field(discriminator="kind"),
    BeforeValidator(_spelt_out),
]


class Data(Frozen):
    """How images reach the network."""

    image_size: PositiveInt | None = Field(
        default=None, description="side in pixels after resizing; the store's own when absent"
    )
    normalise: Literal["fold", "none"] = Field(
        default="fold", description="fold: mean and deviation of the fold's own training rows"
    )
    augment: tuple[Augmentation, ...] = (D4(),)
    loading: Literal["auto", "resident", "stream"] = Field(
        default="auto", description="resident: held in RAM or on the GPU; stream: read in blocks"
    )
    sampling: Literal["natural", "balanced"] = Field(
        default="natural", description="balanced: an epoch draws the classes equally often"
    )

    def in_memory(
        self, image_shape: tuple[int, int, int], dtype: str
    ) -> tuple[tuple[int, int, int], str]:
        """Return the (C, H, W) and dtype in which a store's images are held.

        Whole bytes stay bytes unless they are resized; all else is the float32 that models see.
        """
        channels, *sides = image_shape
        wanted = [self.image_size] * 2 if self.image_size else sides
        held = "uint8" if dtype == "uint8" and wanted == sides else "float32"
        return (channels, wanted[0], wanted[1]), held


class Train(Frozen):
    """How a member is trained."""

    epochs: PositiveInt = 15
    batch_size: PositiveInt = Field(default=32, description="images a step, over all GPUs together")
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    class_weights: Literal["none", "balanced"] = "none"
    lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 1e-4
    scheduler: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup_epochs: NonNegativeInt = 0
    plateau_patience: PositiveInt = 2
    patience: PositiveInt | None = Field(default=None, description="early stopping, in epochs")
    monitor: Literal["auc", "loss"] = "auc"
    clip_norm: NonNegativeFloat = Field(default=0.0, description="0 does not clip")
    precision: Literal["fp32", "bf16"] = "fp32"
    strategy: Literal["auto", "single", "ddp", "deepspeed"] = "auto"
    zero_stage: Literal[1, 2, 3] = 2


class Requeues(Frozen):
    """How often a member's job is sent again by itself, by what ended it."""

    timeout: NonNegativeInt = 20
    preemption: NonNegativeInt = 100
    crash: NonNegativeInt = 2


class Resources(Frozen):
    """What one member asks of the cluster."""

    nodes: PositiveInt = 1
    gpus_per_node: PositiveInt = 1
    cpus_per_gpu: PositiveInt = 4
    mem_gb_per_gpu: PositiveFloat = 16.0
    time_min: PositiveInt = 240
    max_requeues: Requeues = Requeues()

    @property
    def signal_delay_s(self) -> int:
        """Return how long before its time limit a member is told to save."""
        return min(90, 15 * self.time_min)

    @property
    def world_size(self) -> int:
        """Return the number of processes, one a GPU."""
        return self.nodes * self.gpus_per_node


class Recipe(Frozen):
    """One job: a task, its models, folds and seeds, the training, and the resources."""

    name: Name
    task: Literal["lens-finding", "multiclass"]
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    folds: PositiveInt = Field(default=5, description="1: a single hold-out split")
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    split_seed: NonNegativeInt = 0
    data: Data = Data()
    train: Train = Train()
    resources: Resources = Resources()

    @field_validator("models")
    @classmethod
    def _models_are_names(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        for model in models:
            if not re.fullmatch(r"[A-Za-z0-9_.]+", model):
                raise ValueError(f"{model!r} is no timm model name")
        return models

    @field_validator("models", "seeds")
    @classmethod
    def _no_repeats(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("an entry stands twice")
        return values

    @model_validator(mode="after")
    def _fits_the_processes(self) -> Self:
        world, batch = self.resources.world_size, self.train.batch_size
        if batch % world:
            raise ValueError(
                f"train.batch_size {batch} cannot be shared by {world} GPUs; "
                f"use --set train.batch_size={world * max(1, round(batch / world))}"
            )
        if self.train.strategy == "single" and world > 1:
            raise ValueError(
                f"train.strategy single uses 1 GPU, but {world} are asked for; use ddp"
            )
        if self.train.scheduler == "plateau" and self.train.warmup_epochs:
            raise ValueError("train.scheduler plateau has no warm-up; use cosine or constant")
        if self.train.warmup_epochs >= self.train.epochs:
            raise ValueError("train.warmup_epochs must be fewer than train.epochs")
        return self

    @model_validator(mode="after")
    def _balances_once(self) -> Self:
        if self.data.sampling == "balanced" and self.train.class_weights == "balanced":
            raise ValueError(
                "data.sampling balanced and train.class_weights balanced count rare classes twice; "
                "use --set train.class_weights=none"
            )
        return self

    @property
    def strategy(self) -> str:
        """Return the strategy with `auto` decided: one process needs no DDP."""
        if self.train.strategy != "auto":
            return self.train.strategy
        return "ddp" if self.resources.world_size > 1 else "single"


def load_recipe(source: str, changes: Iterable[tuple[str, Any]] = ()) -> Recipe:
    """Return a shipped recipe, or the one at a path, with dotted keys changed."""
    path = locate("jobs", source)
    value: dict[str, Any] = {"name": path.stem, **read_yaml(path)}
    for key, change in changes:
        value = override(value, key, change)
    return validate(Recipe, value, f"recipe {source}")


def recipe_of_task(task: str) -> str:
    """Return the name of the recipe that ships for a task: `lens-finding` → `lens_finding`."""
    recipes = {name.replace("_", "-"): name for name in shipped("jobs")}
    if task not in recipes:
        raise ConfigError(unknown("task", task, recipes))
    return recipes[task]
