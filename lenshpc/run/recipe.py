"""The recipe: what a user asks to run, as one frozen, strictly validated value."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lenshpc.config import Frozen, Seed, locate, override, read_yaml, unknown, validate
from lenshpc.registry import (
    TaskSettings,
    component_names,
    families_of,
    find_task,
    is_from_file,
    plugin_entries,
    task_names,
)
from lenshpc.run.augmentations import D4, Flips
from lenshpc.run.networks import hint_near
from lenshpc.run.optimizers import BY_TENSOR
from lenshpc.run.search import Search
from lenshpc.run.sections import OPERATION, Data, Resources, Train

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=32)]

MAX_MEMBERS = 100_000
SMALL_SHARE = 16  # images
VARIED = ("method.", "train.", "data.")
# A network's name, or FILE.py:NAME, or what a Plan has of that; then a variant's name.
MODEL = r"([A-Za-z0-9_.]+(@[0-9a-f]+)?|[^+\n]+\.py:[A-Za-z_]\w*)(\+[A-Za-z0-9_]+)?"


class Recipe(Frozen):
    """One job: a task, its models, folds and seeds, the training, and the resources."""

    name: Name
    task: str
    method: SerializeAsAny[TaskSettings] = Field(
        default={}, validate_default=True, description="the task's own settings"
    )
    models: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    folds: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=5, description="1: a single hold-out split"
    )
    only_folds: Annotated[tuple[int, ...], Field(min_length=1)] | None = Field(
        default=None, description="those of the folds, from 0, that are trained; all if absent"
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    split_seed: Seed = 0
    variants: Mapping[VariantName, Mapping[str, Any]] = Field(
        default={}, description="dotted keys that a model called NETWORK+VARIANT has otherwise"
    )
    init_from: str | None = Field(
        default=None, description="a run or an export, whose weights are the first ones"
    )
    init_fingerprint: str | None = Field(default=None, description="which it was, noted by submit")
    then: tuple[str, ...] = Field(
        default=(), description="recipes that are submitted too, to start from this run's weights"
    )
    ensemble: Literal["mean", "logit_mean", "rank_mean", "oof_weighted", "greedy", "stacking"] = (
        Field(default="mean", description="how several models are combined in the headline")
    )
    data: Data = Data()
    train: Train = Train()
    resources: Resources = Resources()
    search: Search = Search()
    # What of `resources` was asked for beside the file: a site's defaults give way to it.
    _asked: frozenset[str] = PrivateAttr(default=frozenset())

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
            raise ValueError("cannot be checked, since the task is not known")
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
                known = "NETWORK nor FILE.py:NAME, alone or with +VARIANT"
                raise ValueError(f"{model!r} is neither {known}{hint_near(model)}")
        return models

    @field_validator("models", "seeds", "only_folds")
    @classmethod
    def _no_repeats(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if values is not None and len(set(values)) != len(values):
            raise ValueError("an entry is listed twice")
        return values

    @model_validator(mode="after")
    def _trains_folds_that_are_cut(self) -> Self:
        for fold in self.only_folds or ():
            if not 0 <= fold < self.folds:
                raise ValueError(
                    f"only_folds has {fold}; with folds {self.folds} they are 0 to {self.folds - 1}"
                )
        return self

    @model_validator(mode="after")
    def _members_can_be_listed(self) -> Self:
        num_members = len(self.models) * len(self.trained_folds) * len(self.seeds)
        if num_members > MAX_MEMBERS:
            raise ValueError(
                f"models × folds × seeds are {num_members} members, more than {MAX_MEMBERS}; "
                "split them among several recipes"
            )
        return self

    @model_validator(mode="after")
    def _fits_the_processes(self) -> Self:
        world, batch = self.resources.world_size, self.train.batch_size
        what = "GPUs" if self.resources.gpus_per_node else "processes"
        if batch % world:
            raise ValueError(
                f"train.batch_size {batch} cannot be divided among {world} {what}; use --set "
                f"train.batch_size={world * max(1, round(batch / world))}"
            )
        share, parts = batch // world, self.train.accumulate
        if share % parts:
            fitting = max(part for part in range(1, parts) if share % part == 0)
            raise ValueError(
                f"train.accumulate {parts} does not divide the {share} images that each of "
                f"{world} {what} takes of a batch; use --set train.accumulate={fitting}"
            )
        if self.train.sync_batchnorm and world > 1 and not self.resources.gpus_per_node:
            raise ValueError(
                f"train.sync_batchnorm is for GPUs, and {world} processes on CPUs are asked for; "
                "remove it"
            )
        if self.train.strategy == "single" and world > 1:
            raise ValueError(
                f"train.strategy single is one process, but {world} {what} are asked for; use ddp"
            )
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
                "data.normalise imagenet is for unstretched pixels; use fold, or no data.stretch"
            )
        return self

    @model_validator(mode="after")
    def _networks_are_the_tasks(self) -> Self:
        method = self.method
        own = component_names("networks", method.family)
        for network in map(network_of, self.models):
            if network in own or is_from_file(network):
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
            if name is None:
                continue
            if name not in known and not is_from_file(name):
                what = unknown("loss", name, known, hint="or give FILE.py:NAME")
                raise ValueError(f"method.{key}: {what}")
        return self

    @model_validator(mode="after")
    def _decays_by_layers(self) -> Self:
        others = {entry.name.rpartition(".")[2] for entry in plugin_entries()}
        # Of timm's, a file's and a plugin's networks the member finds out.
        known = {*component_names("networks", self.method.family)} - {
            *self.method.encoders,
            *others,
        }
        plain = sorted(known & {*self.models})
        if self.train.layer_decay is not None and plain:
            raise ValueError(
                f"train.layer_decay: network {plain[0]} does not say which layers it has; remove "
                f"it, or give {plain[0]} a variant without it"
            )
        return self

    @model_validator(mode="after")
    def _keeps_the_stores_units(self) -> Self:
        changes = {"data.stretch": self.data.stretch, "data.normalise": self.data.normalise}
        for key, value in changes.items():
            if self.method.measures_pixels and value in {"sqrt", "asinh", "log", "image"}:
                raise ValueError(
                    f"{key} {value}: task {self.task} measures errors in the units of the store, "
                    "which this would change; remove it"
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
    def _steps_on_shares(self) -> Self:
        if self.strategy == "deepspeed" and self.train.optimizer in BY_TENSOR:
            raise ValueError(
                f"train.optimizer {self.train.optimizer} updates whole tensors, which ZeRO "
                "splits; use --set train.strategy=ddp, or one that updates each value, as adamw"
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
                        f"variants.{name} sets {key}; a variant may only change keys that begin "
                        f"with {', '.join(VARIED)}, and set init_from to null"
                    )
        for model in self.models:
            one = self.of(model)
            if one.init_from and one.method.begins_learnt:
                raise ValueError(
                    f"{model} would get its first weights twice, from init_from and from "
                    "method.weights; use --set method.weights=random, or a variant that sets "
                    "init_from to null"
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
        recipe = validate(Recipe, value, f"variants.{variant}")
        return recipe.model_copy(update={"resources": self.resources})

    def list_choices(
        self, without: Collection[str] = (), method_without: Collection[str] = ()
    ) -> dict[str, Any]:
        """Return what differs from the defaults, of all that decides a result, as plain values.

        `without` names keys that are left out, `method_without` keys of `method`.
        """
        left_out: dict[str, Any] = dict.fromkeys(without, True)
        left_out |= {"train": set(OPERATION), "method": set(method_without)}
        made = self.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
        # A section of which nothing else was chosen is as good as absent.
        return {key: value for key, value in made.items() if value != {} or key == "method"}

    def with_defaults(self, defaults: Iterable[tuple[str, Any]]) -> "Recipe":
        """Return the recipe as it is sent to a site, whose defaults are dotted keys and values.

        They stand instead of what the recipe's file says, but not of what `load_recipe` was given.
        """
        given = {key.removeprefix("resources."): leaf for key, leaf in defaults}
        kept = {} if "" in self._asked else {k: given[k] for k in given if k not in self._asked}
        recipe = self.model_copy(update={"resources": self.resources.model_copy(update=kept)})
        recipe._asked = frozenset()  # settled now: equal recipes compare as equal
        return recipe

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what may be meant so but seldom is, a sentence each."""
        own = chain(self._warn_of_random_layers(), self._warn_of_size())
        return (*self.method.warnings(self), *own)

    def _warn_of_size(self) -> Iterator[str]:
        size, num = self.resources, self.train.batch_size
        if self.train.precision == "fp16" and not size.gpus_per_node:
            yield "train.precision fp16 is far slower than fp32 on CPUs; use bf16 or fp32"
        share = num // (size.world_size * self.train.accumulate)
        if size.gpus_per_node and share < SMALL_SHARE:
            yield (
                f"train.batch_size {num} gives each of {size.world_size} GPUs {share} images at "
                f"once, fewer than {SMALL_SHARE}; lenshpc submit --probe finds how many fit"
            )

    def _warn_of_random_layers(self) -> Iterator[str]:
        spares = {"layer_decay": self.train.layer_decay is not None, "freeze": self.train.freeze}
        if self.init_from is None and not self.method.begins_learnt:
            for key in filter(spares.get, spares):
                yield (
                    f"train.{key} spares layers that were learnt before, and these begin at "
                    "random; give --init-from RUN"
                )

    @property
    def monitor(self) -> tuple[str, int]:
        """Return the metric that picks the epoch, and 1 if its largest value is best, else -1."""
        name = self.train.monitor or next(iter(self.method.monitors))
        return name, self.method.monitors[name]

    @property
    def trained_folds(self) -> tuple[int, ...]:
        """Return the folds that are trained, ascending."""
        return tuple(range(self.folds) if self.only_folds is None else sorted(self.only_folds))

    @property
    def knows_length(self) -> bool:
        """Return whether a step of training depends on how many epochs it is meant to have."""
        scheduled = self.train.scheduler in {"cosine", "one_cycle"}
        return scheduled or self.train.swa_epochs is not None or self.method.follows_progress

    @property
    def can_grow(self) -> bool:
        """Return whether more epochs would continue a training and not make another of it."""
        return not self.knows_length or self.train.length > self.train.epochs

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
    asked = set()
    for key, change in changes:
        value = override(value, key, change)
        first, _, rest = key.partition(".")
        asked |= {rest} if first == "resources" else set()
    recipe = validate(Recipe, value, f"recipe {source}")
    recipe._asked = frozenset(asked)
    return recipe


def recipe_of_task(task: str) -> str:
    """Return the recipe that a task names as its own: `lens-finding` → `lens_finding`."""
    return find_task(task).recipe
