"""What the face returns: the values of the floors below, which a notebook draws.

Each has `_repr_html_`, which notebooks ask for, and a `repr` of one line.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
import pandas as pd

from lenshpc.errors import LensHpcError, one_line
from lenshpc.launch.sites import Site, has_gpus
from lenshpc.launch.states import RunStatus
from lenshpc.launch.words import (
    count_epochs,
    list_failures,
    list_lines,
    list_titles,
    summarise_states,
)
from lenshpc.report.comparison import Comparison
from lenshpc.report.comparison_tables import (
    UNDECIDED,
    describe_rows,
    find_headline,
    tabulate_lines,
    tabulate_pairs,
    tabulate_runs,
)
from lenshpc.report.content import (
    Banner,
    Block,
    Column,
    Gallery,
    KeyValues,
    Log,
    Notes,
    Picture,
    Prose,
    Report,
    Row,
    Table,
    View,
)
from lenshpc.report.format import format_count, format_value
from lenshpc.report.html import render_view
from lenshpc.report.pictures import colours, encode_png, stretch_of
from lenshpc.report.summary import count_rows
from lenshpc.report.verdict import format_verdict
from lenshpc.run.plan import Plan
from lenshpc.run.planning import PlannedRun, describe_plan
from lenshpc.store import Store
from lenshpc.store.contents import contents, describe

NUM_PICTURES, MAX_CLASSES = 4, 6  # of each class, of so many classes
MAX_MODELS = 50  # in the table of a Plan
NUM_CANDIDATES = 10
T = TypeVar("T")


def convert(kind: type[T], value: Any, **further: Any) -> T:
    """Return a value as a class that has further fields, or draws itself."""
    fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return kind(**fields, **further)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OpenStore(Store):
    """A store, open for reading: `rows`, `classes`, `read(rows)`, and what `Store` has besides."""

    def __repr__(self) -> str:
        """Return what it is, in a line."""
        shape = " x ".join(map(str, self.image_shape))
        return one_line(
            f"<Store {self.path}: {format_count(self.num_rows, 'image')}, {shape} {self.dtype}, "
            f"classes {', '.join(self.classes)}>"
        )

    def _repr_html_(self) -> str:
        counts: dict[str, dict[str, int]] = contents(self)["counts"]
        classes = list(dict.fromkeys(name for numbers in counts.values() for name in numbers))
        rows = (
            [split, *(_cell(numbers.get(name)) for name in classes)]
            for split, numbers in counts.items()
        )
        pairs = tuple((key, text) for key, text in describe(self).items() if key not in counts)
        table = Table.of(["split", *classes], rows)
        view = View(
            title=f"store {self.path}",
            blocks=(table, _draw_rows(self), KeyValues(title="what it holds", pairs=pairs)),
        )
        return render_view(view)


def _cell(number: int | None) -> str:
    """Return how many rows a class has in a split, nothing where the split does not know it."""
    return "" if number is None else f"{number:,}"


def _draw_rows(store: Store) -> Block:
    """Return some images of each class."""
    labels = store.column("label")
    known = [int(label) for label in np.unique(labels)][:MAX_CLASSES]
    picked = [np.flatnonzero(labels == label)[:NUM_PICTURES] for label in known]
    try:
        images = [store.read(rows) for rows in picked]
    except LensHpcError as error:
        return Banner(title="The images cannot be read.", text=str(error))
    stretch = stretch_of(np.concatenate(images))
    panels = tuple(
        tuple(
            Picture(
                png=encode_png(colours(stretch.levels(image))),
                text=str(store.text("id", np.array([row]))[0]),
                caption=store.classes[label] if label >= 0 else "unlabelled",
            )
            for row, image in zip(rows, some, strict=True)
        )
        for label, rows, some in zip(known, picked, images, strict=True)
    )
    return Gallery(
        name="rows", title="images", caption="The first rows of each class.", panels=panels
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Planned:
    """A run that can be sent to a site, and those of its recipe's `then`, which go on from it.

    It stands for the run's folder wherever a path is taken.
    """

    run: PlannedRun
    site: Site
    then: tuple[Planned, ...] = ()

    @property
    def plan(self) -> Plan:
        """Return the Plan: the recipe, the members, the store, the fingerprint."""
        return self.run.plan

    @property
    def path(self) -> Path:
        """Return where the run lies once it is submitted."""
        return self.run.paths.root

    @property
    def chain(self) -> tuple[PlannedRun, ...]:
        """Return all runs, in the order in which they are sent."""
        return (self.run, *(one for later in self.then for one in later.chain))

    def __fspath__(self) -> str:
        """Return the folder of the run, as text."""
        return str(self.path)

    def __repr__(self) -> str:
        """Return what it is, in a line."""
        members = format_count(len(self.plan.members), "member")
        later = f", then {', '.join(one.path.name for one in self.then)}" if self.then else ""
        return one_line(f"<Planned {self.path.name}: {members} on site {self.site.name}{later}>")

    def _repr_html_(self) -> str:
        return "\n".join(render_view(_view_plan(one, self.site)) for one in self.chain)


def _view_plan(planned: PlannedRun, site: Site) -> View:
    on_gpus = has_gpus(site, planned.plan.recipe.resources)
    is_limited = site.scheduler == "slurm"
    told = describe_plan(planned.paths, planned.plan, on_gpus=on_gpus, is_limited=is_limited)
    told["site"] = f"{site.name} ({site.scheduler})"
    counts = count_rows(planned.splits, planned.plan.classes)
    warnings = planned.plan.recipe.warnings
    banners = [Banner(title="Is it meant so?", text="", lines=warnings)] if warnings else []
    return View(
        title=f"planned run {planned.paths.name}",
        blocks=(
            *banners,
            KeyValues(
                title=f"{len(planned.plan.members)} members",
                pairs=tuple(told.items()),
                is_open=True,
            ),
            *_tabulate_models(planned.plan),
            Table.of(
                ["class", "training", "out-of-fold", "excluded", "test"],
                (
                    [_cell(one) if isinstance(one, int) else one for one in line.values()]
                    for line in counts
                ),
            ),
        ),
    )


def _tabulate_models(plan: Plan) -> Iterator[Block]:
    """Yield a line a model: its members, folds, seeds, and how it trains."""
    groups = {
        model: [one for one in plan.members if one.model == model]
        for model in plan.recipe.models[:MAX_MODELS]
    }
    lines = []
    for model, members in groups.items():
        recipe = plan.recipe_of(members[0])
        numbers = (
            len(members),
            len({one.fold for one in members}),
            len({one.seed for one in members}),
        )
        training = (recipe.train.epochs, recipe.train.batch_size)
        lines.append([model, *map(str, numbers), *map(str, training), f"{recipe.train.rate:g}"])
    yield Table.of(["model", "members", "folds", "seeds", "epochs", "batch", "lr"], lines)
    others = len(plan.recipe.models) - len(groups)
    if others:
        yield Prose(text=f"and {format_count(others, 'further model')}")


@dataclass(frozen=True, kw_only=True, repr=False)
class Status(RunStatus):
    """Where a run stands: `members`, `report`, `has_ended`, and what `RunStatus` has besides."""

    def __repr__(self) -> str:
        """Return how many members are in which state, in a line."""
        return one_line(f"<Status {self.run}: {summarise_states(self)}>")

    def _repr_html_(self) -> str:
        done, total = count_epochs(self)
        columns = tuple(
            Column(title=title, words=title in {"state", "note"})
            for title in [*list_titles(self), "note"]
        )
        rows = tuple(Row(cells=(*line.words, line.note)) for line in list_lines(self))
        failures = (
            Log(title=one.meaning, text="\n".join((one.advice, *one.tail)))
            for one in list_failures(self)
        )
        view = View(
            title=f"run {self.run}",
            text=f"{summarise_states(self)}; {done} of {total} epochs",
            done=done,
            total=total,
            blocks=(Table(columns=columns, rows=rows), *failures),
        )
        return render_view(view)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WrittenReport(Report):
    """A report and the `folder` that it was written to.

    `content` is what report.json holds, `predictions` what predictions.parquet holds.
    """

    folder: Path

    @property
    def page(self) -> Path:
        """Return report.html."""
        return self.folder / "report.html"

    def __repr__(self) -> str:
        """Return the headline and the page, in a line."""
        return one_line(f"<Report {self.headline.in_short}: {self.page}>")

    def _repr_html_(self) -> str:
        view = View(
            title=self.title,
            text=format_verdict(self.verdict) if self.verdict else "",
            headline=self.headline,
            blocks=(*self.banners, self.overview),
            link=find_link(self.page),
            link_text=str(self.page),
        )
        return render_view(view)


@dataclass(frozen=True, kw_only=True, repr=False)
class RunComparison(Comparison):
    """A comparison of runs: `headlines`, `models`, `lines`, `verdicts`, `differences`."""

    def __repr__(self) -> str:
        """Return the runs and the verdicts, in a line."""
        names = ", ".join(run.name for run in self.runs)
        return one_line(f"<Comparison of {names}: {'; '.join(self.verdicts)}>")

    def _repr_html_(self) -> str:
        view = View(
            title=f"comparison of {format_count(len(self.runs), 'run')}",
            text=describe_rows(self),
            headline=find_headline(self),
            blocks=(
                Notes(lines=self.verdicts),
                Prose(text=UNDECIDED),
                tabulate_runs(self),
                tabulate_lines(self),
                tabulate_pairs("Headlines", self.headlines),
            ),
        )
        return render_view(view)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WrittenPredictions:
    """The predictions of new images in a `folder`; `summary` is what summary.json holds."""

    folder: Path
    summary: Mapping[str, Any]

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """Return the best images, the first ones first, as candidates.csv has them."""
        return pd.read_csv(self.folder / "candidates.csv")

    @property
    def gallery(self) -> Path:
        """Return gallery.html, where candidates are graded."""
        return self.folder / "gallery.html"

    def read(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return the table of all images, or some of its columns, in the order of the source."""
        parts = sorted((self.folder / "parts").glob("part-*.parquet"))
        tables = (pd.read_parquet(part, columns=columns) for part in parts)
        return pd.concat(tables, ignore_index=True)

    def __repr__(self) -> str:
        """Return how many images and candidates there are, in a line."""
        images = format_count(self.summary["num_images"], "image")
        return one_line(f"<Predictions {self.folder}: {images}, {len(self.candidates)} candidates>")

    def _repr_html_(self) -> str:
        shown = self.candidates.head(NUM_CANDIDATES)
        counts = {**self.summary["decisions"], **self.summary["flags"]}
        rows = ([format_value(one) for one in row] for row in shown.itertuples(index=False))
        images = format_count(self.summary["num_images"], "image")
        view = View(
            title=f"{images} of {self.summary['source']}",
            text=", ".join(f"{number:,} {name}" for name, number in counts.items()),
            blocks=(Table.of(map(str, shown.columns), rows),),
            link=find_link(self.gallery.resolve()),
            link_text=str(self.gallery),
        )
        return render_view(view)


def find_link(page: Path) -> str:
    """Return how a notebook links a file: below its folder, which its server shows, or nothing."""
    here = Path.cwd()
    return f"./{quote(str(page.relative_to(here)))}" if page.is_relative_to(here) else page.as_uri()


def list_warnings(runs: Iterable[PlannedRun]) -> list[str]:
    """Return what may be meant so but seldom is, of all recipes of a chain."""
    return list(Counter(text for one in runs for text in one.plan.recipe.warnings))
