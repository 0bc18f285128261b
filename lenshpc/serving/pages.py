"""The pages, drawn here and nowhere else: scripts in the browser only put a newer one in place."""

from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment

from lenshpc.launch.words import count_epochs, list_failures
from lenshpc.report.html import make_environment
from lenshpc.run.plan import Plan
from lenshpc.serving.board import SeenRun
from lenshpc.serving.chart import NUM_LOOKS, draw_chart, draw_spark, name_groups
from lenshpc.serving.documents import list_documents
from lenshpc.serving.folder import RunsFolder, SeenStudy, list_galleries, tell_folder, tell_runs

MOST_MEMBERS = 300  # in a table and its charts
COLOURS = {
    "DONE": "good",
    "TRAINED": "good",
    "FAILED": "bad",
    "RUNNING": "busy",
    "CANCELLED": "odd",
    "UNKNOWN": "odd",
}


@cache
def _templates() -> Environment:
    environment = make_environment(Path(__file__).parent)
    environment.filters |= {"path": quote, "spark": draw_spark}
    environment.globals |= {"colours": COLOURS}
    return environment


def draw_folder(folder: RunsFolder) -> str:
    """Return the page of all runs and studies."""
    told = tell_folder(folder)
    galleries = list(list_galleries(folder))
    return (
        _templates()
        .get_template("folder.html")
        .render(folder=folder, galleries=galleries, below="", **told)
    )


def draw_study(folder: RunsFolder, study: SeenStudy) -> str:
    """Return the page of a study with its trials."""
    return (
        _templates()
        .get_template("study.html")
        .render(
            folder=folder,
            study=study,
            runs=tell_runs(folder.look(study.name)),
            below=f"{study.name}/trials/",
            asked=folder.scheduler.told,
        )
    )


def draw_run(folder: RunsFolder, key: str, seen: SeenRun) -> str:
    """Return the page of a run: its members, their curves, its pages."""
    study, _, _ = key.rpartition("/trials/")
    return (
        _templates()
        .get_template("run.html")
        .render(
            folder=folder,
            key=key,
            study=study,
            summary=seen.summary,
            status=seen.status,
            counts=count_epochs(seen.status) if seen.status else (0, 0),
            curves=seen.curves,
            members=seen.status.members[:MOST_MEMBERS] if seen.status else (),
            failures=list(list_failures(seen.status)) if seen.status else (),
            charts=_draw_charts(seen.plan, seen) if seen.plan else (),
            legend=_list_groups(seen.plan) if seen.plan else (),
            pages=list_documents(folder.path, seen.paths.root),
            asked=folder.scheduler.told,
        )
    )


def _draw_charts(plan: Plan, seen: SeenRun) -> tuple[object, ...]:
    curves, members = seen.curves[:MOST_MEMBERS], plan.members[:MOST_MEMBERS]
    monitors = " or ".join(dict.fromkeys(curve.monitor for curve in curves))
    return (
        draw_chart("training loss", "train_loss", curves, members),
        draw_chart(f"validation {monitors}", "val", curves, members),
    )


def _list_groups(plan: Plan) -> list[tuple[int, str]]:
    """Return what the colours of the charts stand for."""
    groups = dict.fromkeys(name_groups(plan.members[:MOST_MEMBERS]))
    return [(at % NUM_LOOKS, group) for at, group in enumerate(groups)]


def draw_error(title: str, text: str) -> str:
    """Return a page that says what is wrong."""
    return _templates().get_template("error.html").render(title=title, text=text, asked="")
