"""From a recipe and a store to runs that can be sent: for the command line and for Python."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenshpc.errors import ConfigError
from lenshpc.registry import file_reference, is_kept_file, name_in_plan
from lenshpc.run.networks import check_names
from lenshpc.run.origin import Origin, find_origin, of_run, open_origin
from lenshpc.run.paths import RUNS, RunPaths
from lenshpc.run.plan import Plan, expand
from lenshpc.run.recipe import Recipe, is_variant, load_recipe, network_of, variant_of

if TYPE_CHECKING:
    import pandas as pd

    from lenshpc.store import Store


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run that can be sent: where it is to lie, its Plan, its split manifest and its store.

    `files` are those that the recipe names as FILE.py:NAME, by the name that they have in the Plan.
    """

    paths: RunPaths
    plan: Plan
    splits: pd.DataFrame
    store: Store
    files: Mapping[str, bytes]


def plan_chain(
    recipe: Recipe, store: Store, runs: Path = RUNS, defaults: Iterable[tuple[str, Any]] = ()
) -> list[PlannedRun]:
    """Return the run of a recipe, then those of its `then`, which start from its weights.

    `defaults` are the site's.
    """
    defaults = tuple(defaults)
    head = plan_run(recipe.with_defaults(defaults), store, runs)
    start = [
        *defaults,
        ("init_from", str(head.paths.root)),
        ("init_fingerprint", head.plan.fingerprint()),
    ]
    later = []
    for name in recipe.then:
        try:
            later.append(plan_run(load_recipe(name, start), store, runs))
        except ConfigError as error:
            raise ConfigError(
                f"{name}, which comes after {recipe.name}: {error}; --set does not change {name}; "
                "name a recipe of your own under `then`, or use --set then=[]"
            ) from error
    for one in later:
        check_origin(of_run(head.paths, head.plan, lambda: (head.splits, store)), one)
    return [head, *later]


def plan_run(recipe: Recipe, store: Store, runs: Path = RUNS) -> PlannedRun:
    """Return the run of a recipe, with all that it names outside of the store found; write nothing.

    ConfigError or DataError where something is not there, or does not fit.
    """
    # Before the names are checked and the Plan is hashed: a Plan has NAME@HASH, never a path.
    kept, files = _with_kept_files(recipe)
    check_names(map(network_of, kept.models), kept.method)
    found, origin = _with_origin(with_files(kept), runs)
    plan, splits = expand(found, store)
    paths = RunPaths((runs / plan.run_name).resolve())
    planned = PlannedRun(paths=paths, plan=plan, splits=splits, store=store, files=files)
    if origin is not None:
        check_origin(origin, planned)
    return planned


def describe_plan(
    run: RunPaths, plan: Plan, num_sent: int | None = None, *, on_gpus: bool, is_limited: bool
) -> dict[str, str]:
    """Return what people are told of a run that is not sent yet: what a member has, all costs.

    `num_sent` members are paid for, all if None; `on_gpus` says whether members get GPUs there,
    `is_limited` whether their time is, and so what they can cost.
    """
    size, part = plan.recipe.resources, 1.0 if num_sent is None else num_sent / len(plan.members)
    unit = "GPU" if on_gpus else "core"
    ceiling = plan.gpu_hours_ceiling if on_gpus else plan.core_hours_ceiling
    node = size.format_node(on_gpus=on_gpus)
    limit = f"at most {size.time_min} min a job" if is_limited else "no time limit"
    told = {
        "run": str(run.root),
        "data": f"{plan.store} ({plan.dataset}: {', '.join(plan.classes)})",
        "a member": f"{size.nodes} node(s) x {node}, {plan.recipe.strategy}, {limit}",
    }
    if is_limited:
        told[f"{unit}-hours"] = f"{ceiling * part:.1f} at most, by one job a member"
    return told


def check_origin(origin: Origin, planned: PlannedRun) -> None:
    """Refuse to start from what has no weights for a network, or has seen the test rows."""
    for model in planned.plan.recipe.models:
        recipe = planned.plan.recipe.of(model)
        if recipe.init_from is not None:
            origin.find_able(recipe, network_of(model))
    check_unseen(origin, planned)


def check_unseen(origin: Origin, planned: PlannedRun) -> None:
    """Refuse to start from what the test rows have trained, or chosen an epoch of."""
    import numpy as np

    testing = planned.splits.loc[planned.splits["split"] == "test", "row"].to_numpy()
    known = np.any([one.among(planned.store, testing) for one in origin.find_seen()], axis=0)
    if known.any():
        name = planned.store.text("id", testing[known][:1])[0].as_py()
        raise ConfigError(
            f"{origin.title} was trained on {int(known.sum())} of the {len(testing)} test rows of "
            f"{planned.store.path}, such as {name!r}; start from one that was trained on a store "
            "that keeps them in its test split"
        )


