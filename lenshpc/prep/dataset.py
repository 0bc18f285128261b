"""Read a dataset file of `data_prep/`: where the images of each class lie and what they are."""

import re
from collections.abc import Sequence
from typing import Annotated, Self, get_args

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from lenshpc.config import Frozen, locate, read_yaml, validate
from lenshpc.prep.formats import ImageFormat, InnerPath
from lenshpc.prep.labelling import (
    RESERVED,
    Catalogue,
    Column,
    Mosaics,
    SplitName,
    StackFiles,
    TruthTable,
)
from lenshpc.prep.simulation.settings import Simulation
from lenshpc.store.layout import UNLABELLED

Value = str | int | float | bool  # as YAML has it, of a label or of a split


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


def _value_text(value: Value) -> str:
    """Return a value as tables and arrays are read: truth values as 0 and 1, 2.0 as 2."""
    is_whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return str(int(value)) if is_whole else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class SplitFolders(Frozen):
    """The folder of each split that the set has."""

    train: InnerPath | None = None
    val: InnerPath | None = None
    test: InnerPath | None = None

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
    """One class: its folders, or the `values` of a label that mean it.

    `pickled` names the column for the number in files that pickle [image, number], or those for all
    numbers after the image.
    """

    name: Annotated[str, Field(min_length=1)]
    values: tuple[Value, ...] = ()
    pickled: Column | Annotated[tuple[Column, ...], Field(min_length=1)] | None = None

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the names of the numbers that are pickled with its images."""
        return (self.pickled,) if isinstance(self.pickled, str) else self.pickled or ()


class Target(ImageFormat, SplitFolders):
    """The images to be predicted from images; a pair is two files of one name."""

    train: InnerPath

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.bad_pixels != "refuse":
            raise ValueError("bad_pixels of a target are refused: networks would learn the fill")
        return self


class Holdout(Frozen):
    """A part of one split that becomes another, chosen by a hash of the group alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    fraction: Annotated[float, Field(gt=0, lt=1)]
    source: SplitName = Field(alias="from")
    target: SplitName = Field(alias="to")


