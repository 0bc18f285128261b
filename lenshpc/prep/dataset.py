"""Read a dataset file of `data_prep/`: where the images of each class lie and what they are."""

import hashlib
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from lenshpc.config import Frozen, locate, read_yaml, validate
from lenshpc.errors import DataError
from lenshpc.prep.survey import Survey

SplitName = Literal["train", "val", "test"]
SUFFIXES = {"npy": (".npy",), "image": (".jpg", ".jpeg", ".png")}


def _inner_folder(folder: str) -> str:
    path = PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts or str(path) in {"", "."}:
        raise ValueError("expected a folder inside SOURCE, such as train/no")
    return str(path)


def _pixel_dtype(name: str) -> str:
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "uif" or dtype.name != name:
        raise ValueError("expected an integer or float dtype, such as float32 or uint8")
    return name


def _group_rule(rule: str) -> str:
    if rule == "id":
        return rule
    try:
        num_captures = re.compile(rule).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if num_captures != 1:
        raise ValueError(f"expected id, or an expression with one (…), not {num_captures}")
    return rule


Folder = Annotated[str, AfterValidator(_inner_folder)]
Length = Annotated[int, Field(ge=1)]


class ImageFormat(Frozen):
    """What every source file holds; `dtype` is also how the store keeps it."""

    format: Literal["npy", "image"]
    shape: tuple[Length, Length, Length]
    dtype: Annotated[str, AfterValidator(_pixel_dtype)]
    channels: tuple[str, ...]

    @model_validator(mode="after")
    def _channels_fit(self) -> Self:
        if len(self.channels) != self.shape[0]:
            raise ValueError(f"{len(self.channels)} channel names for shape {list(self.shape)}")
        return self


class ClassFolders(Frozen):
    """One class and its folder in each split that the set has."""

    name: Annotated[str, Field(min_length=1)]
    train: Folder
    val: Folder | None = None
    test: Folder | None = None

    @property
    def folders(self) -> dict[SplitName, str]:
        """Return split → folder."""
        pairs: dict[SplitName, str | None] = {
            "train": self.train,
            "val": self.val,
            "test": self.test,
        }
        return {split: folder for split, folder in pairs.items() if folder}


class Carve(Frozen):
    """A part of one split that becomes another, chosen by a hash of the group alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    fraction: Annotated[float, Field(gt=0, lt=1)]
    source: SplitName = Field(alias="from")
    target: SplitName = Field(alias="to")

    def applied(self, split: SplitName, group: str) -> SplitName:
        """Return the split of a row; other rows never change it, so subsets keep their splits."""
        draw = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) / 2**64
        return self.target if split == self.source and draw < self.fraction else split


class Dataset(Frozen):
    """One file of `data_prep/`, validated."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    image: ImageFormat
    classes: Annotated[tuple[ClassFolders, ...], Field(min_length=2)]
    carve: Carve | None = None
    group: Annotated[str, AfterValidator(_group_rule)] = "id"
    simulate: Survey | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [entry.name for entry in self.classes]
        folders = [folder for entry in self.classes for folder in entry.folders.values()]
        for what, values in (("class", names), ("folder", folders)):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} stands twice")
        if len({tuple(entry.folders) for entry in self.classes}) > 1:
            raise ValueError("every class needs a folder for the same splits")
        return self._carve_fits()

    def _carve_fits(self) -> Self:
        splits = self.classes[0].folders
        if self.carve and (self.carve.source not in splits or self.carve.target in splits):
            raise ValueError("carve must go from a split that has folders to one that has none")
        return self

    @model_validator(mode="after")
    def _simulator_fits(self) -> Self:
        image, names = self.image, {entry.name for entry in self.classes}
        square = image.shape[0] == 3 and image.shape[1] == image.shape[2]
        if self.simulate and not (names == {"lens", "nonlens"} and square):
            raise ValueError("simulate makes 3-band square images of the classes lens and nonlens")
        return self

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Return the splits that have folders."""
        return tuple(self.classes[0].folders)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return the file endings that count as images, in lower case."""
        return SUFFIXES[self.image.format]

    def group_of(self, identifier: str) -> str:
        """Return the group of a row: rows of one group never part over splits or folds."""
        if self.group == "id":
            return identifier
        found = re.search(self.group, identifier)
        if not found or not found[1]:
            raise DataError(
                f"{identifier} does not match the group expression {self.group!r}; "
                "rename the file or correct `group` in the dataset file"
            )
        return found[1]


def load_dataset(name: str) -> Dataset:
    """Return the dataset of a shipped name or of the path of a user's own `.yaml`."""
    path = locate("data_prep", name)
    return validate(Dataset, read_yaml(path), str(path))
