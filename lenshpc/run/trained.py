"""What is needed to use a trained ensemble, without its run: as a value, and as a folder.

A run is turned into it, and an export is it, written down; whatever uses a trained ensemble takes
it from here. Shapes: C channels, H by W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from lenshpc import __version__
from lenshpc.config import Frozen, validate
from lenshpc.errors import ConfigError, DataError, LensHpcError, one_line, printable, read_error
from lenshpc.files import (
    hash_value,
    read_checked,
    read_json,
    read_whole,
    replacing,
    sha256,
    unseal,
    write_sealed,
)
from lenshpc.registry import Fitted, Readout, Request, find_readout, missing_plugins
from lenshpc.run.plan import Member, OfRecipe
from lenshpc.run.recipe import Recipe, is_variant

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MODEL, ARRAYS, TRAINING_ROWS = "model.json", "fitted.safetensors", "training_rows.parquet"
LAYOUT_VERSION = 1
LIMIT_QUANTILE = 0.999


class PixelStatistics(Frozen):
    """What mean and std of an image's channel are among the training rows.

    `centre` and `scale` are the median and 1.4826 times the median absolute deviation, (2, C): of
    the means, then of the stds, in the units that models see. `limit` is what 99.9 % of the
    training rows stay below in `distance`.
    """

    centre: tuple[tuple[float, ...], tuple[float, ...]]
    scale: tuple[tuple[float, ...], tuple[float, ...]]
    limit: float

    @classmethod
    def of(cls, moments: npt.NDArray[np.floating]) -> PixelStatistics:
        """Return those of images whose mean and mean square are `moments` (N, C, 2)."""
        import numpy as np

        values = _means_and_stds(moments)
        centre = np.median(values, axis=0)
        spread = 1.4826 * np.median(np.abs(values - centre), axis=0)
        # A set whose images are all alike, each min-max normalised say, has no spread of its own.
        scale = np.maximum(spread, 1e-3 * np.abs(centre) + 1e-6)
        distances = (np.abs(values - centre) / scale).max(axis=(1, 2))
        # A set without any spread has a limit all the same, by which distances are divided.
        limit = max(1.0, float(np.quantile(distances, LIMIT_QUANTILE)))
        return cls(centre=_rows(centre), scale=_rows(scale), limit=limit)

    def distance(self, moments: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return how far images (n,) lie from the training rows, in scales, at the worst place."""
        import numpy as np

        off = np.abs(_means_and_stds(moments) - np.array(self.centre)) / np.array(self.scale)
        return np.asarray(off.max(axis=(1, 2)), np.float64)


