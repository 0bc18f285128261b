"""What differs between two Plans, key by key."""

from collections.abc import Iterator, Mapping
from typing import Any

from lenshpc.run.plan import Plan
from lenshpc.run.recipe import Recipe
from lenshpc.run.sections import OPERATION

# A name, what is sent afterwards, what is searched, and limits of jobs change no result.
UNTOLD = ("name", "then", "search", "resources")


def find_differences(one: Plan, other: Plan) -> dict[str, tuple[Any, Any]]:
    """Return dotted key → the two values, where those of two Plans differ; None is absent.

    The keys are the recipe's, `resources` as the shares of a batch, and what else is hashed: the
    store, how its rows are split, the version of lenshpc and plugins.
    """
    values, others = _flatten_plan(one), _flatten_plan(other)
    keys = dict.fromkeys([*values, *others])
    pairs = {key: (values.get(key), others.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Return dotted key → value of all that a recipe says of results, as JSON has it."""
    told = recipe.model_dump(
        mode="json", exclude={**dict.fromkeys(UNTOLD, True), "train": set(OPERATION)}
    )
    return dict(_flatten({**told, "resources": recipe.resources.shares}))


def _flatten_plan(plan: Plan) -> dict[str, Any]:
    return flatten(plan.recipe) | {
        "store": f"{plan.dataset} {plan.store_hash[:8]}",
        "splits": plan.splits_hash[:8],
        "code_version": plan.code_version,
        **{f"plugins.{name}": version for name, version in plan.plugins.items()},
    }


def _flatten(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, leaf in value.items():
        if isinstance(leaf, Mapping):
            yield from _flatten(leaf, f"{before}{key}.")
        else:
            yield before + key, leaf
