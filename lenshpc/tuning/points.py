"""Points of a search: which a recipe may have, how one is drawn, and the recipe that it makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lenshpc.config import override, unknown, validate
from lenshpc.errors import ConfigError
from lenshpc.registry import is_from_file
from lenshpc.run.recipe import VARIED, Recipe
from lenshpc.run.search import Search, Span, label_of

if TYPE_CHECKING:  # it costs half a second
    import optuna

Values = dict[str, Any]  # dotted key → value
ROWS = {"folds", "seeds", "split_seed", "only_folds", "data.label_fraction"}


def objective_of(recipe: Recipe) -> tuple[str, int]:
    """Return the validation metric that a study is after, and 1 if its largest value is best."""
    name = recipe.search.objective or recipe.monitor[0]
    known = {**recipe.method.monitors, "loss": -1}
    if name not in known:
        raise ConfigError(f"search.objective: {unknown('metric', name, known)}")
    return name, known[name]


def check_search(recipe: Recipe) -> None:
    """Refuse a search that cannot be made: ConfigError, in words of its key."""
    objective, _ = objective_of(recipe)
    for key, span in recipe.search.keys.items():
        reason = _find_reason(recipe, key, span, objective)
        if reason:
            raise ConfigError(f"search.keys: {key} {reason}")
        for value in span.tried:
            apply(recipe, {**span.when, key: value})
    if "models" not in recipe.search.keys and len(recipe.models) > 1:
        raise ConfigError(
            f"a trial trains one network, and models has {', '.join(recipe.models)}; name one with "
            "--models, or search them: search.keys.models={choice: [...]}"
        )
    for key, value in own_values(recipe).items():
        if not recipe.search.keys[key].holds(value):
            raise ConfigError(
                f"search.keys: {key} is {label_of(value)} in the recipe, outside of the range "
                "that is searched, and the search is compared with the recipe; widen the range, "
                f"or change it with --set {key}=VALUE"
            )


def _find_reason(recipe: Recipe, key: str, span: Span, objective: str) -> str | None:
    """Return why a key is not searched; None where it may be."""
    name = key.removeprefix("method.")
    if key in ROWS:
        return "decides which rows are trained on, so trials could not be compared; remove it"
    if key.startswith("resources."):
        return "is a resource, and shares of a batch may not differ among trials; remove it"
    if not (key.startswith(VARIED) or key == "models"):
        return f"is not searched; what begins with {', '.join(VARIED)} is, and models"
    if name != key and name.split(".")[0] in recipe.method.judging:
        return (
            "judges and trains nothing; remove it, and judge the run with lenshpc aggregate --set"
        )
    if name != key and objective == "loss":
        return "may change what the loss means, which is the objective; set search.objective"
    if name in recipe.method.file_keys or any(
        isinstance(one, str) and is_from_file(one) for one in span.choice or ()
    ):
        return "would choose among files; name the file in the recipe itself, and search others"
    if key == "train.epochs" and recipe.search.pruner != "none":
        return "changes the steps at which trials are compared; use --set search.pruner=none"
    return None


def own_values(recipe: Recipe) -> Values:
    """Return the recipe's own point: the values of the searched keys whose conditions it meets."""
    value, search = recipe.model_dump(), recipe.search
    read = {key: _as_choice(recipe, key, _read(value, key)) for key in search.keys}
    return dict(_list_active(search, read))


def _as_choice(recipe: Recipe, key: str, value: Any) -> Any:
    """Return a value of the recipe as the search writes it: of `[d4]` a recipe makes more."""
    for one in recipe.search.keys[key].choice or ():
        if _read(apply(recipe, {key: one}).model_dump(), key) == value:
            return one
    return value


def _list_active(search: Search, read: Values) -> Iterator[tuple[str, Any]]:
    for key, span in search.keys.items():
        if _applies(span, read):
            yield key, read[key]
        else:
            del read[key]  # a key that depends on this one is no part of the point either


def _read(value: Any, key: str) -> Any:
    if key == "models":
        return value["models"][0]
    for part in key.split("."):
        value = value[part]
    return value


def _applies(span: Span, values: Mapping[str, Any]) -> bool:
    met = (
        key in values and label_of(values[key]) == label_of(leaf) for key, leaf in span.when.items()
    )
    return all(met)


def apply(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with the values of a point, of one model; refuse what is no recipe."""
    changed = recipe.model_dump() | {"models": recipe.models[:1]}
    for key, leaf in values.items():
        changed = override(changed, key, (leaf,) if key == "models" else leaf)
    told = ", ".join(f"{key}={label_of(leaf)}" for key, leaf in values.items())
    return validate(Recipe, changed, f"search.keys: {told}")


def draw(trial: optuna.trial.BaseTrial, search: Search) -> Values:
    """Return the values of a trial, asked of its sampler; those it has already stay."""
    values: Values = {}
    for key, span in search.keys.items():
        if _applies(span, values):
            values[key] = _suggest(trial, key, span)
    return values


def _suggest(trial: optuna.trial.BaseTrial, key: str, span: Span) -> Any:
    if span.choice is not None:
        return span.choice[span.labels.index(trial.suggest_categorical(key, span.labels))]
    if span.int is not None:
        return trial.suggest_int(key, *span.int)
    return trial.suggest_float(key, *span.tried, log=span.kind == "log")


def as_parameters(search: Search, values: Values) -> Values:
    """Return values as a sampler knows them: choices by their labels."""
    return {
        key: label_of(leaf) if search.keys[key].choice is not None else leaf
        for key, leaf in values.items()
    }
