"""What a source file holds, as a dataset file declares it: format, shape, channels, bad pixels."""

import re
from collections.abc import Mapping
from math import isfinite
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lenshpc.config import Frozen

SUFFIXES = {
    "npy": (".npy",),
    "image": (".jpg", ".jpeg", ".png"),
    "fits": (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz", ".fits.bz2"),
    "npz": (".npz",),
    "hdf5": (".h5", ".hdf5"),
}
STACKS = ("npz", "hdf5")  # a .npy file is one where `stack` says so


def inner_path(path: str) -> str:
    """Return a path inside SOURCE; raise ValueError for one that leads out of it."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not path:
        raise ValueError("expected a path inside SOURCE, such as train/no, or . for SOURCE itself")
    return str(parts)


def _pixel_dtype(name: str) -> str:
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "uif" or dtype.name != name:
        raise ValueError("expected an integer or float dtype, such as float32 or uint8")
    return name


def check_pattern(*fields: str) -> AfterValidator:
    """Return the check of a path pattern in which each of `fields` stands once, in braces."""

    def check(pattern: str) -> str:
        found = re.findall(r"\{([^{}]*)\}", pattern)
        if sorted(found) != sorted(fields) or re.search(r"[{}]", re.sub(r"\{\w+\}", "", pattern)):
            wanted = " and ".join(f"{{{field}}}" for field in fields)
            raise ValueError(f"expected a file name with {wanted}, each once")
        return inner_path(pattern)

    return AfterValidator(check)


InnerPath = Annotated[str, AfterValidator(inner_path)]
Length = Annotated[int, Field(ge=1)]
HduName = Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)]


class Fill(Frozen):
    """What bad pixels become: a value, or the median of the good ones of their channel."""

    fill: Literal["median"] | float


def _policy(value: Any) -> Any:
    """Return what bad pixels become; raise in one line, where pydantic has one a member."""
    fill = value.get("fill") if isinstance(value, Mapping) and len(value) == 1 else None
    is_number = isinstance(fill, int | float) and not isinstance(fill, bool) and isfinite(fill)
    if value == "refuse" or isinstance(value, Fill) or fill == "median" or is_number:
        return value
    raise ValueError("expected refuse, {fill: median} or {fill: NUMBER}")


class ImageFormat(Frozen):
    """What every source file holds, or every row of a stack; the store keeps shape and `dtype`.

    `shape` is (C,H,W); `axes` the order in the file. `stack` says that the first axis of a .npy
    file counts images, as it always does in npz and hdf5, where `key` names the array. `bands` is
    the pattern of the files of an object, one a channel; `hdu` the image in a FITS file, whose
    first image it is by default, or one image a channel.
    """

    format: Literal["npy", "image", "fits", "npz", "hdf5"]
    shape: tuple[Length, Length, Length]
    dtype: Annotated[str, AfterValidator(_pixel_dtype)]
    channels: tuple[str, ...]
    axes: Literal["chw", "hwc", "hw"] = "chw"
    stack: bool = False
    key: Annotated[str, Field(min_length=1)] | None = None
    bands: Annotated[str, check_pattern("object", "band")] | None = None
    hdu: HduName | tuple[HduName, ...] | None = None
    bad_pixels: Annotated[Literal["refuse"] | Fill, BeforeValidator(_policy)] = "refuse"

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if len(self.channels) != self.shape[0]:
            raise ValueError(f"{len(self.channels)} channel names for shape {list(self.shape)}")
        if self.format == "image" and self.axes != "chw":
            raise ValueError("axes are fixed by JPEG and PNG; leave the key out")
        if self.stack and self.format != "npy":
            raise ValueError("stack belongs to format npy; npz and hdf5 are stacks by themselves")
        if (self.key is not None) != (self.format in STACKS):
            raise ValueError(f"key names the array of {' or '.join(STACKS)}, and only of these")
        if self.hdu is not None and self.format != "fits":
            raise ValueError("hdu belongs to format fits")
        return self._parts_fit()._fill_fits()

    def _parts_fit(self) -> Self:
        """Raise unless channels that lie apart are declared so that each is found."""
        if self.bands and self.is_stack:
            raise ValueError("bands are files of one image; a stack has them on an axis")
        if self.bands and not self.bands.lower().endswith(self.suffixes):
            raise ValueError(f"bands names files, which end in {' or '.join(self.suffixes)}")
        odd = [name for name in self.channels if "/" in name or name in {"", ".", ".."}]
        if self.bands and odd:
            raise ValueError(f"with bands, channel {odd[0]!r} is part of a file name")
        if isinstance(self.hdu, tuple) and (self.bands or len(self.hdu) != self.shape[0]):
            raise ValueError(f"a list of hdu names one for each of {self.shape[0]} channels")
        if self.axes == "hw" and self.shape[0] != 1 and not self.is_apart:
            raise ValueError(f"axes hw is for one channel, shape {list(self.shape)} has more")
        if self.axes == "hwc" and self.is_apart:
            raise ValueError("channels that lie in files or HDUs of their own have axes hw or chw")
        return self

    def _fill_fits(self) -> Self:
        """Raise unless pixels of this dtype can be bad, and be filled so."""
        if self.bad_pixels == "refuse":
            return self
        dtype, fill = np.dtype(self.dtype), self.bad_pixels.fill
        if dtype.kind != "f":
            raise ValueError(
                f"bad_pixels replaces NaN, which {self.dtype} does not have; leave it out"
            )
        if fill != "median":
            with np.errstate(over="ignore"):
                kept = abs(float(dtype.type(fill)))
            if not kept <= float(np.finfo(np.float32).max):  # neither is NaN
                raise ValueError(f"bad_pixels.fill {fill} is not a value of {self.dtype}")
        return self

    @property
    def is_stack(self) -> bool:
        """Tell whether a file holds many images."""
        return self.stack or self.format in STACKS

    @property
    def can_fill(self) -> bool:
        """Tell whether pixels that are not there can be marked, and are then filled."""
        return self.bad_pixels != "refuse" and np.dtype(self.dtype).kind == "f"

    @property
    def is_apart(self) -> bool:
        """Tell whether each channel lies in a file or HDU of its own."""
        return self.bands is not None or isinstance(self.hdu, tuple)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Return the shape of an image in the file."""
        channels, height, width = self.shape
        orders = {"chw": self.shape, "hwc": (height, width, channels), "hw": (height, width)}
        return orders[self.axes]

    @property
    def part(self) -> Self:
        """Return what holds for the file or HDU of one channel, where each lies apart."""
        _, height, width = self.shape
        axes = "chw" if self.format == "image" else "hw"
        apart = None if isinstance(self.hdu, tuple) else self.hdu
        update = {"shape": (1, height, width), "channels": self.channels[:1], "axes": axes}
        return self.model_copy(update={**update, "bands": None, "hdu": apart})

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return the file endings that count as images, in lower case."""
        return SUFFIXES[self.format]

    def stem(self, name: str) -> str:
        """Return a file's name or path without the ending that makes it an image."""
        endings = [ending for ending in self.suffixes if name.lower().endswith(ending)]
        return name[: -max(map(len, endings))] if endings else name
