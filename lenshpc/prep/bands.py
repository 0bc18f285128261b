"""Objects of several files, one a band: which files are one, and which seem to be."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lenshpc.errors import DataError, printable
from lenshpc.prep.defects import Defect
from lenshpc.prep.formats import ImageFormat

_BAND = "{band}"
_OBJECT = "{object}"
_MAX_SHOWN = 8
_NUM_SAMPLED = 2000
# Letters of photometric systems (Ks, i2, zs among them), HST's and JWST's filters, Euclid's and
# WISE's names.
_LOOKS_LIKE_BAND = re.compile(
    r"[ugrizyjhkbvw]|ks|[ugrizy][2s]|w[1-4]|f\d{3,4}(?:[wmnx]|lp)\d*|vis|nir(?:-?[yjh])?|nisp|irac\d",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class BandObjects:
    """The objects in a folder: `names`, those that lack a band, and what of it was left out."""

    names: list[str]
    defects: tuple[Defect, ...] = ()
    told: tuple[str, ...] = ()


def band_paths(file: str, image: ImageFormat) -> list[str]:
    """Return the files of an image, one a channel, or the one of all channels."""
    return [file.replace(_BAND, name) for name in image.channels] if image.bands else [file]


def image_file(folder: str, name: str, image: ImageFormat) -> str:
    """Return the path of an image's file; of an object's files, {band} is left in it."""
    return join_path(folder, (image.bands or _OBJECT).replace(_OBJECT, name))


def join_path(folder: str, name: str) -> str:
    """Return the path under SOURCE of what lies in a folder of it."""
    return name if folder == "." else f"{folder}/{name}"


def list_objects(folder: str, names: Iterable[str], image: ImageFormat) -> BandObjects:
    """Return the objects that these files of a folder are bands of.

    Files of further bands of an object are left out.
    """
    pattern = _pattern(image, "[^/]+?", _any_of(image.channels))
    held: dict[str, set[str]] = {}
    others = []
    for name in names:
        found = pattern.fullmatch(name)
        if found:
            held.setdefault(found["object"], set()).add(found["band"])
        else:
            others.append(name)
    if not held:
        raise _no_objects(folder, others, image)
    left_out = Counter(_other_band(folder, name, held, image) for name in others)
    odd = next((name for name in held if _BAND in join_path(folder, name)), None)
    if odd is not None:
        raise DataError(f"cannot use the name {join_path(folder, odd)!a}; rename it")
    told = tuple(
        f"left out of {folder}/: {count} files of the band {printable(band)}, which image.channels "
        "does not name"
        for band, count in sorted(left_out.items())
    )
    return BandObjects(names=sorted(held), defects=_incomplete(folder, held, image), told=told)


def group_by_folder(files: Iterable[str], image: ImageFormat) -> dict[str, list[str]]:
    """Return folder → names of the files in it that bands are looked for among."""
    levels = (image.bands or "").count("/")
    groups: dict[str, list[str]] = {}
    for file in files:
        *folders, name = file.rsplit("/", levels + 1)
        folder = folders[0] if len(folders) > levels else "."
        groups.setdefault(folder, []).append("/".join((*folders[len(folders) > levels :], name)))
    return groups


def _any_of(channels: Iterable[str]) -> str:
    # The longest first: W2 is not the band 2 of an object that ends in W.
    return "|".join(re.escape(name) for name in sorted(channels, key=len, reverse=True))


def _pattern(image: ImageFormat, name: str, band: str) -> re.Pattern[str]:
    groups = {_OBJECT: f"(?P<object>{name})", _BAND: f"(?P<band>{band})"}
    parts = re.split(r"(\{\w+\})", image.bands or "")
    return re.compile("".join(groups.get(part, re.escape(part)) for part in parts))


def _other_band(folder: str, name: str, held: Container[str], image: ImageFormat) -> str:
    """Return the band of a file that is none of the channels, but of an object that has them."""
    for lazy in ("", "?"):  # an object's name may hold what parts it from the band, or the band may
        found = _pattern(image, f"[^/]+{lazy}", "[^/]+").fullmatch(name)
        if found and found["object"] in held:
            return found["band"]
    raise DataError(
        f"unexpected {printable(join_path(folder, name))}; {folder}/ may hold only files of "
        f"objects with the bands {', '.join(image.channels)}, named {image.bands}; move it away",
        cause="unexpected file",
    )


def _no_objects(folder: str, others: list[str], image: ImageFormat) -> DataError:
    shown = ", ".join(printable(name) for name in sorted(others)[:_MAX_SHOWN]) or "nothing"
    return DataError(
        f"{folder}/ holds no files named {image.bands} with a band of "
        f"{', '.join(image.channels)}; it holds {shown}; set image.bands and image.channels in "
        "DATASET as the files are named"
    )


def _incomplete(
    folder: str, held: Mapping[str, set[str]], image: ImageFormat
) -> tuple[Defect, ...]:
    """Return all objects that lack a band."""
    defects = []
    for name, bands in sorted(held.items()):
        missing = [band for band in image.channels if band not in bands]
        if missing:
            file = image_file(folder, name, image)
            message = (
                f"{file} lacks the band {', '.join(missing)}; put the file there, or keep the "
                "object's other files elsewhere"
            )
            defects.append(Defect(path=file, cause="missing band", error=printable(message)))
    return tuple(defects)


def warn_of_suffixes(folder: str, names: Sequence[str], image: ImageFormat) -> tuple[str, ...]:
    """Return a line for the user where the images of a folder seem to be bands of fewer objects.

    So it is where most names, of the first ones, differ by the same bands at their ends.
    """
    if image.bands or image.is_stack:
        return ()
    stems = {image.stem(name): name for name in sorted(names)[:_NUM_SAMPLED]}
    objects: dict[tuple[str, str], list[str]] = {}
    for stem in stems:
        found = re.fullmatch(r"(.+)([_.-])([^_.-]+)", stem)
        if found and _LOOKS_LIKE_BAND.fullmatch(found[3]):
            objects.setdefault((found[1], found[2]), []).append(found[3])
    sets = Counter(tuple(bands) for bands in objects.values() if len(bands) > 1)
    if not sets:
        return ()
    bands, num_objects = sets.most_common(1)[0]
    if 2 * num_objects * len(bands) <= len(stems):
        return ()
    (name, mark), _ = next(item for item in objects.items() if tuple(item[1]) == bands)
    files = [stems[f"{name}{mark}{band}"] for band in bands]
    ending = files[0].removeprefix(f"{name}{mark}{bands[0]}")
    return (
        f"warning: {printable(', '.join(files[:_MAX_SHOWN]))} in {folder}/ seem to be bands of one "
        "object, but each is an image by itself, whose bands may part over splits; to make them "
        f'channels set image.bands: "{_OBJECT}{mark}{_BAND}{ending}" and image.channels: '
        f"[{', '.join(bands)}]",
    )
