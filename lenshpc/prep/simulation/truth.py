"""Write what is known of simulated images: truth.csv, and subhalos.parquet beside it.

Each block of images leaves its part of both; the parts are joined in the order of the images.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lenshpc.prep.simulation.sample import Sample

_POINTS = ("x_arcsec", "y_arcsec", "theta_e_arcsec", "mass_fraction")


def write_part(stem: Path, samples: dict[str, Sample]) -> None:
    """Write a block's rows to `stem`.csv, and its point masses, if any, to `stem`.parquet."""
    rows = [{"id": identifier, **sample.truth} for identifier, sample in samples.items()]
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    found = {key: sample.points for key, sample in samples.items() if sample.points is not None}
    if found:
        pq.write_table(_table(found), stem.with_suffix(".parquet"))


def join_parts(folder: Path, root: Path) -> None:
    """Join the parts in `folder`, in the order of their names, to the two files in `root`."""
    with (root / "truth.csv").open("w", encoding="utf-8") as stream:
        for position, part in enumerate(sorted(folder.glob("*.csv"))):
            lines = part.read_text(encoding="utf-8").splitlines(keepends=True)
            stream.writelines(lines[min(position, 1) :])
    tables = [pq.read_table(part) for part in sorted(folder.glob("*.parquet"))]
    if any(table.num_rows for table in tables):
        pq.write_table(pa.concat_tables(tables), root / "subhalos.parquet", compression="zstd")


def _table(points: dict[str, Any]) -> pa.Table:
    identifiers = np.repeat(list(points), [part.shape[1] for part in points.values()])
    columns = np.concatenate(list(points.values()), axis=1).astype(np.float32)
    return pa.table({"id": identifiers, **dict(zip(_POINTS, columns, strict=True))})
