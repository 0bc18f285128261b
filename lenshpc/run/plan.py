"""The Plan: a recipe and a store expanded into every member that must exist, as a hashed value."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenshpc import __version__
from lenshpc.config import Frozen, validate
from lenshpc.errors import (
    ConfigError,
    DataError,
    absence_error,
    printable,
    read_error,
)
from lenshpc.files import (
    hash_value,
    make_open_folder,
    read_json,
    unseal,
    write_sealed,
)
from lenshpc.registry import missing_plugins, plugins_of
from lenshpc.run.checks import check_batches, check_fits, check_loading
from lenshpc.run.manifest import read_splits, splits_hash, write_splits
from lenshpc.run.paths import RunPaths
from lenshpc.run.recipe import Recipe, network_of
from lenshpc.run.sizes import read_size, with_size

if TYPE_CHECKING:  # they cost 1 s, which `status` need not pay
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from lenshpc.registry.contract import Scored
    from lenshpc.store import Store

NUM_TRAINING_SCORED = 1000
LAYOUT_VERSION = 4  # of a run directory: what its recipe, splits and predictions call things
# What a recipe says of a run as a whole, and of no training alone; `init_fingerprint` says which
# weights lie at `init_from`.
OF_THE_RUN = {
    *("name", "models", "folds", "only_folds", "seeds", "variants", "init_from", "then"),
    *("ensemble", "search"),
}
BESIDE = {"then", "search"}  # what changes no result of the run itself
LENGTHS = {"epochs", "schedule_epochs"}  # keys of `train` that say how long it goes on


class Member(Frozen):
    """One training: a model on one fold under one seed."""

    index: int
    model: str
    fold: int
    seed: int

    @property
    def network(self) -> str:
        """Return the network; `model` may name a variant of the recipe after it."""
        return network_of(self.model)

    @property
    def name(self) -> str:
        """Return the member's folder name, such as `003-resnet18-fold3-seed0`."""
        return f"{self.index:03d}-{self.model}-fold{self.fold}-seed{self.seed}"


class OfRecipe(Frozen):
    """What is made of a recipe's members: a Plan of them, or what they have learnt."""

    recipe: Recipe

    @cached_property
    def _recipes(self) -> dict[str, Recipe]:
        return {model: self.recipe.of(model) for model in self.recipe.models}

    def recipe_of(self, member: Member) -> Recipe:
        """Return the recipe as it is for a member: with the changes of its variant."""
        return self._recipes[member.model]


class Plan(OfRecipe):
    """Everything that decides a run's results."""

    layout: int = LAYOUT_VERSION
    store: Path
    store_hash: str
    dataset: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    splits_hash: str
    code_version: str
    plugins: Mapping[str, str] = {}
    members: tuple[Member, ...]

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that can change a result; not limits of time, `then`, `search`.

        A key that has its default is left out, so a later one does not make another Plan of it.
        Plugins are there by name and version, files such as ./mynet.py by the hash in their names.
        """
        # Defaults are left out of the hash: so a default may be added, but changing one changes
        # what old fingerprints mean. That needs a new version of the package.
        recipe = self.recipe.list_choices(BESIDE)
        recipe["resources"] = self.recipe.resources.shares
        value = self.model_dump(mode="json", exclude={"store", "recipe"}) | {"recipe": recipe}
        return hash_value(value)

    def member_fingerprint(self, member: Member) -> str:
        """Return the SHA-256 over all that decides one member's weights and predictions.

        Equal in two Plans that differ in other members alone, in how members are combined, or in
        what is judged.
        """
        return self._hash_member(member, self._trained[member.model])

    def trajectory(self, member: Member) -> str:
        """Return the SHA-256 over all that decides one member's training up to any epoch.

        Equal in two Plans whose member is the same but for `train.epochs`, where none of its steps
        depends on how many epochs are to follow: the longer training goes on from the shorter one.
        """
        recipe = self.recipe_of(member)
        length = recipe.train.length if recipe.knows_length else None
        return self._hash_member(member, {**self._leave_length_out(member), "length": length})

    def endless_fingerprint(self, member: Member) -> str:
        """Return the SHA-256 over all that decides a member, but for how many epochs it has."""
        return self._hash_member(member, self._leave_length_out(member))

    def _leave_length_out(self, member: Member) -> dict[str, Any]:
        asked = self._trained[member.model]
        train = {key: leaf for key, leaf in asked.get("train", {}).items() if key not in LENGTHS}
        return {**asked, "train": train}

    @cached_property
    def _trained(self) -> dict[str, dict[str, Any]]:
        """Return model → what its recipe says of a training, without what is left at its default.

        Cached, as it is asked for each of thousands of members.
        """
        return {model: _say_of_training(self._recipes[model]) for model in self.recipe.models}

    def _hash_member(self, member: Member, recipe: dict[str, Any]) -> str:
        value = {
            "recipe": recipe,
            "store_hash": self.store_hash,
            # The manifest with the fold is the rows on which it trains, validates and is scored.
            "splits_hash": self.splits_hash,
            "fold": member.fold,
            "seed": member.seed,
            "network": member.network,
            # All of the Plan's: which of them a member uses, only what is installed now could tell.
            "plugins": dict(self.plugins),
            "code_version": self.code_version,
        }
        return hash_value(value)

    @property
    def run_name(self) -> str:
        """Return the name of the run directory."""
        return f"{self.recipe.name}-{self.fingerprint()[:8]}"

    @property
    def gpu_hours_ceiling(self) -> float:
        """Return the GPU-hours spent if every member used its whole time limit; 0 on CPUs."""
        size = self.recipe.resources
        return len(self.members) * size.nodes * size.gpus_per_node * size.time_min / 60

    @property
    def core_hours_ceiling(self) -> float:
        """Return the hours of processor cores spent if every member used its time limit."""
        size = self.recipe.resources
        return len(self.members) * size.world_size * size.cpus_per_gpu * size.time_min / 60

    def ensembles(self, missing: Collection[Member] = ()) -> dict[str, tuple[Member, ...]]:
        """Return model name → its members that are not missing, in the recipe's order."""
        present = [member for member in self.members if member not in missing]
        return {
            model: tuple(member for member in present if member.model == model)
            for model in self.recipe.models
        }


