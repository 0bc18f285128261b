"""A study: its folder, what it searches, and the small run that each trial is.

STUDY/study.json    what is searched, sealed: the recipe as it was asked for
      base/         the recipe as a run: Plan, code, and the jobs of the study with their logs
      journal.log   Optuna's journal, where each trial asks as it starts
      rounds/       or round-000.json …, the points that were asked together
      trials/       a run each; trial-007-1a2b3c4d/result.json ends one in rounds
      report/       report.html, best.yaml, trials.json
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lenshpc.config import Frozen, NonNegative, validate
from lenshpc.errors import ConfigError, DataError, read_error
from lenshpc.files import hash_value, make_open_folder, read_sealed, write_sealed, write_text
from lenshpc.registry import path_in_run
from lenshpc.run.differences import flatten
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, expand, load_plan, open_planned_store, save_plan
from lenshpc.run.planning import PlannedRun, plan_run
from lenshpc.run.recipe import Recipe
from lenshpc.run.records import read_lines
from lenshpc.run.search import Search
from lenshpc.store import Store
from lenshpc.tuning.points import Values, apply, check_search, objective_of

NO_LOCKS = (
    "{} is on a file system without locks, where trials cannot ask for points as they start; add "
    "--rounds N, by which one job asks for N points at a time"
)
BEST = {"name", "init_fingerprint", "search", "only_folds"}  # keys that the best recipe has anew


class StudySettings(Frozen):
    """What `study.json` holds: the recipe as it was asked for, and what may change on resuming."""

    recipe: Recipe
    base: str  # the fingerprint of the base's Plan
    runs: Path  # where the best recipe would be sent to
    max_gpu_hours: NonNegative | None = None
    then_submit: bool = False


@dataclass(frozen=True)
class Study:
    """A study on disk; `root` is its folder."""

    root: Path

    @property
    def file(self) -> Path:
        """What is searched, sealed."""
        return self.root / "study.json"

    @property
    def base(self) -> RunPaths:
        """The recipe as a run, whose jobs are those of the study."""
        return RunPaths(self.root / "base")

    @property
    def trials(self) -> Path:
        """Folder of the trials' runs."""
        return self.root / "trials"

    @property
    def journal(self) -> Path:
        """Optuna's journal; absent in a study of rounds."""
        return self.root / "journal.log"

    @property
    def rounds(self) -> Path:
        """Folder of the rounds' points."""
        return self.root / "rounds"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.root / "report"

    @cached_property
    def settings(self) -> StudySettings:
        """Return what is searched; refuse an edited file."""
        try:
            value = read_sealed(self.file)
        except FileNotFoundError as error:
            raise ConfigError(f"no study at {self.root}; start one with: lenshpc tune") from error
        except OSError as error:
            raise read_error(self.file, error) from error
        return validate(StudySettings, value, str(self.file))

    @cached_property
    def plan(self) -> Plan:
        """Return the Plan of the recipe's own point."""
        plan = load_plan(self.base)
        if plan.fingerprint() != self.settings.base:
            raise DataError(f"{self.base.plan} is not the Plan of {self.file}; put it back")
        return plan

    @cached_property
    def store(self) -> Store:
        """Return the store that the study was planned on."""
        return open_planned_store(self.plan)

    @property
    def search(self) -> Search:
        """Return what is searched."""
        return self.settings.recipe.search

    @property
    def objective(self) -> tuple[str, int]:
        """Return the metric, and 1 if its largest value is best."""
        return objective_of(self.settings.recipe)

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Return the objective's direction, in Optuna's word."""
        return "maximize" if self.objective[1] > 0 else "minimize"

    def plan_trial(self, number: int, values: Values) -> tuple[RunPaths, Plan]:
        """Write the run of a trial, unless it is there; return it with its Plan.

        ConfigError where the values make no recipe, or this store does not fit it.
        """
        recipe = apply(self.plan.recipe, values)
        plan, splits = expand(recipe.model_copy(update={"name": f"trial-{number:03d}"}), self.store)
        if plan.splits_hash != self.plan.splits_hash:
            raise ConfigError(
                "its values change which rows are trained on, so it cannot be compared with other "
                "trials"
            )
        run = RunPaths(self.trials / plan.run_name)
        if not run.plan.is_file():
            save_plan(run, plan, splits)
            files = path_in_run(self.base.code, "").parent
            for path in files.glob("*.py") if files.is_dir() else ():
                write_text(_make_parent(run.code / "files" / path.name), path.read_text("utf-8"))
        # Where ranks meet and attempts are noted: as a submission leaves it.
        run.slurm.mkdir(mode=0o700, exist_ok=True)
        return run, plan

    def find_trials(self) -> dict[int, RunPaths]:
        """Return number → run of the trials that have begun."""
        found = self.trials.glob("trial-*/plan.json") if self.trials.is_dir() else ()
        paths = sorted(path.parent for path in found)
        return {int(path.name.split("-")[1]): RunPaths(path) for path in paths}

    def hours(self) -> dict[int, float]:
        """Return number → hours of the trials, times the processes of each: GPU-hours on GPUs."""
        ranks = self.plan.recipe.resources.world_size
        return {
            number: ranks * sum(map(_read_seconds, run.root.glob("members/*/metrics.jsonl"))) / 3600
            for number, run in self.find_trials().items()
        }

    def has_spent_all(self) -> bool:
        """Say whether no further point may be asked for."""
        limit = self.settings.max_gpu_hours
        return limit is not None and sum(self.hours().values()) >= limit

    def update(self, **changes: Any) -> Study:
        """Return the study with other limits, written down."""
        settings = self.settings.model_copy(update=changes)
        write_sealed(self.file, settings.model_dump(mode="json"))
        return Study(self.root)

    def best_recipe(self, values: Values) -> dict[str, Any]:
        """Return the keys of the recipe with a point's values, as a file for `submit` has them."""
        asked = self.settings.recipe
        recipe = apply(asked, values)
        kept = recipe.model_dump(mode="json", exclude_defaults=True, exclude=BEST)
        return {"name": f"{asked.name[:59]}-best", **kept}


