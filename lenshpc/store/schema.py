"""What the arrays of a store are, told in their metadata: xarray, dask and people read it there.

Each has names of its dimensions, equal lengths under equal names, and attributes by the CF
conventions: `long_name`, `units`, `flag_values` and `flag_meanings`, `coordinates`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from lenshpc.store.layout import SPLITS, UNLABELLED, StoreSpec

ROW, DIGEST = ("row",), "byte"
SHARDS = ("array", "shard")
PIXELS = {
    "images": ("image", ("row", "channel", "y", "x")),
    "targets": (
        "other half of the pair",
        ("row", "target_channel", "target_y", "target_x"),
    ),
    "masks": ("1 where the image's pixel was filled", ("row", "channel", "y", "x")),
}
COLUMNS = {
    "id": ("name of the image: its path under the source", ROW),
    "group": ("what images have in common that are never parted between splits", ROW),
    "label": ("class", ROW),
    "split": ("split", ROW),
    "sha256": ("SHA-256 of the source file", (*ROW, DIGEST)),
    "size": ("size of the source file", ROW),
    "moments": ("mean and mean square of the scaled pixels", (*ROW, "channel", "moment")),
    "pixel_sha256": ("SHA-256 of the pixels, of an image and its other half", (*ROW, DIGEST)),
    "num_filled": ("number of filled pixels of the image", (*ROW, "channel")),
    "shard_sha256": ("SHA-256 of the files of pixels", (*SHARDS, DIGEST)),
    "shard_bytes": ("size of the files of pixels", SHARDS),
    "chunk_crc32c": ("CRC-32C of the chunks in the files of pixels", (*SHARDS, "chunk")),
    "channel": ("channel", ("channel",)),
    "target_channel": ("channel of the other half of the pair", ("target_channel",)),
}
UNITS = {"size": "byte", "shard_bytes": "byte"}
UNITS_BY_ENDING = {"_deg": "degree", "_arcsec": "arcsec"}
TAKEN_NAMES = {*PIXELS, *COLUMNS, *ROW}  # no number of a row can have such a name


def array_metadata(name: str, spec: StoreSpec) -> dict[str, Any]:
    """Return what zarr is told of an array of such a store beside its shape and type."""
    long_name, dimensions = (PIXELS | COLUMNS).get(name, (name.replace("_", " "), ROW))
    attributes: dict[str, Any] = {"long_name": long_name}
    if unit := _unit(name, spec):
        attributes["units"] = unit
    if name in PIXELS:
        attributes["coordinates"] = "id group label split"
    return {"dimension_names": dimensions, "attributes": attributes | _flags(name, spec)}


def channel_names(spec: StoreSpec) -> dict[str, pa.LargeStringArray]:
    """Return the arrays of names, which xarray takes for the coordinates of their dimension."""
    names = {"channel": spec.image.channels}
    if spec.target:
        names["target_channel"] = spec.target.channels
    return {name: pa.array(texts, pa.large_string()) for name, texts in names.items()}


def consolidate(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Return the metadata of all arrays as the group's document repeats them.

    A reader then opens one file; xarray warns of a store without them.
    """
    metadata = {name: json.loads((path / name / "zarr.json").read_bytes()) for name in names}
    return {"kind": "inline", "must_understand": False, "metadata": metadata}


def read_schema(path: Path) -> dict[str, dict[str, Any]]:
    """Return array → what `info --json` says of it, of a store that was opened."""
    document = json.loads((path / "zarr.json").read_bytes())
    arrays = document["consolidated_metadata"]["metadata"]
    return {name: _describe(metadata) for name, metadata in arrays.items()}


def _describe(metadata: dict[str, Any]) -> dict[str, Any]:
    attributes = metadata["attributes"]
    words, values = attributes.get("flag_meanings", "").split(), attributes.get("flag_values", ())
    return {
        "dtype": metadata["data_type"],
        "shape": metadata["shape"],
        "dimensions": metadata["dimension_names"],
        "units": attributes.get("units"),
        "meaning": attributes["long_name"],
        **({"flags": dict(zip(words, values, strict=True))} if words else {}),
    }


def _unit(name: str, spec: StoreSpec) -> str | None:
    by_ending = (unit for ending, unit in UNITS_BY_ENDING.items() if name.endswith(ending))
    return UNITS.get(name) or (next(by_ending, None) if name in spec.columns else None)


def _flags(name: str, spec: StoreSpec) -> dict[str, Any]:
    """Return which values a column has, and the words that stand for them."""
    if name == "label":
        return _say_flags(range(UNLABELLED, len(spec.classes)), ("unlabelled", *spec.classes))
    return _say_flags(range(len(SPLITS)), SPLITS) if name == "split" else {}


def _say_flags(values: range, words: tuple[str, ...]) -> dict[str, Any]:
    meanings = " ".join("_".join(word.split()) for word in words)  # blanks part them
    return {"flag_values": list(values), "flag_meanings": meanings}
