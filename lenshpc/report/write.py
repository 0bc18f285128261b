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
from lenshpc.report.content import Banner, Report
from lenshpc.report.format import format_value
from lenshpc.report.html import render_html
from lenshpc.report.markdown import render_markdown
from lenshpc.report.verdict import Verdict
from lenshpc.run.completion import reference
from lenshpc.run.results import RunResults

FILES = {"report.html", "report.md", "report.json", "predictions.parquet"}


def compose(results: RunResults) -> Report:
    """Return the report of a run, as its task judges and shows it."""
    kind = find_task(results.plan.recipe.task)
    report: Report = load(kind.report)(results, load(kind.evaluate)(results))
    return _tell_judging(report, results.changes) if results.changes else report


def _tell_judging(report: Report, changes: Mapping[str, tuple[Any, Any]]) -> Report:
    """Return a report that says at its top how it is judged otherwise than the run's own."""
    banner = Banner(
        title="Judged otherwise than the run's own report.",
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
        options = " ".join((*(f"--set {one}" for one in changes), "--replace"))
        raise IncompleteError(
            f"the report in {path} shows more than a new one would, such as "
            f"{printable(lost[0])}{why}; put back what that came from, or give it up with: "
            f"lenshpc aggregate {reference(results.run)} {options}"
        )


def write(report: Report, path: Path) -> Path:
    """Write a report's folder at `path`, replacing an earlier one; return the path of its page.

    Files that somebody else put into the folder are kept.
    """
    # Replaced whole: a page must never stand beside figures or numbers of an earlier one.
    with replacing_folder(path) as folder:
        (folder / "figures").mkdir()
        for figure in report.figures():
            write_text(folder / "figures" / f"{figure.name}.svg", figure.svg)
        for gallery in report.galleries():
            for name, picture in gallery.pictures_by_file():
                (folder / "figures" / name).write_bytes(picture.png)
        report.predictions.to_parquet(folder / "predictions.parquet", index=False)
        verdict = report.verdict.as_json() if report.verdict else None
        told = {
            "in_short": report.headline.in_short,
            "verdict": verdict,
            "shows": _list_shown(report),
        }
        write_json(folder / "report.json", {**report.content, **told})
        write_text(folder / "report.md", render_markdown(report))
        write_text(folder / "report.html", render_html(report))
        _keep_others(path, folder)
        # Before the rename that comes next: a name must not outlive the bytes behind it.
        flush_tree(folder)
    return path / "report.html"


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
    try:
        content: Any = read_json(path / "report.json")
        return [str(one) for one in content["shows"]]
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
    ours = FILES | set(_read_shown(path))
    for found in path.rglob("*"):
        name = found.relative_to(path)
        if str(name) not in ours and (found.is_symlink() or found.is_file()):
            yield name
