"""A trained network, ready to use: architecture and weights of a run's member."""

import os
from typing import Any

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lenshpc.data.fold import FoldData
from lenshpc.errors import ConfigError, DataError, IncompleteError
from lenshpc.registry import Shape, Task, TaskSpec, find_task, load
from lenshpc.run.completion import is_done, read_facts, read_output, resume_command
from lenshpc.run.ownership import require_own
from lenshpc.run.paths import RunPaths, find_run
from lenshpc.run.plan import Member, Plan, load_plan
from lenshpc.run.recipe import Recipe
from lenshpc.store import Store, open_store


def load_model(run: str | os.PathLike[str], member: int) -> nn.Module:
    """Return the network of a run's member with its best weights, in evaluation mode.

    It takes images (B, C, H, W) as it was trained on: cropped, resized and stretched as the recipe
    says, then (pixels - mean) / std, both of which the member's `done.json` holds.
    """
    paths = find_run(os.fspath(run))
    plan = load_plan(paths)
    if not 0 <= member < len(plan.members):
        raise ConfigError(
            f"run {paths.name} has members 0 to {len(plan.members) - 1}; give one of them"
        )
    one = plan.members[member]
    if not is_done(paths, plan, one):
        raise IncompleteError(
            f"member {member} of run {paths.name} is not done; finish it with: "
            f"{resume_command(paths)}"
        )
    model = load_task(plan, paths, one).build_model(one.network)
    model.load_state_dict(read_weights(paths, one))
    return model.eval()


def load_task(plan: Plan, run: RunPaths, member: Member) -> Task:
    """Return the task of a finished member, with the normalisation of its fold.

    ConfigError of a run that keeps networks of a file, which are code, and that others may write.
    """
    if any(run.code.glob("files/*.py")):
        require_own(run)
    done, recipe = read_facts(run, member), plan.recipe_of(member)
    needs_targets = recipe.method.needs_targets
    spec = inference_spec(
        recipe,
        classes=plan.classes,
        image_shape=plan.image_shape,
        target_shape=open_store(plan.store).target_shape if needs_targets else None,
        mean=tuple(done["mean"]),
        std=tuple(done["std"]),
        code=run.code,
    )
    return make_task(recipe.task, spec)


def inference_spec(
    recipe: Recipe, *, classes: tuple[str, ...], image_shape: Shape, **facts: Any
) -> TaskSpec:
    """Return what a trained member's task is built from.

    `image_shape` is the store's; `facts` are target_shape, mean, std and code.
    """
    held, _ = recipe.data.in_memory(image_shape, "float32")
    return TaskSpec(
        # Here, since a variant may name a loss of its own.
        settings=recipe.method.for_inference(),
        train=recipe.train,
        classes=classes,
        # Inference needs no class weights; `for_inference` has put them to none, for they would be
        # divided by these zeros.
        class_counts=(0,) * len(classes),
        image_shape=recipe.data.model_shape(held),
        stretch=recipe.data.stretch,
        zoom=recipe.data.zoom(image_shape),
        **facts,
    )


def read_weights(run: RunPaths, member: Member) -> dict[str, Tensor]:
    """Return the weights of a member that is done; DataError where they were altered."""
    path = run.member(member.name).weights
    # The bytes that are parsed are those that were hashed.
    return parse_weights(read_output(run, member, path), str(path))


def parse_weights(content: bytes, owner: str) -> dict[str, Tensor]:
    """Return the weights in the bytes of a file; DataError, with its `owner`, of any other."""
    try:
        # safetensors, which cannot run code as a pickle can.
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise DataError(f"{owner}: damaged or incomplete file of weights ({error})") from error


def make_task(name: str, spec: TaskSpec) -> Task:
    """Return the task of that name."""
    task: Task = load(find_task(name).task)(spec)
    return task


def build_task(run: RunPaths, plan: Plan, member: Member, store: Store, data: FoldData) -> Task:
    """Return the task of a member's recipe for the rows of its fold."""
    recipe, preparation = plan.recipe_of(member), data.source.preparation
    # Of the training rows alone, synthetic ones included: class weights must not know how
    # validation is made up.
    labels = data.training.labels[data.training.rows]
    held, _ = recipe.data.in_memory(store.image_shape, store.dtype.name)
    spec = TaskSpec(
        settings=recipe.method,
        train=recipe.train,
        classes=plan.classes,
        class_counts=tuple(np.bincount(labels, minlength=len(plan.classes)).tolist()),
        image_shape=recipe.data.model_shape(held),
        target_shape=store.target_shape,
        mean=tuple(preparation.mean.tolist()),
        std=tuple(preparation.std.tolist()),
        stretch=preparation.stretch,
        zoom=recipe.data.zoom(store.image_shape),
        code=run.code,
    )
    return make_task(recipe.task, spec)
