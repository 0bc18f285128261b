"""The door: tasks, networks and losses by name, ours and those of anybody's package.

They are found through entry points. Ours are declared in setup.cfg as a plugin's are in its own:

    lenshpc.tasks      NAME = module:KIND            a TaskKind
    lenshpc.networks   FAMILY.NAME = module:builder  TaskSpec → network
    lenshpc.losses     FAMILY.NAME = module:builder  TaskSpec → loss

A network or a loss may also be named in a file: ./mynet.py:MyNet. Names are listed without
importing anything, so a plugin that does not import stops nobody who does not ask for it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypedDict, cast

from pydantic import model_validator

from lenshpc.config import Frozen, unknown
from lenshpc.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from lenshpc.run.recipe import Recipe, Train
    from lenshpc.run.sampling import Consistency, Smote

OURS = "lenshpc"
DIGEST_DIGITS = 12  # of a file's SHA-256 in the name of what came from it

Shape = tuple[int, int, int]
Group = Literal["networks", "losses"]
WORDS = MappingProxyType({"networks": "network", "losses": "loss"})
# Metric of the validation rows → 1 if the largest is best, -1 if the smallest; the first is the
# default of `train.monitor`.
Monitors = Mapping[str, int]
# What a member predicts: some of its training rows, its validation fold, rows that nobody trains on
# and nothing is chosen by, the test rows.
Scored = tuple[Literal["train", "oof", "excluded", "test"], ...]


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """What a store offers to a recipe, as plain values; `counts` are rows by class and split.

    `held_shape` is that of images as cropped and resized; `mean_range` is the least and the largest
    mean of an image's channel.
    """

    path: Path
    classes: tuple[str, ...]
    image_shape: Shape
    held_shape: Shape
    target_shape: Shape | None
    counts: Mapping[tuple[str, str], int]
    num_unlabelled: int
    mean_range: tuple[float, float]


class TaskSettings(Frozen):
    """A recipe's `method`: what a task does, as settings; the base of all.

    It answers what shared code has to know, so that nothing outside of a room asks which it is.
    """

    family: ClassVar[str]  # whose networks and losses it takes: FAMILY.NAME in the entry points
    monitors: ClassVar[Monitors] = MappingProxyType({"loss": -1})
    scored: ClassVar[Scored] = ("oof", "test")
    needs_targets: ClassVar[bool] = False  # learns from pairs
    measures_pixels: ClassVar[bool] = False  # errors are in the store's units, which must stay
    takes_timm: ClassVar[bool] = False  # every network of timm, beside those of its family
    encoders: ClassVar[tuple[str, ...]] = ()  # networks that `init_from` and layer decay know
    loss_keys: ClassVar[tuple[str, ...]] = ()  # that name a loss of the registry, or of a file
    # A key that names a file → the key that notes the file's SHA-256, if one does.
    file_keys: ClassVar[Mapping[str, str | None]] = MappingProxyType({})

    @model_validator(mode="after")
    def _losses_are_known(self) -> Self:
        for name in self.losses:
            if not (is_kept_file(name) or file_reference(name)):
                known = component_names("losses", self.family)
                if name not in known:
                    raise ValueError(unknown("loss", name, known, hint="or give FILE.py:NAME"))
        return self

    @property
    def losses(self) -> tuple[str, ...]:
        """Return the names of the losses that are used."""
        return tuple(getattr(self, key) for key in self.loss_keys)

    @property
    def max_scored(self) -> int | None:
        """Return how many rows of a split a member predicts at most; None: all of them."""
        return None

    @property
    def synthetic(self) -> Smote | None:
        """Return how synthetic training rows are made; None where there are none."""
        return None

    @property
    def unlabelled(self) -> Consistency | None:
        """Return how unlabelled rows are learnt from; None where they are left alone."""
        return None

    def learnt_labels(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        """Return the labels of the classes that may be trained on; rows of others are excluded."""
        return tuple(range(len(classes)))

    def num_outputs(self, num_classes: int) -> int:
        """Return how many numbers a network gives an image, where it gives numbers."""
        return num_classes

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError where the rest of a recipe does not go with these settings."""

    def check_store(self, recipe: Recipe, facts: StoreFacts) -> None:
        """Raise ConfigError where the recipe asks for what a store cannot give."""

    def warnings(self, recipe: Recipe) -> Iterator[str]:
        """Yield what may be meant so but seldom is, a sentence each."""
        del recipe
        yield from ()

    def find_files(self, networks: Iterable[str]) -> dict[str, Any]:
        """Return the keys of `file_keys` with whole paths and hashes; refuse files not found."""
        del networks
        return {}

    def for_inference(self) -> Self:
        """Return the settings without those that training alone needs."""
        return self

    @classmethod
    def of(cls, settings: TaskSettings) -> Self:
        """Return settings known to be of this class; for a room that is handed its own."""
        if not isinstance(settings, cls):
            raise ConfigError(f"{cls.__name__} cannot use settings of {type(settings).__name__}")
        return settings


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """A task: its settings, and `module:name` of what is imported when it is needed.

    `task` makes a `Task` of a TaskSpec. `evaluate` judges the results of a run, and `report` makes
    the page of these results and their evaluation. `recipe` is what `--task` stands for: a recipe
    that ships, or PACKAGE:FILE.yaml. `generator` opens a trained member that draws images, for
    `lenshpc sample`. `tools` are functions that a report may ask of trained networks, by name.
    """

    settings: type[TaskSettings]
    task: str
    evaluate: str
    report: str
    recipe: str
    generator: str | None = None
    tools: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What a task, a network and a loss are built from.

    `class_counts` are of the member's own training rows. A batch's images are (pixels - mean) / std
    of the stretched pixels, a channel each; targets (C', H', W') of pairs have the same scale.
    `zoom` is the side of an image's pixel in pixels of the store. `code` is the folder of the run
    in which files such as ./mynet.py are kept.
    """

    settings: TaskSettings
    train: Train
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    image_shape: Shape
    target_shape: Shape | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    stretch: str = "none"
    zoom: float = 1.0
    code: Path | None = None

    @property
    def num_outputs(self) -> int:
        """Return how many numbers the network gives an image."""
        return self.settings.num_outputs(len(self.classes))


class Batch(TypedDict, total=False):
    """What a task is handed, on the member's device: B rows, C channels, H by W pixels.

    `image`, `label` and `row` are always there; `phase` and `progress` in training alone.
    """

    image: Tensor  # (B, C, H, W), cropped, augmented, stretched, normalised
    label: Tensor  # (B,)
    row: Tensor  # (B,), numbers of the store's rows, and beyond them synthetic ones
    target: Tensor  # (B, C, sH, sW), of pairs
    partner: Tensor  # (B, C, H, W), the other parent of each synthetic row
    mix: Tensor  # (B,), its weight, 0 for genuine rows
    weak: Tensor  # (U, C, H, W), unlabelled images
    strong: Tensor  # (U, C, H, W), the same, changed more
    phase: Tensor  # scalar: which optimiser step of the batch this is
    progress: Tensor  # scalar: the part of the training that is done, in [0, 1]


class Task(Protocol):
    """A model, a loss and what is measured; no loop, no file, no rank.

    Predictions are values a row, which ranks merge row by row: so a metric of the whole set (an
    AUC, say) is the same for any number of ranks, and nothing here returns a metric of a batch.
    """

    @property
    def num_phases(self) -> int:
        """Return how many optimiser steps a batch takes; `batch["phase"]` counts them from 0."""

    def build_model(self, name: str) -> nn.Module:
        """Return the network of that name for this task's images."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`, the mean over the batch, and further scalars to log.

        `model` may be wrapped by DDP or DeepSpeed: only its `forward` may be called.
        """

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return values a row, each of shape (B,): what `summarise` needs after every epoch."""

    def infer(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return all that the files keep of each row, (B,) or (B, …), from the best weights."""

    def summarise(
        self, labels: npt.NDArray[np.int64], predictions: dict[str, npt.NDArray[np.float32]]
    ) -> dict[str, float]:
        """Return metrics of a whole set, `loss` among them."""


def task_names() -> list[str]:
    """Return the names of the installed tasks."""
    return sorted(_entries("tasks"))


def find_task(name: str) -> TaskKind:
    """Return a task by its name; ConfigError where there is none, or it does not import."""
    entries = _entries("tasks")
    if not entries:
        raise ConfigError(
            "lenshpc is not installed whole: it declares no task; install it again with: "
            "pip install -c constraints.txt ."
        )
    if name not in entries:
        raise ConfigError(unknown("task", name, sorted(entries)))
    kind = _load_entry("task", entries[name])
    if not isinstance(kind, TaskKind):
        raise ConfigError(f"task {name} of {origin_of(entries[name])} is no lenshpc TaskKind")
    return kind


def component_names(group: Group, family: str) -> list[str]:
    """Return the names of a family's registered networks or losses."""
    prefix = f"{family}."
    return sorted(n.removeprefix(prefix) for n in _entries(group) if n.startswith(prefix))


def families_of(group: Group, name: str) -> list[str]:
    """Return the families that have a network or loss of that name."""
    return sorted(n.rpartition(".")[0] for n in _entries(group) if n.rpartition(".")[2] == name)


def find_component(
    group: Group, family: str, name: str, code: Path | None = None
) -> Callable[[TaskSpec], Any] | None:
    """Return what builds a registered network or loss, or one of a file; None of another name."""
    if is_kept_file(name):
        return _load_file(name, code)
    entry = _entries(group).get(f"{family}.{name}")
    return None if entry is None else _load_entry(f"{WORDS[group]} {name}", entry)


def build_component(group: Group, spec: TaskSpec, name: str) -> Any:
    """Return a network or loss, built; ConfigError where the task's family has none of the name."""
    family = spec.settings.family
    make = find_component(group, family, name, spec.code)
    if make is None:
        known = component_names(group, family)
        raise ConfigError(unknown(f"{WORDS[group]} of {family}", name, known))
    return make(spec)


def load(reference: str) -> Any:
    """Return what `module:name` refers to."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def plugins_of(task: str, settings: TaskSettings, networks: Iterable[str]) -> dict[str, str]:
    """Return distribution → version of all that a recipe uses and that is not ours."""
    family = settings.family
    used = [("tasks", task)]
    used += [("networks", f"{family}.{name}") for name in networks]
    used += [("losses", f"{family}.{name}") for name in settings.losses]
    found = (_entries(group).get(name) for group, name in used)
    dists = (entry.dist for entry in found if entry is not None and entry.dist is not None)
    return {dist.name: dist.version for dist in dists if dist.name != OURS}


def plugin_entries() -> list[EntryPoint]:
    """Return all entries that other distributions declare."""
    groups = ("tasks", "networks", "losses")
    entries = (entry for group in groups for entry in _entries(group).values())
    return [entry for entry in entries if entry.dist is not None and entry.dist.name != OURS]


def origin_of(entry: EntryPoint) -> str:
    """Return who declares an entry: distribution and version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=f"{OURS}.{group}"):
        if entry.name in found and found[entry.name].value != entry.value:
            both = f"{origin_of(found[entry.name])} and {origin_of(entry)}"
            raise ConfigError(f"{group}: {entry.name} is declared by {both}; uninstall one of them")
        found[entry.name] = entry
    return found


def _load_entry(what: str, entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:
        if entry.dist is not None and entry.dist.name == OURS:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(
            f"{what} of {origin_of(entry)} does not import ({reason}); mend or uninstall it"
        ) from error


def file_reference(text: str) -> tuple[Path, str] | None:
    """Return path and name of `./mynet.py:MyNet`; None of any other text."""
    found = re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)", text)
    return (Path(found[1]), found[2]) if found else None


def name_in_plan(name: str, content: bytes) -> str:
    """Return what a class or function of a file is called in a Plan: MyNet@1a2b3c4d5e6f."""
    return f"{name}@{hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]}"


def is_kept_file(name: str) -> bool:
    """Say whether a name is that of something in a file, as a Plan has it."""
    return re.fullmatch(rf"[A-Za-z_]\w*@[0-9a-f]{{{DIGEST_DIGITS}}}", name) is not None


def path_in_run(code: Path, name: str) -> Path:
    """Return where a run keeps the file that a name comes from."""
    return code / "files" / f"{name.partition('@')[2]}.py"


def _load_file(name: str, code: Path | None) -> Callable[[TaskSpec], Any]:
    path = path_in_run(code or Path(), name)
    attribute, _, digest = name.partition("@")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}, which {attribute} comes from, cannot be read ({error})"
        ) from error
    if hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS] != digest:
        raise DataError(f"{path} was altered after the run was submitted; submit it again")
    module = f"lenshpc_file_{digest}"
    if module not in sys.modules:
        spec = importlib.util.spec_from_file_location(module, path)
        assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - it ends in .py
        made = importlib.util.module_from_spec(spec)
        sys.modules[module] = made
        try:
            spec.loader.exec_module(made)
        except Exception as error:
            del sys.modules[module]
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigError(f"{path} does not import ({reason}); mend it, and submit") from error
    return cast(Callable[[TaskSpec], Any], getattr(sys.modules[module], attribute))
