"""What the pages tell of a folder of runs, as plain values: for programs, and for the templates."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lenshpc.errors import LensHpcError, read_error
from lenshpc.files import read_json
from lenshpc.launch.words import count_epochs
from lenshpc.report.format import ABSENT, flatten
from lenshpc.serving.board import FILES_EVERY_S, Board, SeenRun
from lenshpc.serving.curves import mean_over_members
from lenshpc.serving.documents import list_documents
from lenshpc.serving.scheduler import Scheduler

STUDY, TRIALS = "study.json", "trials"
MOST_FACTS = 60  # of a study's file


@dataclass(frozen=True, kw_only=True)
class SeenStudy:
    """A study: its folder's name, its trials as runs, its pages, and what its file tells."""

    name: str
    num_trials: int
    pages: tuple[str, ...]
    facts: tuple[tuple[str, str], ...] = ()
    fault: str = ""


class RunsFolder:
    """A folder of runs with its studies; threads may share it."""

    def __init__(self, path: Path, scheduler: Scheduler, every_s: float = FILES_EVERY_S) -> None:
        self.path, self.scheduler = path.absolute(), scheduler
        self._every_s = every_s
        self._runs = Board(self.path, scheduler, every_s)
        self._trials: dict[str, Board] = {}

    def look(self, study: str = "") -> Mapping[str, SeenRun]:
        """Return the runs of the folder, or of a study; none where there is no such study."""
        return self._board(study).look() if self._has(study) else {}

    def find(self, key: str) -> SeenRun | None:
        """Return a run by its name, a trial by `STUDY/trials/NAME`; None where it is not there."""
        study, _, trial = key.partition(f"/{TRIALS}/")
        return self.look(study).get(trial) if trial else self.look().get(key)

    def studies(self) -> list[str]:
        """Return the names of the studies; none in a folder that is not there."""
        return sorted(
            path.parent.name for path in self.path.glob(f"*/{STUDY}") if self._is_inside(path)
        )

    def find_study(self, name: str) -> SeenStudy | None:
        """Return a study by its folder's name."""
        if name not in self.studies():
            return None
        place = self.path / name
        facts, fault = _read_facts(place / STUDY)
        return SeenStudy(
            name=name,
            num_trials=sum(1 for _ in place.glob(f"{TRIALS}/*/plan.json")),
            pages=tuple(list_documents(self.path, place)),
            facts=facts,
            fault=fault,
        )

    def _has(self, study: str) -> bool:
        if not study:
            return True
        # By its name in the list and not as a path, so nothing leads out of the folder.
        trials = self.path / study / TRIALS
        return study in self.studies() and trials.is_dir() and self._is_inside(trials)

    def _is_inside(self, path: Path) -> bool:
        """Say whether no link leads out of the folder of runs."""
        return path.resolve().is_relative_to(self.path.resolve())

    def _board(self, study: str) -> Board:
        if not study:
            return self._runs
        # One call, which other threads see whole: of two boards for a study one stays.
        fresh = Board(self.path / study / TRIALS, self.scheduler, self._every_s)
        return self._trials.setdefault(study, fresh)


def _read_facts(path: Path) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return what a study's file tells, as text, and why it cannot be read."""
    try:
        content = read_json(path)
    except LensHpcError as error:
        return (), str(error)
    except OSError as error:
        return (), str(read_error(path, error))
    told = flatten(content) if isinstance(content, dict) else ()
    pairs = [(key, text) for key, text in told if text not in ("", ABSENT)]
    # What is searched first, as the recipe's other keys may fill the table.
    first = sorted(pairs, key=lambda pair: not pair[0].startswith("recipe.search."))
    return tuple(first[:MOST_FACTS]), ""


def tell_folder(folder: RunsFolder) -> dict[str, Any]:
    """Return the runs and studies of a folder, and when SLURM was asked."""
    return {
        "runs": tell_runs(folder.look()),
        "studies": [asdict(one) for name in folder.studies() if (one := folder.find_study(name))],
        "asked": folder.scheduler.told,
    }


def tell_runs(runs: Mapping[str, SeenRun]) -> list[dict[str, Any]]:
    """Return a line a run, as `lenshpc list --json` has it, and how its epochs go."""
    return [_tell_line(seen) for seen in runs.values()]


def _tell_line(seen: SeenRun) -> dict[str, Any]:
    summary = asdict(seen.summary)
    del summary["num_bytes"]
    done, total = count_epochs(seen.status) if seen.status else (0, 0)
    monitors = list(dict.fromkeys(curve.monitor for curve in seen.curves))
    mean = mean_over_members(seen.curves) if len(monitors) == 1 else []
    return {
        **summary,
        "epochs_done": done,
        "epochs": total,
        "monitor": ", ".join(monitors),
        "mean": mean,
    }


def tell_run(folder: RunsFolder, seen: SeenRun) -> dict[str, Any]:
    """Return all of a run: its line, its status, the members' curves, its pages."""
    return {
        **_tell_line(seen),
        "status": seen.status.as_json() if seen.status else None,
        "curves": [asdict(curve) for curve in seen.curves],
        "pages": list_documents(folder.path, seen.paths.root),
        "asked": folder.scheduler.told,
    }


def list_galleries(folder: RunsFolder) -> Iterator[str]:
    """Yield the galleries of predictions that lie beside the runs, by their paths."""
    for path in sorted(folder.path.glob("*/gallery.html")):
        if not (path.parent / "plan.json").exists():
            yield str(path.relative_to(folder.path))
