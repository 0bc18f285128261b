"""Compose a run's report and write its folder whole: everything, then one rename."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from lenshpc.files import replacing, replacing_folder, write_json, write_text
from lenshpc.report.content import Report
from lenshpc.report.html import render_html
from lenshpc.report.markdown import render_markdown
from lenshpc.run.results import Findings
from lenshpc.tasks.anomaly import report as anomaly
from lenshpc.tasks.diffusion import report as diffusion
from lenshpc.tasks.foundation import report as foundation
from lenshpc.tasks.super_resolution import report as super_resolution
from lenshpc.tasks.supervised import report as classification

BUILDERS: Mapping[str, Callable[[Findings], Report]] = MappingProxyType(
    {
        "classification": classification.build,
        "anomaly": anomaly.build,
        "super_resolution": super_resolution.build,
        "foundation": foundation.build,
        "diffusion": diffusion.build,
    }
)


def compose(findings: Findings) -> Report:
    """Return the report of a run, as the kind of its method has it."""
    return BUILDERS[findings.plan.recipe.method.kind](findings)


def write(report: Report, path: Path) -> Path:
    """Write a report's folder at `path`, replacing an earlier one; return the path of its page."""
    with replacing_folder(path) as folder:
        (folder / "figures").mkdir()
        for figure in report.figures():
            write_text(folder / "figures" / f"{figure.name}.svg", figure.svg)
        for gallery in report.galleries():
            for name, picture in gallery.named():
                with replacing(folder / "figures" / name) as temporary:
                    temporary.write_bytes(picture.png)
        report.predictions.to_parquet(folder / "predictions.parquet", index=False)
        write_json(folder / "report.json", report.content)
        write_text(folder / "report.md", render_markdown(report))
        write_text(folder / "report.html", render_html(report))
    return path / "report.html"