class Dataset(Frozen):
    """One file of `data_prep/`, validated.

    Images lie in folders of classes, in one `folder`, in `stacks`, or are cut from `mosaics`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    image: ImageFormat
    classes: Annotated[tuple[ClassFolders, ...], Field(min_length=1)]
    target: Target | None = None
    truth: TruthTable | None = None
    unlabelled: InnerPath | None = None
    folder: InnerPath | None = None
    stacks: tuple[StackFiles, ...] = ()
    catalogue: Catalogue | None = None
    mosaics: Mosaics | None = None
    split_values: dict[SplitName, tuple[Value, ...]] = Field(default={}, alias="splits")
    holdout: Holdout | None = None
    group: Annotated[str, AfterValidator(_group_rule)] = "id"
    simulate: Simulation | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [entry.name for entry in self.classes]
        folders = [folder for split in self.splits for folder in self.folders(split)]
        taken = sorted(RESERVED & set(self.columns))
        if taken:
            raise ValueError(
                f"column {taken[0]!r} has a name that the store itself uses; rename it"
            )
        labels = [_value_text(value) for entry in self.classes for value in entry.values]
        words = [_value_text(value) for values in self.split_values.values() for value in values]
        listed: dict[str, Sequence[str]] = {
            "class": names,
            "folder": folders,
            "column": self.columns,
            "value of a class": labels,
            "value of a split": words,
        }
        for what, values in listed.items():
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} is listed twice")
        if "." in folders and len(folders) > 1:
            raise ValueError("the folder . (SOURCE itself) must be the only one")
        if len({tuple(entry.folders) for entry in self.classes}) > 1:
            raise ValueError("every class needs a folder for the same splits")
        if self.pickled and self.image.format != "npy":
            raise ValueError("pickled belongs to format npy")
        if self.pickled and self.image.bands:
            raise ValueError("pickled is for files of one image, not for bands")
        return self._holdout_fits()

    @model_validator(mode="after")
    def _unlabelled_fits(self) -> Self:
        if self.unlabelled and (self.target or self.pickled):
            raise ValueError("unlabelled images cannot be combined with target or pickled")
        return self

    @model_validator(mode="after")
    def _places_fit(self) -> Self:
        """Raise unless it is said in one way where the images lie."""
        places = {
            "folders of classes": bool(self.splits),
            "folder": self.folder is not None,
            "stacks": bool(self.stacks),
            "mosaics": self.mosaics is not None,
        }
        given = [name for name, is_given in places.items() if is_given]
        if len(given) != 1:
            told = " and ".join(given) or "nothing"
            raise ValueError(
                f"expected one key that says where the images are, found {told}; give one of "
                f"{', '.join(places)}"
            )
        if self.stacks and not self.image.is_stack:
            raise ValueError("stacks need an image.format of stacks: npz, hdf5, or npy with stack")
        if self.mosaics and (self.image.format != "fits" or self.image.is_apart):
            raise ValueError("mosaics need image.format fits, without bands or a list of hdu")
        if self.mosaics and (self.catalogue is None or self.catalogue.position is None):
            raise ValueError("mosaics need a catalogue with a position")
        if self.mosaics and self.mosaics.edge == "fill" and not self.image.can_fill:
            raise ValueError(
                "mosaics.edge fill needs a float dtype and image.bad_pixels such as {fill: median}"
            )
        if not self.splits and (self.target or self.unlabelled or self.pickled):
            raise ValueError("target, unlabelled and pickled go with folders of classes")
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        """Raise unless each image gets its label in one way."""
        by_table = self.catalogue is not None and self.catalogue.label is not None
        by_array = [
            stack.arrays.label is not None for stack in self.stacks if stack.split != "unlabelled"
        ]
        if self.splits and (by_table or any(entry.values for entry in self.classes)):
            raise ValueError("labels come from folders; leave out catalogue.label and values")
        if by_table and any(by_array):
            raise ValueError("labels come from catalogue.label or from arrays, not from both")
        told = by_table or (by_array and all(by_array))
        if not self.splits and len(self.classes) > 1 and not told:
            raise ValueError(
                f"nothing says to which of {len(self.classes)} classes an image belongs; give "
                "classes their folders, or set catalogue.label, or arrays.label of each of stacks"
            )
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
        if (
            splits
            and self.holdout
            and (self.holdout.source not in splits or self.holdout.target in splits)
        ):
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
        if self.image.bands or made.bands:
            raise ValueError("simulate writes one file per image, not bands")
        return self

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Return the splits that have folders."""
        labelled = tuple(self.classes[0].folders)
        return (*labelled, "unlabelled") if self.unlabelled else labelled

    @property
    def pickled(self) -> tuple[str, ...]:
        """Return the names of the numbers that are pickled with images."""
        return tuple(dict.fromkeys(name for entry in self.classes for name in entry.numbers))

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the numbers that come with images, or lie beside them."""
        tables = (
            (self.truth.columns if self.truth else ()),
            (self.catalogue.numbers if self.catalogue else ()),
        )
        return (*self.pickled, *(name for names in tables for name in names))

    @property
    def tables(self) -> frozenset[str]:
        """Return the files under SOURCE that are tables, and so no images."""
        return frozenset(one.file for one in (self.truth, self.catalogue) if one)

    @property
    def label_values(self) -> dict[str, int]:
        """Return value, as text → label: what the classes declare, or their names and indices.

        Where a name looks like a number, indices are none: 1 would be class "1" and class 1.
        """
        named = {
            _value_text(value): label
            for label, entry in enumerate(self.classes)
            for value in (entry.values or (entry.name,))
        }
        if any(entry.values or _is_number(entry.name) for entry in self.classes):
            return named
        return {str(label): label for label in range(len(self.classes))} | named

    @property
    def split_words(self) -> dict[str, SplitName]:
        """Return value, as text → split."""
        words: dict[str, SplitName] = {
            _value_text(value): split
            for split, values in self.split_values.items()
            for value in values
        }
        return words or {split: split for split in get_args(SplitName)}

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


def load_dataset(name: str) -> Dataset:
    """Return the dataset of a shipped name or of the path of a user's own `.yaml`."""
    path = locate("data_prep", name)
    return validate(Dataset, read_yaml(path), str(path))
