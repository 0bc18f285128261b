"""The recipe: what a user asks to run, as one frozen, strictly validated value."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import (
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
Augmentation = Literal["d4", "affine"]


class Data(Frozen):
    """How images reach the network."""

    image_size: PositiveInt | None = Field(
        default=None, description="side in pixels after resizing; the store's own when absent"
    )
    normalise: Literal["fold", "none"] = Field(
        default="fold", description="fold: mean and deviation of the fold's own training rows"
    )
    augment: tuple[Augmentation, ...] = ("d4",)


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


class Resources(Frozen):
    """What one member asks of the cluster."""

    nodes: PositiveInt = 1
    gpus_per_node: PositiveInt = 1
    cpus_per_gpu: PositiveInt = 4
    mem_gb_per_gpu: PositiveFloat = 16.0
    time_min: PositiveInt = 240

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
