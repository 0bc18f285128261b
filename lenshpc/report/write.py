"""Write a run's report folder whole: gate, merge, judge, draw, then one rename."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from lenshpc.aggregate.merge import Merged
from lenshpc.files import flush, write_json, write_text
from lenshpc.paths import RunPaths
from lenshpc.plan import Plan
from lenshpc.report.figures import draw_figures
from lenshpc.report.findings import gather
from lenshpc.report.html import render_html
from lenshpc.report.markdown import render_markdown
from lenshpc.report.summary import summarise


def write_report(
    run: RunPaths, plan: Plan, *, reasons: Mapping[int, str], allow_partial: bool = False
) -> Path:
    """Write the run's report and return the path of its page.

    `reasons` has what the scheduler knows of a member by its index, for the error that names a
    missing one. With `allow_partial` missing members give a banner and rows without a value.
    """
    findings = gather(run, plan, reasons, allow_partial=allow_partial)
    summary = summarise(run, plan, findings)
    figures = draw_figures(plan, findings)
    with _replacing_folder(run.report) as folder:
        (folder / "figures").mkdir()
        for name, svg in figures.items():
            write_text(folder / "figures" / f"{name}.svg", svg)
        prediction_table(findings.merged).to_parquet(folder / "predictions.parquet", index=False)
        write_json(folder / "report.json", summary)
        write_text(folder / "report.md", render_markdown(summary, figures))
        write_text(folder / "report.html", render_html(summary, figures))
    return run.report / "report.html"


def prediction_table(merged: Merged) -> pd.DataFrame:
    """Return id, row, label, split and a column a model and class, such as `resnet18:p_lens`."""
    columns = {
        f"{name}:p_{kind}": values[:, label]
        for name, values in merged.probabilities.items()
        for label, kind in enumerate(merged.classes)
    }
    return pd.concat([merged.rows[["id", "row", "label", "split"]], pd.DataFrame(columns)], axis=1)


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` that takes its place when the block succeeds."""
    fresh, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        if path.exists():
            path.rename(old)
        fresh.rename(path)
        flush(path.parent)
    finally:
        for folder in (fresh, old):
            shutil.rmtree(folder, ignore_errors=True)
