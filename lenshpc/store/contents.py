"""What a store holds, as plain values and in words."""

import math
from collections.abc import Mapping
from typing import Any

from lenshpc.store.read import Store
from lenshpc.store.schema import read_schema

NO_TEST_ROWS = (
    "no test rows, and a run needs some: give some images a folder of their own, a split column "
    "or a holdout in the dataset file, then prepare another store"
)
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
        "groups": count_groups(store),
        "filled": count_filled_pixels(store),
    }


def count_groups(store: Store) -> dict[str, int] | None:
    """Return the number of groups and of rows in the largest; None where none were given."""
    if not store.is_grouped:
        return None
    sizes = store.text("group").value_counts().field("counts")
    return {"num_groups": len(sizes), "largest": max(sizes.to_pylist(), default=0)}


def count_filled_pixels(store: Store) -> dict[str, dict[str, dict[str, float]]] | None:
    """Return split → class → `images` with filled pixels and `share` of pixels; None without masks.

    Nothing is read for it.
    """
    if store.masks is None:
        return None
    images, pixels = (store.attributes["filled"][name] for name in ("images", "pixels"))
    size = math.prod(store.image_shape)
    return {
        split: {
            name: {
                "images": images[split][name],
                "share": pixels[split][name] / max(1, num * size),
            }
            for name, num in counts.items()
        }
        for split, counts in store.attributes["counts"].items()
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
        **({} if "test" in found["counts"] else {"warning": NO_TEST_ROWS}),
        **({"groups": _describe_groups(found["groups"])} if found["groups"] else {}),
        **{
            f"filled in {split}": _describe_filled(classes)
            for split, classes in (found["filled"] or {}).items()
        },
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


def _describe_groups(groups: Mapping[str, int]) -> str:
    return f"{groups['num_groups']:,}, the largest of {groups['largest']:,} images"


def _describe_filled(classes: Mapping[str, Mapping[str, float]]) -> str:
    total = sum(one["images"] for one in classes.values())
    parts = ", ".join(
        f"{one['images']} {name} ({one['share']:.2%} of pixels)" for name, one in classes.items()
    )
    return f"{total} images: {parts}"