def _means_and_stds(moments: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return (n, 2, C) of moments (n, C, 2)."""
    import numpy as np

    mean, square = np.moveaxis(np.asarray(moments, np.float64), -1, 0)
    return np.stack([mean, np.sqrt(np.maximum(square - mean**2, 0))], axis=1)


def _rows(values: npt.NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    means, stds = (tuple(map(float, line)) for line in values)
    return means, stds


class TrainedMember(Member):
    """A member with what its network needs: normalisation, and the SHA-256 of its weights."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str


class EnsembleSpec(OfRecipe):
    """All that an ensemble is but its weights and arrays; `model.json` of an export.

    `source` is the dataset file by which the store was made, `fitted` what the task fitted
    out-of-fold; `files` has the SHA-256 of each further file of an export.
    """

    layout: int = LAYOUT_VERSION
    name: str
    fingerprint: str
    code_version: str = __version__
    plugins: Mapping[str, str] = {}
    dataset: str
    source: Mapping[str, Any]
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    image_shape: tuple[int, int, int]
    dtype: str
    target_shape: tuple[int, int, int] | None = None
    pixels: PixelStatistics
    members: tuple[TrainedMember, ...]
    fitted: Mapping[str, Any] = {}
    files: Mapping[str, str] = {}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        # A seal says that nothing was altered, not that it was ever an ensemble.
        if {one.model for one in self.members} != set(self.recipe.models):
            raise ValueError("members are not those of the recipe's models")
        if len({one.index for one in self.members}) < len(self.members):
            raise ValueError("two members have the same index")
        if len(self.channels) != self.image_shape[0]:
            raise ValueError(f"{len(self.channels)} names for {self.image_shape[0]} channels")
        return self

    @property
    def scale(self) -> float:
        """Return the factor that turns stored pixels into the floats that models see."""
        from lenshpc.store import pixel_scale

        return pixel_scale(self.dtype)

    @property
    def fill(self) -> float | str | None:
        """Return what bad pixels became in the training's store; None where they were refused."""
        image = self.source.get("image")
        policy = image.get("bad_pixels") if isinstance(image, Mapping) else None
        fill = policy.get("fill") if isinstance(policy, Mapping) else None
        return fill if fill == "median" or isinstance(fill, int | float) else None

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 by which this ensemble is known, in a run as in an export."""
        return hash_value(self.model_dump(mode="json", exclude={"files"}))

    def places_of(self, model: str) -> list[int]:
        """Return where the members of a model stand in `members`."""
        return [at for at, member in enumerate(self.members) if member.model == model]

    @property
    def headline_places(self) -> list[list[int]]:
        """Return where the members of each model stand that the report's headline is made of.

        These are the models that are no variants; with fewer than two of them, the first of all.
        """
        models = self.recipe.models
        plain = [model for model in models if not is_variant(model)]
        return [self.places_of(model) for model in (plain if len(plain) > 1 else models[:1])]

    def headline_mean(self, values: Sequence[Any]) -> Any:
        """Return the mean over models of each one's mean over members; `values` has one a member.

        They are numpy arrays or torch tensors.
        """
        means = [sum(values[at] for at in places) / len(places) for places in self.headline_places]
        return sum(means) / len(means)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedEnsemble:
    """An ensemble and where its files lie: weights by a member's index, arrays that were fitted.

    `code` is a folder with files/, networks of a user's file. `is_foreign` tells an export, whose
    code may be anybody's.
    """

    spec: EnsembleSpec
    weights: Mapping[int, Path]
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    code: Path | None = None
    is_foreign: bool = False

    def read_weights(self, member: TrainedMember) -> bytes:
        """Return the bytes of a member's weights, which are those that it was marked with."""
        return read_checked(self.weights[member.index], member.sha256)


def make_readout(trained: TrainedEnsemble, request: Request) -> Readout:
    """Return what the task makes of its members' values; ConfigError where it makes nothing.

    DataError of what was fitted by something else.
    """
    spec = trained.spec
    readout = find_readout(spec.recipe.task, spec.name)
    try:
        return readout(spec, Fitted(values=spec.fitted, arrays=trained.arrays), request)
    except LensHpcError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"what was fitted for {spec.name} is not what task {spec.recipe.task} reads "
            f"({one_line(repr(error))[:80]}); export the run again"
        ) from error


def weights_file(member: Member) -> str:
    """Return where a member's weights lie in an export."""
    return f"members/{member.name}.safetensors"


def read_export(folder: Path) -> TrainedEnsemble:
    """Return the ensemble in the folder of an export; DataError where any file was changed."""
    spec, arrays = read_model(folder)
    files = dict(spec.files)
    if arrays:  # that were read: a file that is not listed is of another export
        files.setdefault(ARRAYS, "")
    for name, digest in files.items():
        check_file(folder, name, digest)
    weights = {one.index: folder / weights_file(one) for one in spec.members}
    for member in spec.members:
        check_file(folder, weights_file(member), member.sha256)
    return TrainedEnsemble(
        spec=spec,
        weights=weights,
        arrays=arrays,
        code=folder / "code",
        is_foreign=True,
    )


