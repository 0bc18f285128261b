"""What a study has found so far: its trials in words and numbers, the best of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lenshpc.run.search import label_of
from lenshpc.tuning.boards import Result, read_trials
from lenshpc.tuning.study import Study


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The trials of a study with their hours; `own` is the recipe's own point, the first trial."""

    study: Study
    trials: tuple[Result, ...]
    hours: dict[int, float]

    @property
    def sign(self) -> int:
        """Return 1 where the largest value is best, else -1."""
        return self.study.objective[1]

    @property
    def measured(self) -> list[Result]:
        """Return the trials that have a value."""
        return [one for one in self.trials if one.value is not None]

    @property
    def own(self) -> Result | None:
        """Return the recipe's own point, if it has a value."""
        return next((one for one in self.measured if one.number == 0), None)

    @property
    def best(self) -> Result | None:
        """Return the best trial; the first of equal ones."""
        return pick_best(self.measured, self.sign)

    @property
    def counts(self) -> dict[str, int]:
        """Return how many trials are in each state."""
        counts: Counter[str] = Counter(one.state for one in self.trials)
        missing = self.study.search.trials - len(self.trials)
        return {**counts, **({"NOT ASKED": missing} if missing > 0 else {})}

    def as_json(self) -> dict[str, Any]:
        """Return all of it as values for JSON."""
        objective, sign = self.study.objective
        best, own = self.best, self.own
        return {
            "study": str(self.study.root),
            "objective": objective,
            "largest_is_best": sign > 0,
            "states": self.counts,
            "hours": sum(self.hours.values()),
            "best": best and {"trial": best.number, "value": best.value, **_values(best)},
            "own": own and {"value": own.value, **_values(own)},
            "trials": [
                {
                    "trial": one.number,
                    "state": one.state,
                    "value": one.value,
                    "hours": self.hours.get(one.number, 0.0),
                    "same_as": one.same_as,
                    "reason": one.reason,
                    **_values(one),
                }
                for one in self.trials
            ],
        }


def _values(one: Result) -> dict[str, Any]:
    return {"values": dict(one.values)}


def pick_best(measured: Sequence[Result], sign: int) -> Result | None:
    """Return the trial of the best value; the first of equal ones."""
    return max(measured, key=lambda one: (sign * (one.value or 0.0), -one.number), default=None)


def find(study: Study) -> Findings:
    """Return what a study has found so far."""
    return Findings(study=study, trials=tuple(read_trials(study)), hours=study.hours())


def describe_values(one: Result) -> str:
    """Return a trial's values in a line: `train.lr=0.003, train.scheduler=cosine`."""
    return ", ".join(f"{key}={format_value(leaf)}" for key, leaf in one.values.items())


def format_value(value: Any) -> str:
    """Return a value of a point as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else label_of(value)