def _with_origin(recipe: Recipe, runs: Path) -> tuple[Recipe, Origin | None]:
    """Return the recipe with what it starts from found and noted, and that itself."""
    if recipe.init_from is None or recipe.init_fingerprint is not None:
        return recipe, None
    folder = find_origin(recipe.init_from, runs)
    origin = open_origin(folder)
    noted = {"init_from": str(folder), "init_fingerprint": origin.fingerprint}
    return recipe.model_copy(update=noted), origin


def _with_kept_files(recipe: Recipe) -> tuple[Recipe, dict[str, bytes]]:
    """Return the recipe with FILE.py:NAME replaced by names that hold the hash, and the files."""
    files: dict[str, bytes] = {}

    def keep(text: Any) -> Any:
        reference = file_reference(text) if isinstance(text, str) else None
        if isinstance(text, str) and is_kept_file(text):
            raise ConfigError(
                f"{text} is how another run refers to code in a file; give that file instead, as "
                "FILE.py:NAME"
            )
        if reference is None:
            return text
        content = _read_component(*reference)
        name = name_in_plan(reference[1], content)
        files[name] = content
        return name

    models = tuple(_rename(model, keep(network_of(model))) for model in recipe.models)
    twice = {model for model in models if models.count(model) > 1}
    if twice:  # by another path, or from a copy of the file
        raise ConfigError(f"models: {min(twice)} is listed twice; remove one of the entries")
    keys = recipe.method.loss_keys
    dotted = {f"method.{key}" for key in keys}
    changes = {
        "models": models,
        "method": recipe.method.model_copy(
            update={key: keep(getattr(recipe.method, key)) for key in keys}
        ),
        "variants": {
            name: {key: keep(leaf) if key in dotted else leaf for key, leaf in changed.items()}
            for name, changed in recipe.variants.items()
        },
    }
    return recipe.model_copy(update=changes), files


def _rename(model: str, network: str) -> str:
    return f"{network}{model.removeprefix(network_of(model))}"


def _read_component(path: Path, name: str) -> bytes:
    """Return a file that defines a class or function of that name, without running it."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}:{name}: no such file; give the path of a .py file")
    try:
        # Read once: the bytes that are hashed are those that the run keeps. Parsed and not
        # imported, since planning must run nobody's code.
        content = path.read_bytes()
        tree = ast.parse(content, str(path))
    except OSError as error:
        raise ConfigError(f"{path}:{name}: cannot read the file ({error.strerror})") from error
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: {error.msg}; correct the file") from error
    except (ValueError, RecursionError, MemoryError) as error:  # of null bytes, of 10,000 brackets
        raise ConfigError(
            f"{path} is not valid Python ({type(error).__name__}); correct the file"
        ) from error
    kinds = (ast.ClassDef, ast.FunctionDef)
    defined = [node.name for node in tree.body if isinstance(node, kinds)]
    if name not in defined:
        raise ConfigError(
            f"{path} defines no class or function {name}; it has {', '.join(defined) or 'none'}"
        )
    return content


def with_files(recipe: Recipe) -> Recipe:
    """Return the recipe with the files of weights found that it and its variants name."""
    plain = [network_of(model) for model in recipe.models if not is_variant(model)]
    method = recipe.method.model_copy(update=recipe.method.find_files(plain))
    variants = {name: _variant_with_files(recipe, name) for name in recipe.variants}
    return recipe.model_copy(update={"method": method, "variants": variants})


def _variant_with_files(recipe: Recipe, name: str) -> dict[str, Any]:
    """Return a variant's changes, with what is known of the files that it names."""
    changes = recipe.variants[name]
    models = [model for model in recipe.models if variant_of(model) == name]
    named = [key for key in recipe.method.file_keys if f"method.{key}" in changes]
    found: dict[str, Any] = _files_of(recipe.of(models[0]), models) if models else {}
    if not named:
        return dict(changes)
    noted = {note: None for key in named if (note := recipe.method.file_keys[key]) is not None}
    told = {f"method.{key}": value for key, value in {**noted, **found}.items()}
    return {**changes, **told}


def _files_of(recipe: Recipe, models: Iterable[str]) -> dict[str, Any]:
    return recipe.method.find_files(map(network_of, models))
