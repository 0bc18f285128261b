"""Read a dataset file of `data_prep/`: where the images of each class lie and what they are."""

import hashlib
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from lenshpc.config import Frozen, locate, read_yaml, validate
from lenshpc.errors import DataError
from lenshpc.prep.simulation.settings import Simulation
from lenshpc.store.layout import UNLABELLED

SplitName = Literal["train", "val", "test", "unlabelled"]
SUFFIXES = {
    "npy": (".npy",),
    "image": (".jpg", ".jpeg", ".png"),
    "fits": (".fits", ".fit", ".fts"),
    "npz": (".npz",),
    "hdf5": (".h5", ".hdf5"),
}
STACKS = ("npz", "hdf5")


def _inner_folder(folder: str) -> str:
    path = PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts or not folder:
        raise ValueError(
            "expected a folder inside SOURCE, such as train/no, or . for SOURCE itself"
        )
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
Column = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class ImageFormat(Frozen):
    """What every source file holds, or every row of a stack; the store keeps shape and `dtype`.

    `shape` is (C,H,W); `axes` the order in the file. `key` names the array in a stack, `hdu` the
    image in a FITS file, whose first image it is by default.
    """

    format: Literal["npy", "image", "fits", "npz", "hdf5"]
    shape: tuple[Length, Length, Length]
    dtype: Annotated[str, AfterValidator(_pixel_dtype)]
    channels: tuple[str, ...]
    axes: Literal["chw", "hwc", "hw"] = "chw"
    key: Annotated[str, Field(min_length=1)] | None = None
    hdu: Annotated[int, Field(ge=0)] | str | None = None

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if len(self.channels) != self.shape[0]:
            raise ValueError(f"{len(self.channels)} channel names for shape {list(self.shape)}")
        if self.axes == "hw" and self.shape[0] != 1:
            raise ValueError(f"axes hw is one channel, shape {list(self.shape)} has more")
        if self.format == "image" and self.axes != "chw":
            raise ValueError("axes are fixed by JPEG and PNG; leave the key out")
        if (self.key is not None) != self.is_stack:
            raise ValueError(f"key names the array of {' or '.join(STACKS)}, and only of these")
        if self.hdu is not None and self.format != "fits":
            raise ValueError("hdu belongs to format fits")
        return self

    @property
    def is_stack(self) -> bool:
        """Tell whether a file holds many images."""
        return self.format in STACKS

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Return the shape of an image in the file."""
        channels, height, width = self.shape
        orders = {"chw": self.shape, "hwc": (height, width, channels), "hw": (height, width)}
        return orders[self.axes]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return the file endings that count as images, in lower case."""
        return SUFFIXES[self.format]


class SplitFolders(Frozen):
    """The folder of each split that the set has."""

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


class ClassFolders(SplitFolders):
    """One class; `pickled` names the column for the number in files that pickle [image, number]."""

    name: Annotated[str, Field(min_length=1)]
    pickled: Column | None = None


class Target(ImageFormat, SplitFolders):
    """The images to be predicted from images; a pair is two files of one name."""


class TruthTable(Frozen):
    """Columns of numbers in a CSV file of SOURCE whose column `id` names the images.

    Real data have no such file: where it is absent, or lacks an image or its number, that is NaN.
    """

    file: Folder = "truth.csv"
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]


class Holdout(Frozen):
    """A part of one split that becomes another, chosen by a hash of the group alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    fraction: Annotated[float, Field(gt=0, lt=1)]
    source: SplitName = Field(alias="from")
    target: SplitName = Field(alias="to")

    def apply(self, split: SplitName, group: str) -> SplitName:
        """Return the split of a row; other rows never change it, so subsets keep their splits."""
        # Of the group and nothing else: with a seed or a count in it, adding images would move old
        # ones from training to test.
        draw = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) / 2**64
        return self.target if split == self.source and draw < self.fraction else split


class Dataset(Frozen):
    """One file of `data_prep/`, validated."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    image: ImageFormat
    classes: Annotated[tuple[ClassFolders, ...], Field(min_length=1)]
    target: Target | None = None
    truth: TruthTable | None = None
    unlabelled: Folder | None = None
    holdout: Holdout | None = None
    group: Annotated[str, AfterValidator(_group_rule)] = "id"
    simulate: Simulation | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [entry.name for entry in self.classes]
        folders = [folder for split in self.splits for folder in self.folders(split)]
        columns = [*self.pickled, *(self.truth.columns if self.truth else ())]
        for what, values in (("class", names), ("folder", folders), ("column", columns)):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} stands twice")
        if "." in folders and len(folders) > 1:
            raise ValueError("the folder . (SOURCE itself) must be the only one")
        if len({tuple(entry.folders) for entry in self.classes}) > 1:
            raise ValueError("every class needs a folder for the same splits")
        if self.pickled and self.image.format != "npy":
            raise ValueError("pickled belongs to format npy")
        return self._holdout_fits()

    @model_validator(mode="after")
    def _unlabelled_fits(self) -> Self:
        if self.unlabelled and (self.target or self.pickled):
            raise ValueError("unlabelled images go with neither target nor pickled")
        return self

    @model_validator(mode="after")
    def _target_fits(self) -> Self:
        if self.target is None:
            return self
        if len(self.classes) != 1:
            raise ValueError(f"pairs of image and target have one class, not {len(self.classes)}")
        if tuple(self.target.folders) != tuple(self.classes[0].folders):
            raise ValueError("target needs a folder for the same splits as the class")
        if self.target.is_stack != self.image.is_stack:
            raise ValueError("image and target must both be stacks, or both be single files")
        return self

    def _holdout_fits(self) -> Self:
        splits = self.classes[0].folders
        if self.holdout and (self.holdout.source not in splits or self.holdout.target in splits):
            raise ValueError("holdout must go from a split that has folders to one that has none")
        return self

    @model_validator(mode="after")
    def _simulator_fits(self) -> Self:
        if self.simulate is None:
            return self
        self.simulate.check(self.image.shape, {entry.name for entry in self.classes})
        made = self.target or self.image
        (_, height, width), (_, made_height, made_width) = self.image.shape, made.shape
        if self.target and self.simulate.model == "survey":
            raise ValueError("simulate makes pairs with model dark_matter only")
        if height != width or made_height != made_width or made_height % height:
            raise ValueError("simulate makes square images, and targets a multiple of their size")
        if not {self.image.format, made.format} <= {"npy", "image"}:
            raise ValueError("simulate writes formats npy and image")
        return self

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Return the splits that have folders."""
        labelled = tuple(self.classes[0].folders)
        return (*labelled, "unlabelled") if self.unlabelled else labelled

    @property
    def pickled(self) -> tuple[str, ...]:
        """Return the names of the numbers that are pickled with images."""
        return tuple(dict.fromkeys(entry.pickled for entry in self.classes if entry.pickled))

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the numbers that come with images, or lie beside them."""
        return (*self.pickled, *(self.truth.columns if self.truth else ()))

    def folders(self, split: SplitName) -> list[str]:
        """Return the folders of a split: one a class, in the order of labels, then the target's."""
        if split == "unlabelled":
            return [self.unlabelled] if self.unlabelled else []
        parts = (*self.classes, self.target) if self.target else self.classes
        return [part.folders[split] for part in parts if split in part.folders]

    def labels(self, split: SplitName) -> dict[int, str]:
        """Return label → folder of its images; the label of images without one is -1."""
        if split == "unlabelled":
            return dict.fromkeys([UNLABELLED], *self.folders(split))
        return {label: entry.folders[split] for label, entry in enumerate(self.classes)}

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
