"""The recipe: what a user asks to run, as one frozen, strictly validated value."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lenshpc.config import Frozen, locate, override, read_yaml, unknown, validate
from lenshpc.registry import (
    TaskSettings,
    component_names,
    families_of,
    file_reference,
    find_task,
    is_kept_file,
    task_names,
)
from lenshpc.run.augmentations import D4, Augmentation, Flips

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=32)]


VARIED = ("method.", "train.", "data.")
# A network's name, or FILE.py:NAME, or what a Plan has of that; then a variant's name.
MODEL = r"([A-Za-z0-9_.]+(@[0-9a-f]+)?|[^+\n]+\.py:[A-Za-z_]\w*)(\+[A-Za-z0-9_]+)?"


class Data(Frozen):
    """How images reach the network."""

    crop: PositiveInt | None = Field(
        default=None, description="side in pixels of the middle of each image, all that is used"
    )
    image_size: PositiveInt | None = Field(
        default=None, description="side in pixels after resizing; the store's own when absent"
    )
    stretch: Literal["none", "sqrt", "asinh", "log"] = Field(
        default="none", description="of the pixels, before they are normalised"
    )
    normalise: Literal["fold", "imagenet", "image", "none"] = Field(
        default="fold", description="fold: mean and std of the fold's own training rows"
    )
    grey_to_rgb: bool = Field(default=False, description="hand one channel to networks as three")
    augment: tuple[Augmentation, ...] = (D4(),)
    augment_minority: tuple[Augmentation, ...] = Field(
        default=(), description="further steps for all classes but the largest"
    )
    loading: Literal["auto", "resident", "stream"] = Field(
        default="auto", description="resident: held in RAM or on the GPU; stream: read in blocks"
    )
    sampling: Literal["natural", "balanced"] = Field(
        default="natural", description="balanced: an epoch draws the classes equally often"
    )
    label_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="part of each class's training rows that is used"
    )

    def in_memory(
        self, image_shape: tuple[int, int, int], dtype: str
    ) -> tuple[tuple[int, int, int], str]:
        """Return the (C, H, W) and dtype in which a store's images are held.

        They are cropped, then resized. Whole bytes stay bytes unless they are resized; all else is
        the float32 that models see.
        """
        channels, *sides = image_shape
        if self.crop:
            sides = [self.crop] * 2
        wanted = [self.image_size] * 2 if self.image_size else sides
        held = "uint8" if dtype == "uint8" and wanted == sides else "float32"
        return (channels, wanted[0], wanted[1]), held

    def zoom(self, image_shape: tuple[int, int, int]) -> float:
        """Return the side of a pixel that models see, in pixels of a store's square images."""
        side = self.crop or image_shape[1]
        return side / (self.image_size or side)

    def model_shape(self, held_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the (C, H, W) that networks see of images held as `held_shape`."""
        channels, height, width = held_shape
        return (3 if self.grey_to_rgb else channels), height, width


class Train(Frozen):
    """How a member is trained."""

    epochs: PositiveInt = 15
    batch_size: PositiveInt = Field(default=32, description="images a step, over all GPUs together")
    lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 1e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="factor of lr from each layer of the encoder to the one below"
    )
    scheduler: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup_epochs: NonNegativeInt = 0
    plateau_patience: PositiveInt = 2
    patience: PositiveInt | None = Field(default=None, description="early stopping, in epochs")
    monitor: str | None = Field(
        default=None, description="validation metric that picks the epoch; the task's own if absent"
    )
    clip_norm: NonNegativeFloat = Field(default=0.0, description="0 does not clip")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="of a moving average of the weights, used in their place; 0: none"
    )
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
    task: str
    method: SerializeAsAny[TaskSettings] = Field(
        default={}, validate_default=True, description="the task's own settings"
    )
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    folds: PositiveInt = Field(default=5, description="1: a single hold-out split")
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    split_seed: NonNegativeInt = 0
    variants: Mapping[VariantName, Mapping[str, Any]] = Field(
        default={}, description="dotted keys that a model called NETWORK+VARIANT has otherwise"
    )
    init_from: str | None = Field(
        default=None, description="a run of pre-training; its encoder's weights are the first ones"
    )
    init_fingerprint: str | None = Field(default=None, description="that run's, noted by submit")
    then: tuple[str, ...] = Field(
        default=(), description="recipes that are submitted too, to start from this run's weights"
    )
    ensemble: Literal["mean", "logit_mean", "rank_mean", "oof_weighted", "greedy", "stacking"] = (
        Field(default="mean", description="how several models are combined in the headline")
    )
    data: Data = Data()
    train: Train = Train()
    resources: Resources = Resources()

    @field_validator("task")
    @classmethod
    def _task_is_installed(cls, task: str) -> str:
        if task not in task_names():
            raise ValueError(unknown("task", task, task_names()))
        return task

    @field_validator("method", mode="plain")
    @classmethod
    def _method_is_the_tasks(cls, value: Any, info: ValidationInfo) -> TaskSettings:
        """Read `method` as the settings of the task, which stands before it."""
        if "task" not in info.data:
            raise ValueError("is read by the task, which is not known")
        return find_task(info.data["task"]).settings.model_validate(value)

    @classmethod
    def inner_models(cls, field: str, value: Mapping[str, Any]) -> list[type[Frozen]]:
        """Return the models that a field may hold: the task's settings for `method`."""
        if field == "method" and value.get("task") in task_names():
            return [find_task(value["task"]).settings]
        return super().inner_models(field, value)

    @field_validator("models")
    @classmethod
    def _models_are_names(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        for model in models:
            if not re.fullmatch(MODEL, model):
                raise ValueError(f"{model!r} is neither NETWORK nor NETWORK+VARIANT")
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
    def _monitors_what_is_measured(self) -> Self:
        if self.train.monitor not in {None, *self.method.monitors}:
            known = unknown("metric", str(self.train.monitor), self.method.monitors)
            raise ValueError(f"train.monitor: {known}")
        return self

    @model_validator(mode="after")
    def _channels_fit(self) -> Self:
        if self.data.normalise == "imagenet" and self.data.stretch != "none":
            raise ValueError(
                "data.normalise imagenet is for pixels as they are; use fold, or no data.stretch"
            )
        return self

    @model_validator(mode="after")
    def _networks_are_the_tasks(self) -> Self:
        method = self.method
        own = component_names("networks", method.family)
        for network in map(network_of, self.models):
            if network in own or is_kept_file(network) or file_reference(network):
                continue
            if not method.takes_timm:
                raise ValueError(unknown(f"network of task {self.task}", network, own))
            if families_of("networks", network):
                raise ValueError(f"{network} is no classifier; task {self.task} cannot use it")
        return self

    @model_validator(mode="after")
    def _losses_are_the_tasks(self) -> Self:
        known = component_names("losses", self.method.family)
        for key in self.method.loss_keys:
            name = getattr(self.method, key)
            if name not in known and not is_kept_file(name) and not file_reference(name):
                what = unknown("loss", name, known, hint="or give FILE.py:NAME")
                raise ValueError(f"method.{key}: {what}")
        return self

    @model_validator(mode="after")
    def _decays_by_layers(self) -> Self:
        able = self.method.encoders
        plain = [model for model in self.models if not is_variant(model) and model not in able]
        if self.train.layer_decay is not None and plain:
            raise ValueError(
                f"train.layer_decay knows the layers of {' and '.join(able) or 'no network'} "
                f"alone, not of {plain[0]}; drop it, or give {plain[0]} a variant without it"
            )
        return self

    @model_validator(mode="after")
    def _keeps_the_stores_units(self) -> Self:
        changes = {"data.stretch": self.data.stretch, "data.normalise": self.data.normalise}
        for key, value in changes.items():
            if self.method.measures_pixels and value in {"sqrt", "asinh", "log", "image"}:
                raise ValueError(
                    f"{key} {value}: task {self.task} measures errors in the units of the store, "
                    "which this would change; drop it"
                )
        return self

    @model_validator(mode="after")
    def _turns_pairs_exactly(self) -> Self:
        steps = (*self.data.augment, *self.data.augment_minority)
        inexact = [step.kind for step in steps if not isinstance(step, D4 | Flips)]
        if self.method.needs_targets and inexact:
            raise ValueError(
                f"data.augment {inexact[0]} changes the pixels of pairs; "
                f"task {self.task} takes d4 and flips"
            )
        return self

    @model_validator(mode="after")
    def _goes_with_its_method(self) -> Self:
        self.method.check_recipe(self)
        return self

    @model_validator(mode="after")
    def _averages_whole_weights(self) -> Self:
        if self.train.ema_decay and self.strategy == "deepspeed" and self.train.zero_stage == 3:
            raise ValueError(
                "train.ema_decay averages whole weights, which ZeRO-3 shares out; "
                "use --set train.zero_stage=2"
            )
        return self

    @model_validator(mode="after")
    def _variants_are_recipes(self) -> Self:
        used = set(map(variant_of, filter(is_variant, self.models)))
        for name in sorted(used - set(self.variants)):
            raise ValueError(unknown("variant", name, sorted(self.variants)))
        for name, changes in self.variants.items():
            for key, leaf in changes.items():
                if not (key.startswith(VARIED) or (key == "init_from" and leaf is None)):
                    raise ValueError(
                        f"variants.{name} sets {key}; a variant may change what begins with "
                        f"{', '.join(VARIED)}, and set init_from to null"
                    )
        for model in self.models:
            able = self.method.encoders
            if self.of(model).init_from and network_of(model) not in able:
                raise ValueError(
                    f"{model} has no encoder that init_from could fill; use "
                    f"{' or '.join(able) or 'another task'}, or a variant that sets init_from to "
                    "null"
                )
        return self

    def of(self, model: str) -> "Recipe":
        """Return the recipe of one entry of `models`, with its variant's changes made."""
        variant = variant_of(model)
        if not variant:
            return self
        value = self.model_dump(exclude={"variants"}) | {"models": (network_of(model),)}
        for key, leaf in self.variants[variant].items():
            value = override(value, key, leaf)
        return validate(Recipe, value, f"variants.{variant}")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what may be meant so but seldom is, a sentence each."""
        return (*self.method.warnings(self), *self._layer_decay_warnings())

    def _layer_decay_warnings(self) -> Iterator[str]:
        if self.train.layer_decay is not None and self.init_from is None:
            yield (
                "train.layer_decay spares layers that were learnt before, and these begin at "
                "random; give --init-from RUN"
            )

    @property
    def monitor(self) -> tuple[str, int]:
        """Return the metric that picks the epoch, and 1 if its largest value is best, else -1."""
        name = self.train.monitor or next(iter(self.method.monitors))
        return name, self.method.monitors[name]

    @property
    def strategy(self) -> str:
        """Return the strategy with `auto` decided: one process needs no DDP."""
        if self.train.strategy != "auto":
            return self.train.strategy
        return "ddp" if self.resources.world_size > 1 else "single"


def network_of(model: str) -> str:
    """Return the network of an entry of `models`, which may name a variant after it."""
    return model.partition("+")[0]


def variant_of(model: str) -> str:
    """Return the variant that an entry of `models` names; none is empty."""
    return model.partition("+")[2]


def is_variant(model: str) -> bool:
    """Say whether an entry of `models` is a variant, which no ensemble takes in."""
    return bool(variant_of(model))


def load_recipe(source: str, changes: Iterable[tuple[str, Any]] = ()) -> Recipe:
    """Return a shipped recipe, or the one at a path, with dotted keys changed."""
    path = locate("jobs", source)
    value: dict[str, Any] = {"name": path.stem, **read_yaml(path)}
    for key, change in changes:
        value = override(value, key, change)
    return validate(Recipe, value, f"recipe {source}")


def recipe_of_task(task: str) -> str:
    """Return the recipe that a task names as its own: `lens-finding` → `lens_finding`."""
    return find_task(task).recipe
