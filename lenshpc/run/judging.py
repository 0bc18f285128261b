"""Judge a run otherwise than its recipe says: what may be set so, and where such a report lies.

Members are the run's own: what is set here has no part in their fingerprints.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lenshpc.config import override, unknown, validate
from lenshpc.errors import ConfigError
from lenshpc.run.differences import find_differences, flatten
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan
from lenshpc.run.recipe import Recipe, is_variant

MAX_NAME = 60  # letters of a folder's name
COMBINES = "ensemble"


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Another way to judge a run's members: the Plan with it, and key → the run's value, and this.

    Keys are in the order of the alphabet, and so is the name.
    """

    plan: Plan
    changes: Mapping[str, tuple[Any, Any]]

    @property
    def name(self) -> str:
        """Return what ends the report's folder, such as `stacking-test_prior-0.01`."""
        parts = (
            _describe(value) if key == COMBINES else f"{key.rpartition('.')[2]}-{_describe(value)}"
            for key, (_, value) in self.changes.items()
        )
        name = re.sub(r"[^\w.-]", "_", "-".join(parts), flags=re.ASCII)
        if len(name) <= MAX_NAME:
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        return f"{name[: MAX_NAME - 9]}-{digest}"

    def find_place(self, folder: RunPaths) -> RunPaths:
        """Return where the report lies: beside the run's own, or in another folder likewise."""
        return replace(folder, judging=self.name)


def _describe(value: Any) -> str:
    return "none" if value is None else str(value)


def list_judging(recipe: Recipe) -> list[str]:
    """Return the keys that decide how a recipe's members are judged, and no training."""
    several = sum(not is_variant(model) for model in recipe.models) > 1
    combining = [COMBINES] if recipe.method.combines and several else []
    return [*combining, *(f"method.{key}" for key in recipe.method.judging)]


def judge_otherwise(plan: Plan, assignments: Iterable[tuple[str, Any]]) -> Judging:
    """Return a judging with dotted keys set; ConfigError where one decides more, or none changes.

    The members and their fingerprints are those of `plan`.
    """
    value: dict[str, Any] = plan.recipe.model_dump()
    for key, leaf in assignments:
        _check_key(plan, key)
        value = override(value, key, leaf)
    checked = validate(Recipe, value, f"run {plan.run_name}")
    # As they are: those of a run that was resumed in another size keep the shares that are hashed.
    recipe = checked.model_copy(update={"resources": plan.recipe.resources})
    other = plan.model_copy(update={"recipe": recipe})
    changes = find_differences(plan, other)
    if not changes:
        raise ConfigError(f"the report of run {plan.run_name} has these values already; set others")
    return Judging(plan=other, changes=dict(sorted(changes.items())))


def _check_key(plan: Plan, key: str) -> None:
    known = list_judging(plan.recipe)
    if any(key == one or key.startswith(f"{one}.") for one in known):
        return
    takes = f"aggregate --set takes {', '.join(known) or 'nothing'} of run {plan.run_name}"
    if key == COMBINES:
        raise ConfigError(f"{key} has nothing to combine here: {takes}")
    if not any(one == key or one.startswith(f"{key}.") for one in flatten(plan.recipe)):
        raise ConfigError(unknown("key", key, known))
    raise ConfigError(f"{key} changes the training: submit a recipe that has it; {takes}")
