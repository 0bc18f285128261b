"""Compose a run's report and write its folder whole: everything, then one rename."""

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lenshpc.errors import IncompleteError, printable
from lenshpc.files import flush_tree, read_json, replacing_folder, write_json, write_text
from lenshpc.registry import find_task, load
from lenshpc.report.common import NOTES_TITLE
from lenshpc.report.content import Banner, Report
from lenshpc.report.format import format_value
from lenshpc.report.html import render_html
from lenshpc.report.latex import render_csv, render_latex, render_prose
from lenshpc.report.markdown import render_markdown
from lenshpc.report.methods import describe_methods, methods_section
from lenshpc.report.references import list_cited
from lenshpc.report.verdict import Verdict
from lenshpc.run.completion import reference
from lenshpc.run.results import RunResults

FILES = {"report.html", "report.md", "report.json", "predictions.parquet"}


def compose(results: RunResults) -> Report:
    """Return the report of a run, as its task judges and shows it."""
    kind, stages = find_task(results.plan.recipe.task), results.stages
    with stages.time("scores"):
        evaluation = load(kind.evaluate)(results)
    with stages.time("pictures"):
        report: Report = load(kind.report)(results, evaluation)
    report = replace(report, content={**report.content, "stages": stages.list_seconds()})
    report = _add_methods(report, describe_methods(results, report))
    return _tell_judging(report, results.changes) if results.changes else report


def _add_methods(report: Report, text: str) -> Report:
    """Return a report with its paragraph on methods, before the notes where it has any."""
    titles = [section.title for section in report.sections]
    at = titles.index(NOTES_TITLE) if NOTES_TITLE in titles else len(titles)
    sections = (*report.sections[:at], methods_section(text), *report.sections[at:])
    return replace(report, methods=text, sections=sections)


def _tell_judging(report: Report, changes: Mapping[str, tuple[Any, Any]]) -> Report:
    """Return a report that says at its top how it is judged otherwise than the run's own."""
    banner = Banner(
        title="Evaluated with other settings than the run's own report.",
        text="The members are the same, and were not trained again.",
        lines=tuple(
            f"{key} is {format_value(here)} here, and {format_value(own)} in the run's own"
            for key, (own, here) in changes.items()
        ),
    )
    told = {key: {"run": own, "here": here} for key, (own, here) in changes.items()}
    return replace(
        report,
        banners=(banner, *report.banners),
        content={**report.content, "judging": told},
    )


def check_members(results: RunResults) -> None:
    """Refuse to judge a run anew that lacks a member which its report has."""
    # Before anything is judged: a task may write merged images while it judges.
    lacking = {f"member {member.index}" for member in results.missing}
    _refuse(results, [one for one in _read_shown(results.place.report) if one in lacking])


def check_fuller(report: Report, results: RunResults) -> None:
    """Refuse to replace the report of a run by one that lacks something which that one shows."""
    shown = set(_list_shown(report))
    _refuse(results, [one for one in _read_shown(results.place.report) if one not in shown])


def _refuse(results: RunResults, lost: Sequence[str]) -> None:
    if lost:
        path, store = results.place.report, results.plan.store
        why = "" if store.exists() else f", as there is no store at {store}"
        changes = (
            shlex.quote(f"{key}={'null' if here is None else here}")
            for key, (_, here) in results.changes.items()
        )
        options = " ".join((*(f"--set {one}" for one in changes), "--force"))
        raise IncompleteError(
            f"the report in {path} shows more than a new one would, such as "
            f"{printable(lost[0])}{why}; put back what that came from, or replace the report "
            f"anyway with: lenshpc aggregate {reference(results.run)} {options}"
        )


def write(report: Report, path: Path) -> Path:
    """Write a report's folder at `path`, replacing an earlier one; return the path of its page.

    Files that somebody else put into the folder are kept.
    """
    # Replaced whole: a page must never stand beside figures or numbers of an earlier one.
    with replacing_folder(path) as folder:
        for name, content in _list_files(report):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        report.predictions.to_parquet(folder / "predictions.parquet", index=False)
        verdict = report.verdict.as_json() if report.verdict else None
        told = {
            "in_short": report.headline.in_short,
            "verdict": verdict,
            "shows": _list_shown(report),
            "files": [name for name, _ in _list_files(report)],
        }
        write_json(folder / "report.json", {**report.content, **told})
        write_text(folder / "report.md", render_markdown(report))
        write_text(folder / "report.html", render_html(report))
        _keep_others(path, folder)
        # Before the rename that comes next: a name must not outlive the bytes behind it.
        flush_tree(folder)
    return path / "report.html"


def _list_files(report: Report) -> Iterator[tuple[str, bytes]]:
    """Yield all files for papers and slides: figures, pictures, tables, methods with references."""
    for figure in report.figures():
        yield f"figures/{figure.name}.svg", figure.svg.encode()
        if figure.pdf:
            yield f"figures/{figure.name}.pdf", figure.pdf
    for gallery in report.galleries():
        for name, picture in gallery.pictures_by_file():
            yield f"figures/{name}", picture.png
    for name, table in report.tables():
        yield f"tables/{name}.csv", render_csv(table).encode()
        yield f"tables/{name}.tex", render_latex(table, name).encode()
    if report.methods:
        yield "methods.tex", render_prose(report.methods).encode()
        cited = "\n".join(one.bibtex for one in list_cited(report.methods))
        yield "references.bib", cited.encode()


def read_verdict(path: Path) -> Verdict | None:
    """Return the verdict of the report at `path`; None where it has none, or cannot be read."""
    try:
        content: Any = read_json(path / "report.json")
        return Verdict.from_json(content["verdict"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def _list_shown(report: Report) -> list[str]:
    """Return what a report shows: its pictures' files, the lines of its main table, its members."""
    figures = (f"figures/{one.name}.svg" for one in report.figures())
    pictures = (name for one in report.galleries() for name, _ in one.pictures_by_file())
    lines = (f"the line {row.cells[0]}" for row in report.overview.rows)
    members = (f"member {one['index']}" for one in report.content.get("members", ()))
    return [*figures, *(f"figures/{name}" for name in pictures), *lines, *members]


def _read_shown(path: Path) -> list[str]:
    """Return what the report at `path` shows; nothing where there is none that can be read."""
    return _read_names(path, "shows")


def _read_names(path: Path, key: str) -> list[str]:
    try:
        content: Any = read_json(path / "report.json")
        return [str(one) for one in content[key]]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return []


def _keep_others(path: Path, folder: Path) -> None:
    """Copy the files below `path` that are no report's into `folder`."""
    for name in _find_others(path):
        kept = folder / name
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path / name, kept, follow_symlinks=False)


def _find_others(path: Path) -> Iterator[Path]:
    ours = FILES | set(_read_names(path, "shows")) | set(_read_names(path, "files"))
    for found in path.rglob("*"):
        name = found.relative_to(path)
        if str(name) not in ours and (found.is_symlink() or found.is_file()):
            yield name
