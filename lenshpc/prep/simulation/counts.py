"""Read how many images of each split and class are wanted."""

from collections.abc import Mapping

from lenshpc.config import unknown
from lenshpc.errors import ConfigError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.labelling import SplitName

Counts = Mapping[SplitName, Mapping[str, int]]  # split → class → number of images
MAX_IMAGES = 10**7  # of a class and split; they take days, and each is a file
_MAX_SHOWN = 60


def parse_counts(dataset: Dataset, wanted: Mapping[SplitName, str | None]) -> Counts:
    """Return the numbers from split → "N" for each class, or "CLASS=N,CLASS=N"."""
    counts = {split: _parse(dataset, split, text) for split, text in wanted.items() if text}
    for split in counts:
        if split not in dataset.splits:
            raise ConfigError(
                f"--{split}: {dataset.name} has no folders for {split}; "
                f"give images for {', '.join(dataset.splits)} only"
            )
    return counts


def write_count(number: int | Mapping[str, int] | None) -> str | None:
    """Return a number for each class, or class → number, as `parse_counts` takes it."""
    if isinstance(number, Mapping):
        return ",".join(f"{name}={one}" for name, one in number.items())
    return None if number is None else str(number)


def _parse(dataset: Dataset, split: SplitName, text: str) -> dict[str, int]:
    names = [entry.name for entry in dataset.classes]
    pairs = [part.partition("=")[::2] for part in text.split(",")] if "=" in text else []
    shown = f"--{split} {text[:_MAX_SHOWN]}"
    for name, _ in pairs:
        if name not in names:
            raise ConfigError(f"{shown}: {unknown('class', name[:_MAX_SHOWN], names)}")
    numbers = dict(pairs) or dict.fromkeys(names, text)
    if len(numbers) != max(len(names), len(pairs)) or not all(map(_is_count, numbers.values())):
        example = ",".join(f"{name}=100" for name in names)
        raise ConfigError(f"{shown}: expected a number from 1 to {MAX_IMAGES}, or {example}")
    return {name: int(numbers[name]) for name in names}


def _is_count(text: str) -> bool:
    # By its length first: Python refuses to read a number of thousands of digits.
    return text.isascii() and text.isdecimal() and len(text) <= 9 and 0 < int(text) <= MAX_IMAGES
