"""Compose a run's report and write its folder whole: everything, then one rename."""

from pathlib import Path

from lenshpc.files import replacing, replacing_folder, write_json, write_text
from lenshpc.registry import find_task, load
from lenshpc.report.content import Report
from lenshpc.report.html import render_html
from lenshpc.report.markdown import render_markdown
from lenshpc.run.results import RunResults


def compose(results: RunResults) -> Report:
    """Return the report of a run, as its task judges and shows it."""
    kind = find_task(results.plan.recipe.task)
    report: Report = load(kind.report)(results, load(kind.evaluate)(results))
    return report


def write(report: Report, path: Path) -> Path:
    """Write a report's folder at `path`, replacing an earlier one; return the path of its page."""
    # Replaced whole: a page must never stand beside figures or numbers of an earlier one.
    with replacing_folder(path) as folder:
        (folder / "figures").mkdir()
        for figure in report.figures():
            write_text(folder / "figures" / f"{figure.name}.svg", figure.svg)
        for gallery in report.galleries():
            for name, picture in gallery.pictures_by_file():
                with replacing(folder / "figures" / name) as temporary:
                    temporary.write_bytes(picture.png)
        report.predictions.to_parquet(folder / "predictions.parquet", index=False)
        write_json(folder / "report.json", report.content)
        write_text(folder / "report.md", render_markdown(report))
        write_text(folder / "report.html", render_html(report))
    return path / "report.html"
