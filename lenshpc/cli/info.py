"""`lenshpc info`: what a store holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lenshpc.cli.show import echo

if TYPE_CHECKING:  # zarr and pandas cost 0.5 s, which `lenshpc --help` need not pay
    from lenshpc.store import Store


@click.command(short_help="Show what a store holds.")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option(
    "--report",
    is_flag=False,
    flag_value="",
    metavar="[PAGE.html]",
    help="Read every image and write a quality report; beside STORE if no name follows.",
)
def info(store: Path, as_json: bool, report: str | None) -> None:
    """Show what STORE holds: rows by split and class, pixels, statistics, hash, size.

    \b
    Examples:
      lenshpc info stores/slc --json
      lenshpc info stores/slc --report
    """
    from lenshpc.store import open_store

    opened = open_store(store)
    found = contents(opened)
    if report is not None:
        page = Path(report) if report else store.with_name(f"{store.resolve().name}-quality.html")
        found |= {"report": str(page), "quality": _quality(opened, page)}
    if as_json:
        echo(json.dumps(found, indent=1))
        return
    echo(summary(opened))
    if report is not None:
        for one in found["quality"]["findings"]:
            echo(f"{one['gravity']:<8} {one['title']}")
        echo(f"report: {found['report']}")


def _quality(store: Store, page: Path) -> dict[str, Any]:
    from lenshpc.cli.progress import progress_bar
    from lenshpc.quality.report import write_quality_report

    with progress_bar("surveying") as progress:
        return write_quality_report(store, page, progress)


def contents(store: Store) -> dict[str, Any]:
    """Return what `info --json` prints."""
    keys = ("counts", "train_mean", "train_std", "seed", "content_hash", "manifest_hash")
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
        **{key: store.attributes[key] for key in keys},
    }


def summary(store: Store) -> str:
    """Return what `info` prints to people."""
    found = contents(store)
    shape = " x ".join(map(str, found["image_shape"]))
    lines = {
        "store": f"{found['path']} ({found['disk_bytes'] / 1e6:.1f} MB)",
        "dataset": f"{found['dataset']}, rows permuted with seed {found['seed']}",
        "images": f"{found['num_rows']} of {shape} {found['dtype']}, scale {found['scale']:.6g}",
        **{split: _counts(classes) for split, classes in found["counts"].items()},
        **{f"channel {name}": text for name, text in _statistics(found).items()},
        "content": found["content_hash"],
        "manifest": found["manifest_hash"],
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())


def _counts(classes: dict[str, int]) -> str:
    parts = ", ".join(f"{count} {name}" for name, count in classes.items())
    return f"{sum(classes.values())}: {parts}"


def _statistics(found: dict[str, Any]) -> dict[str, str]:
    rows = zip(found["channels"], found["train_mean"], found["train_std"], strict=True)
    return {name: f"mean {mean:.6g}, std {std:.6g} over train" for name, mean, std in rows}