def _say_of_training(recipe: Recipe) -> dict[str, Any]:
    asked = recipe.list_choices(OF_THE_RUN, recipe.method.judging)
    if recipe.init_from is None:
        asked.pop("init_fingerprint", None)
    # Said or not, a schedule as long as the training is the same one.
    if recipe.train.schedule_epochs == recipe.train.epochs:
        del asked["train"]["schedule_epochs"]
    return {**asked, "resources": recipe.resources.shares}


def expand(recipe: Recipe, store: Store) -> tuple[Plan, pd.DataFrame]:
    """Return the Plan of a recipe on a store, and its split manifest."""
    from lenshpc.run.splits import split_manifest

    # Before the Plan is made, which hashes the word: members must not decide it by the memory of
    # their node.
    recipe = _with_loading(recipe, store)
    variants = [recipe.of(model) for model in recipe.models]
    for variant in variants:
        check_fits(variant, store)
        check_loading(variant)
    splits = split_manifest(recipe, store)
    for model in recipe.models:
        check_batches(recipe, model, splits, store.classes)
    # The order gives the members their numbers, which folders and jobs carry.
    triples = product(recipe.models, recipe.trained_folds, recipe.seeds)
    members = tuple(
        Member(index=index, model=model, fold=fold, seed=seed)
        for index, (model, fold, seed) in enumerate(triples)
    )
    plan = Plan(
        recipe=recipe,
        store=store.path.resolve(),
        store_hash=store.content_hash,
        dataset=store.dataset,
        classes=store.classes,
        image_shape=store.image_shape,
        splits_hash=splits_hash(splits),
        code_version=__version__,
        plugins=_plugins(variants),
        members=members,
    )
    return plan, splits


def _plugins(variants: Iterable[Recipe]) -> dict[str, str]:
    """Return distribution → version of the plugins that recipes use."""
    return {
        name: version
        for one in variants
        for name, version in plugins_of(one.task, one.method, map(network_of, one.models)).items()
    }


def check_plugins(plan: Plan) -> None:
    """Refuse to train for a Plan with other plugins than it was made with, or in other versions."""
    found = _plugins(plan.recipe.of(model) for model in plan.recipe.models)
    if found != plan.plugins:
        asked, here = (
            ", ".join(f"{name} {version}" for name, version in sorted(one.items())) or "no plugin"
            for one in (plan.plugins, found)
        )
        raise ConfigError(
            f"run {plan.run_name} was submitted with {asked}, and would now use {here}; "
            "restore what it was submitted with, or submit the recipe again"
        )


def _with_loading(recipe: Recipe, store: Store) -> Recipe:
    """Return the recipe with `data.loading` decided.

    A stream has another order of rows, hence other weights, so the word is decided here and hashed,
    by what the recipe asks for and not by what a node happens to have free: up to half of the
    memory that it asks for a node is the images'.
    """
    if recipe.data.loading != "auto":
        return recipe
    num_bytes = store.num_rows * recipe.data.image_bytes(store.image_shape, store.dtype.name)
    size = recipe.resources
    fits = num_bytes <= size.mem_gb_per_gpu * size.processes_per_node * 1e9 / 2
    data = recipe.data.model_copy(update={"loading": "resident" if fits else "stream"})
    return recipe.model_copy(update={"data": data})


