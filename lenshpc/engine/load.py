"""A trained network, ready to use: architecture and weights of a run's member."""

import os
from dataclasses import replace

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lenshpc.errors import ConfigError, DataError, IncompleteError
from lenshpc.registry import Task, TaskSpec, find_task, load
from lenshpc.run.completion import is_done, read_facts, read_output, resume_command
from lenshpc.run.ownership import require_own
from lenshpc.run.paths import RunPaths, find_run
from lenshpc.run.plan import Member, Plan, load_plan
from lenshpc.store import open_store


def load_model(run: str | os.PathLike[str], member: int) -> nn.Module:
    """Return the network of a run's member with its best weights, in evaluation mode.

    It takes images (B, C, H, W) as it was trained on: cropped, resized and stretched as the recipe
    says, then (pixels - mean) / std, both of which the member's `done.json` holds.
    """
    paths = find_run(os.fspath(run))
    plan = load_plan(paths)
    if not 0 <= member < len(plan.members):
        raise ConfigError(f"run {paths.name} has the members 0 to {len(plan.members) - 1}")
    one = plan.members[member]
    if not is_done(paths, plan, one):
        raise IncompleteError(
            f"member {member} of run {paths.name} is not done; finish it with: "
            f"{resume_command(paths)}"
        )
    model = load_task(plan, paths, one).build_model(one.network)
    # Strict, and from safetensors, which cannot run code as a pickle can.
    model.load_state_dict(read_weights(paths, one))
    return model.eval()


def load_task(plan: Plan, run: RunPaths, member: Member) -> Task:
    """Return the task of a finished member, with the normalisation of its fold.

    ConfigError of a run that keeps networks of a file, which are code, and that others may write.
    """
    if any(run.code.glob("files/*.py")):
        require_own(run)
    done = read_facts(run, member)
    mean, std = tuple(done["mean"]), tuple(done["std"])
    spec = replace(_spec(plan, run, member), mean=mean, std=std)
    return make_task(plan.recipe_of(member).task, spec)


def read_weights(run: RunPaths, member: Member) -> dict[str, Tensor]:
    """Return the weights of a member that is done; DataError where they were altered."""
    path = run.member(member.name).weights
    try:
        # The bytes that are parsed are those that were hashed.
        return safetensors.torch.load(read_output(run, member, path))
    except SafetensorError as error:
        raise DataError(f"{path}: not a whole file of weights ({error})") from error


def make_task(name: str, spec: TaskSpec) -> Task:
    """Return the task of that name."""
    task: Task = load(find_task(name).task)(spec)
    return task


def _spec(plan: Plan, run: RunPaths, member: Member) -> TaskSpec:
    """Return what decides on the architecture; the store is asked for the shape of targets."""
    recipe = plan.recipe_of(member)
    settings = recipe.method.for_inference()
    held, _ = recipe.data.in_memory(plan.image_shape, "float32")
    return TaskSpec(
        settings=settings,
        train=recipe.train,
        classes=plan.classes,
        # Inference needs no class weights; `for_inference` has put them to none, for they would be
        # divided by these zeros.
        class_counts=(0,) * len(plan.classes),
        image_shape=recipe.data.model_shape(held),
        target_shape=open_store(plan.store).target_shape if settings.needs_targets else None,
        zoom=recipe.data.zoom(plan.image_shape),
        code=run.code,
    )