def _read_seconds(path: Path) -> float:
    return sum(float(line.get("seconds", 0)) for line in read_lines(dict[str, Any], path))


def _make_parent(path: Path) -> Path:
    make_open_folder(path.parent)
    return path


def plan_study(recipe: Recipe, store: Store, runs: Path) -> tuple[Study, PlannedRun]:
    """Return the study of a recipe and the run of its own point; write nothing.

    ConfigError where what it searches cannot be searched, by this task or on this store.
    """
    check_search(recipe)
    planned = plan_run(apply(recipe, {}), store, runs)
    # By what decides which points are asked: a study may be given more trials and go on.
    search = recipe.search.model_dump(mode="json", exclude={"trials"})
    digest = hash_value({"plan": planned.plan.fingerprint(), "search": search})
    return Study((runs / f"{recipe.name}-tune-{digest[:8]}").resolve()), planned


def write_study(study: Study, planned: PlannedRun, settings: StudySettings) -> None:
    """Write the folder of a study, safe to repeat."""
    make_open_folder(study.root)
    if settings.recipe.search.round_size is None:
        check_locks(study.root)
    save_plan(study.base, planned.plan, planned.splits)
    for name, content in planned.files.items():
        write_text(_make_parent(path_in_run(study.base.code, name)), content.decode())
    for folder in (study.trials, study.rounds):
        make_open_folder(folder)
    study.base.slurm.mkdir(mode=0o700, exist_ok=True)  # pickles lie here
    # Last: a folder is a study once it has it.
    write_sealed(study.file, settings.model_dump(mode="json"))


def check_same(study: Study, recipe: Recipe) -> None:
    """Refuse another recipe than the study's, with the first key that differs."""
    before, now = _flatten(study.settings.recipe), _flatten(recipe)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{study.root.name} was started with {key}={before.get(key)}, and the recipe has "
                f"{now.get(key)}; continue without a recipe, or start another study without "
                "--resume"
            )


def _flatten(recipe: Recipe) -> dict[str, Any]:
    search = recipe.search.model_dump(mode="json", exclude={"keys", "trials"})
    spans = {
        key: span.model_dump(exclude_defaults=True) for key, span in recipe.search.keys.items()
    }
    told = {**search, **{f"keys.{key}": span for key, span in spans.items()}}
    return flatten(recipe) | {f"search.{key}": value for key, value in told.items()}


def check_locks(folder: Path, create: Callable[[Path, int], int] = os.open) -> None:
    """Refuse a folder where two processes could make one file: ConfigError."""
    path = folder / f".lock-{secrets.token_hex(8)}"
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    try:
        os.close(create(path, flags))
        os.close(create(path, flags))
    except FileExistsError:  # the second time, as it must be
        return
    except OSError as error:
        raise ConfigError(f"{NO_LOCKS.format(folder)} ({error.strerror})") from error
    finally:
        path.unlink(missing_ok=True)
    raise ConfigError(NO_LOCKS.format(folder))


def find_study(text: str, runs: Path) -> Study:
    """Return the study of a path, a name in `runs`, or an unambiguous beginning of one."""
    for candidate in (Path(text), runs / text):
        if (candidate / "study.json").is_file():
            return Study(candidate.resolve())
    names = sorted(_list_studies(runs))
    close = [name for name in names if name.startswith(text)]
    if text and len(close) == 1:
        return Study((runs / close[0]).resolve())
    what = "several studies begin with" if len(close) > 1 else "no study"
    known = ", ".join(close or names) or "none"
    raise ConfigError(f"{what} {text!r}; studies in {runs.resolve()}: {known}")


def _list_studies(runs: Path) -> Iterator[str]:
    for path in runs.glob("*/study.json") if runs.is_dir() else ():
        if re.search("-tune-[0-9a-f]{8}$", path.parent.name):
            yield path.parent.name
