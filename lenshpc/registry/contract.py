"""What shared code asks of a task, and what a task is handed; torch for type checking alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypedDict, get_args

from lenshpc.config import Frozen
from lenshpc.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from lenshpc.run.recipe import Recipe
    from lenshpc.run.results import RunResults
    from lenshpc.run.sampling import Consistency, Smote
    from lenshpc.run.sections import Train
    from lenshpc.run.trained import EnsembleSpec

    Columns = dict[str, npt.NDArray[Any]]

Shape = tuple[int, int, int]
# Metric of the validation rows → 1 if the largest is best, -1 if the smallest; the first is the
# default of `train.monitor`.
Monitors = Mapping[str, int]
# What a member predicts: some of its training rows, its validation fold, rows that nobody trains on
# and nothing is chosen by, the test rows.
Part = Literal["train", "oof", "excluded", "test"]
Scored = tuple[Part, ...]


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
    follows_progress: ClassVar[bool] = (
        False  # a loss reads `progress`: how much of training is done
    )
    pipeline_tag: ClassVar[str | None] = None  # what a Hugging Face hub calls such a task
    takes_timm: ClassVar[bool] = False  # every network of timm, beside those of its family
    encoders: ClassVar[tuple[str, ...]] = ()  # networks that hold the encoder of `foundation`
    loss_keys: ClassVar[tuple[str, ...]] = ()  # that name a loss of the registry, or of a file
    # A key that names a file → the key that notes the file's SHA-256, if one does.
    file_keys: ClassVar[Mapping[str, str | None]] = MappingProxyType({})
    judging: ClassVar[tuple[str, ...]] = ()  # keys that `evaluate` alone reads, and no training
    combines: ClassVar[bool] = False  # several models, by the recipe's `ensemble`

    @property
    def losses(self) -> tuple[str, ...]:
        """Return the names of the losses that are used."""
        return tuple(filter(None, (getattr(self, key) for key in self.loss_keys)))

    @property
    def begins_learnt(self) -> bool:
        """Return whether the settings themselves name weights that were learnt before."""
        return False

    @property
    def takes_masks(self) -> bool:
        """Return whether masks may stand beside an image's channels, as further ones."""
        return False

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
    def of(cls, given: TaskSettings) -> Self:
        """Return settings known to be of this class; for a room that is handed its own."""
        if not isinstance(given, cls):
            raise ConfigError(f"{cls.__name__} cannot use settings of {type(given).__name__}")
        return given


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """A task: its settings, and `module:name` of what is imported when it is needed.

    `task` makes a `Task` of a TaskSpec. `evaluate` judges the results of a run, and `report` makes
    the page of these results and their evaluation. `recipe` is what `--task` stands for: a recipe
    that ships, or PACKAGE:FILE.yaml. `generator` opens a trained member that draws images, for
    `lenshpc sample`, and `readout` says what a trained ensemble finds in new images, for
    `lenshpc predict`. `measure` gives the values a row of a run's results that other runs of the
    task are compared by, for `lenshpc compare`. `tools` are functions that a report may ask of
    trained networks, by name.
    """

    settings: type[TaskSettings]
    task: str
    evaluate: str
    report: str
    recipe: str
    generator: str | None = None
    readout: str | None = None
    measure: str | None = None
    tools: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError where settings or references cannot serve.

        Of a reference the module is found and not imported.
        """
        _check_settings(self.settings)
        optional = filter(None, (self.generator, self.readout, self.measure))
        for reference in (self.task, self.evaluate, self.report, *optional, *self.tools.values()):
            module, _, name = reference.partition(":")
            if not name.isidentifier() or find_spec(module) is None:
                raise ValueError(f"{reference!r} is not the module:name of an installed module")


def _check_settings(made: type[TaskSettings]) -> None:
    """Raise TypeError or ValueError where a task's settings do not answer as TaskSettings do."""
    if not (isinstance(made, type) and issubclass(made, TaskSettings)):
        raise TypeError(f"settings is {made!r}, no class that derives from TaskSettings")
    if not isinstance(getattr(made, "family", None), str):
        raise TypeError(f"{made.__name__} has no family, such as {made.__name__.lower()!r}")
    if not isinstance(made.monitors, Mapping) or not made.monitors:
        raise TypeError(f"{made.__name__}.monitors is no mapping of a metric to 1 or -1")
    answers: dict[str, set[Any]] = {
        "monitors": set(made.monitors.values()) - {1, -1},
        "scored": set(made.scored) - set(get_args(Part)),
        "loss_keys": set(made.loss_keys) - set(made.model_fields),
    }
    for name, wrong in answers.items():
        if wrong:
            raise ValueError(f"{made.__name__}.{name} has {wrong.pop()!r}")


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

    # (B, C, H, W), cropped, augmented, stretched, normalised; then masks, 0 or 1, if asked for
    image: Tensor
    label: Tensor  # (B,)
    row: Tensor  # (B,), numbers of the store's rows, and beyond them synthetic ones
    target: Tensor  # (B, C, sH, sW), of pairs
    partner: Tensor  # (B, C, H, W), the other parent of each synthetic row
    mix: Tensor  # (B,), its weight, 0 for genuine rows
    mixed: Tensor  # (M,), the places of the synthetic rows in the batch
    weak: Tensor  # (U, C, H, W), unlabelled images
    strong: Tensor  # (U, C, H, W), the same, changed more
    phase: int  # which optimiser step of the batch this is
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


class Applicable(Protocol):
    """What a task also has whose TaskKind names a readout."""

    def apply(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return what a member says of new images, (B,) or (B, …); the batch has no label.

        Of the same images the values are those of `infer`, without what only a report needs.
        """


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a readout has learnt from a run: plain values that go to JSON, and arrays."""

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of new images: the share of positives among them, what ranks candidates."""

    prior: float | None = None
    rank_by: str | None = None

    def __post_init__(self) -> None:
        """Refuse a prior that is no share, which would move a threshold out of sight."""
        if self.prior is not None and not 0 < self.prior < 1:  # neither is NaN
            raise ConfigError(f"prior {self.prior} is not in the range 0<x<1; give a fraction")

    def refuse(self, name: str) -> None:
        """Refuse, for an ensemble that tells no classes apart, whatever was asked: ConfigError."""
        options = {"--prior": self.prior, "--rank-by": self.rank_by}
        asked = [f"{option} {value}" for option, value in options.items() if value is not None]
        if asked:
            raise ConfigError(
                f"{' and '.join(asked)}: {name} does not distinguish classes; leave it out"
            )


class Readout(Protocol):
    """What a task makes of its members' outputs on new images; without torch.

    It is made from the ensemble, what was fitted and a Request. Outputs are a mapping a member, in
    the order of the ensemble's, of numpy arrays or torch tensors with one entry a row.
    """

    arrays: tuple[str, ...]  # columns of `table` with more than one number a row

    def __init__(self, spec: EnsembleSpec, fitted: Fitted, request: Request) -> None:
        """Refuse a request that does not go with the ensemble: ConfigError."""

    @classmethod
    def fit(cls, results: RunResults) -> Fitted:
        """Return what is fitted on out-of-fold rows of a run that is done; never on test rows."""

    def answer(self, outputs: Sequence[Mapping[str, Any]]) -> Any:
        """Return the one answer a row, (B, …), in the library of the outputs."""

    def table(self, outputs: Sequence[Columns]) -> Columns:
        """Return the columns of the table; the largest `score` is the first candidate."""

    def settings(self) -> dict[str, Any]:
        """Return what decides, for people: threshold, prior and the like."""