def write_arrays(folder: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write what was fitted as arrays; nothing where there is none."""
    from safetensors.numpy import save

    if arrays:
        with replacing(folder / ARRAYS) as temporary:
            temporary.write_bytes(save({name: arrays[name] for name in sorted(arrays)}))


def write_spec(folder: Path, spec: EnsembleSpec) -> None:
    """Write what an ensemble is, with a hash of itself."""
    write_sealed(folder / MODEL, spec.model_dump(mode="json"))


def read_model(folder: Path) -> tuple[EnsembleSpec, dict[str, npt.NDArray[Any]]]:
    """Return what `write_spec` and `write_arrays` wrote."""
    return _read_spec(folder / MODEL), _read_arrays(folder / ARRAYS)


def check_file(folder: Path, name: str, digest: str) -> None:
    """Raise DataError where a file of an export is lost, or was changed."""
    try:
        found = sha256(folder / name)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} lacks {printable(name)}; export the run again, or copy the complete folder"
        ) from error
    except OSError as error:
        raise read_error(folder / name, error) from error
    if found != digest:
        raise DataError(
            f"{folder}/{printable(name)} was changed after the export; export the run again, or "
            "copy the folder again"
        )


def _read_spec(path: Path) -> EnsembleSpec:
    try:
        value = read_json(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.parent} is not an export: {path.name} is missing; make one with: lenshpc export"
        ) from error
    except OSError as error:
        raise read_error(path, error) from error
    layout = value.get("layout") if isinstance(value, dict) else None
    if layout != LAYOUT_VERSION:
        raise DataError(
            f"{path} has layout {printable(layout)}, not {LAYOUT_VERSION}: another version of "
            "lenshpc made it; export the run again"
        )
    content = unseal(path, value)
    plugins = content.get("plugins")
    # Before all else is looked at, which needs them: a recipe has settings of its task.
    absent = missing_plugins(plugins) if isinstance(plugins, dict) else []
    if absent:
        raise ConfigError(
            f"{path.parent} was made with {', '.join(absent)}, which is not installed here; "
            "install it"
        )
    return validate(EnsembleSpec, content, str(path))


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.exists():
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: dict[str, npt.NDArray[Any]] = load(read_whole(path))
    except SafetensorError as error:
        raise DataError(f"{path} is damaged ({one_line(error)[:80]})") from error
    return arrays


def read_training_rows(folder: Path) -> npt.NDArray[np.uint8]:
    """Return the SHA-256 (n,32) of the source files that an export's members have learnt from."""
    import numpy as np
    import pandas as pd

    content = io.BytesIO(read_whole(folder / TRAINING_ROWS))
    try:
        texts = pd.read_parquet(content, columns=["sha256"])["sha256"]
        return np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(-1, 32)
    except (ValueError, OSError) as error:  # of bytes in memory both say that they are no table
        told = f"{folder / TRAINING_ROWS} is damaged ({one_line(error)[:80]})"
        raise DataError(told) from error


def check_images(spec: EnsembleSpec, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Refuse images of another shape (C, H, W), or whose numbers mean something else."""
    if tuple(shape) != spec.image_shape:
        raise ConfigError(
            f"images are {_shape_text(shape)}, and {spec.name} was trained on "
            f"{_shape_text(spec.image_shape)} ({', '.join(spec.channels)}); crop or stack them to "
            "this"
        )
    import numpy as np

    expected = np.dtype(spec.dtype)
    native = dtype.newbyteorder("=")  # the order of bytes changes no number
    if native.kind != expected.kind or (expected.kind != "f" and native != expected):
        raise ConfigError(
            f"images are {dtype.name}, and {spec.name} was trained on {expected.name}: the same "
            "numbers would mean another brightness; convert them to its units"
        )


def _shape_text(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def narrow(recipe: Recipe, models: Sequence[str]) -> Recipe:
    """Return a recipe of some of its models, without the files and runs that it once began from."""
    method = recipe.method
    named = {f"method.{key}" for key in method.file_keys}
    noted = {f"method.{key}" for key in method.file_keys.values() if key}
    variants = {
        name: {
            key: leaf for key, leaf in changes.items() if key not in named | noted | {"init_from"}
        }
        for name, changes in recipe.variants.items()
    }
    return recipe.model_copy(
        update={
            "models": tuple(models),
            "method": method.for_inference(),
            "variants": variants,
            "init_from": None,
            "init_fingerprint": None,
            "then": (),
        }
    )
