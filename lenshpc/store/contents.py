"""What a store holds, as plain values and in words."""

from collections.abc import Mapping
from typing import Any

from lenshpc.store.read import Store
from lenshpc.store.schema import read_schema

KEYS = ("counts", "train_mean", "train_std", "seed", "content_hash", "manifest_hash")


def contents(store: Store) -> dict[str, Any]:
    """Return what `info --json` prints."""
    files = [path for path in store.path.rglob("*") if path.is_file()]
    return {
        "path": str(store.path),
        "dataset": store.dataset,
        "classes": list(store.classes),
        "channels": list(store.channels),
        "num_rows": store.num_rows,
        "image_shape": list(store.image_shape),
        "dtype": store.dtype.name,
        "scale": store.scale,
        "disk_bytes": sum(path.stat().st_size for path in files),
        **{key: store.attributes[key] for key in KEYS},
        "arrays": read_schema(store.path),
    }


def describe(store: Store) -> dict[str, str]:
    """Return what people are told, a line a key; the splits that have rows are keys, too."""
    found = contents(store)
    shape = " x ".join(map(str, found["image_shape"]))
    statistics = zip(found["channels"], found["train_mean"], found["train_std"], strict=True)
    return {
        "store": f"{found['path']} ({found['disk_bytes'] / 1e6:.1f} MB)",
        "dataset": f"{found['dataset']}, rows permuted with seed {found['seed']}",
        "images": f"{found['num_rows']} of {shape} {found['dtype']}, scale {found['scale']:.6g}",
        **{split: _describe_counts(classes) for split, classes in found["counts"].items()},
        **{
            f"channel {name}": f"mean {mean:.6g}, std {std:.6g} over train"
            for name, mean, std in statistics
        },
        "content": found["content_hash"],
        "manifest": found["manifest_hash"],
    }


def _describe_counts(classes: Mapping[str, int]) -> str:
    parts = ", ".join(f"{count} {name}" for name, count in classes.items())
    return f"{sum(classes.values())}: {parts}"