def mark_scored(
    plan: Plan, splits: pd.DataFrame, member: Member
) -> tuple[npt.NDArray[np.int8], Scored]:
    """Return what each row of the manifest is to a member (N,): a place in the parts, or -1.

    `oof`: its validation fold; `train`: some of its training rows, which show what it has seen. A
    diffusion draws an image for each: the first `num_samples` of a split, whose order is random.
    """
    import numpy as np

    from lenshpc.run.splits import training_rows

    recipe = plan.recipe_of(member)
    method, split = recipe.method, splits["split"]
    marks = np.full(len(splits), -1, dtype=np.int8)
    for code, part in enumerate(method.scored):
        if part == "train":
            trained = training_rows(
                splits, member.fold, recipe.data.label_fraction, recipe.split_seed
            )
            places = splits.index.get_indexer(trained.index[:NUM_TRAINING_SCORED])
        elif part == "oof":
            places = np.flatnonzero((split == "dev") & (splits["fold"] == member.fold))
        else:
            places = np.flatnonzero(split == part)
        marks[places[: method.max_scored]] = code
    return marks, method.scored


def scored_rows(plan: Plan, splits: pd.DataFrame, member: Member) -> pd.DataFrame:
    """Return the rows that a member predicts, ascending, with what they are to it as `split`."""
    import pandas as pd

    marks, parts = mark_scored(plan, splits, member)
    kept = marks >= 0
    split = pd.Categorical.from_codes(marks[kept], categories=pd.Index(parts))
    return splits[kept].assign(split=split).reset_index(drop=True)


def open_planned_store(plan: Plan) -> Store:
    """Return the store that a Plan was made for, or refuse one that holds others by now."""
    from lenshpc.store import open_store

    if not Path(plan.store).exists():
        raise absence_error(
            plan.store,
            f"no store at {plan.store}, where the run was planned; if it was moved, repeat the "
            "submit command with its new place as --data: the run stays the same",
        )
    store = open_store(plan.store)
    if store.content_hash == plan.store_hash:
        return store
    raise DataError(
        f"{plan.store} is no longer the store that the run was planned on "
        f"({store.content_hash[:8]}, not {plan.store_hash[:8]}); submit the recipe again"
    )


def save_plan(paths: RunPaths, plan: Plan, splits: pd.DataFrame) -> None:
    """Write the run directory's Plan and split manifest; the umask says who may read them."""
    make_open_folder(paths.root)
    # Before the Plan: a folder is a run once it has plan.json, and that promises the manifest.
    write_splits(paths.splits, splits)
    write_sealed(paths.plan, plan.model_dump(mode="json"))


def load_plan(paths: RunPaths) -> Plan:
    """Return the Plan of a run directory; refuse one of another layout, or that was edited."""
    try:
        value = read_json(paths.plan)
    except OSError as error:
        raise read_error(paths.plan, error) from error
    _check_layout(paths, value)
    try:
        content = unseal(paths.plan, value)
    except DataError as error:
        raise DataError(
            f"{error}; repeat the submit command, which writes it again, with --set for what "
            "should change"
        ) from error
    absent = missing_plugins(content["plugins"])
    if absent:
        raise ConfigError(
            f"{paths.root} was made with {', '.join(absent)}, which is not installed here; install "
            "it"
        )
    plan = validate(Plan, content, str(paths.plan))
    # A folder that was renamed names no fingerprint, or its own; another's is another run's Plan.
    named = re.search("-([0-9a-f]{8})$", paths.name)
    if named and named[1] != plan.fingerprint()[:8]:
        raise DataError(
            f"{paths.plan} is the Plan of {plan.run_name}, not of this folder; put the file back "
            "where it belongs, or submit the recipe again"
        )
    size = read_size(paths)
    if size is None:
        return plan
    return plan.model_copy(update={"recipe": with_size(plan.recipe, size, str(paths.size))})


def _check_layout(paths: RunPaths, value: Any) -> None:
    maker = value.get("code_version") if isinstance(value, dict) else None
    if isinstance(maker, str) and value.get("layout") != LAYOUT_VERSION:
        raise DataError(
            f"{paths.root} was made by lenshpc {printable(maker)}, whose runs lenshpc "
            f"{__version__} cannot read; submit the recipe again"
        )


def load_splits(paths: RunPaths, plan: Plan, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the split manifest, or some columns of it, checked against the hash in the Plan."""
    return read_splits(paths.splits, plan.splits_hash, columns)
