"""`lenshpc submit`: a recipe and a store become a run on a cluster or on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from lenshpc.cli.completing import recipes, sites, tasks

if TYPE_CHECKING:
    import pandas as pd

    from lenshpc.launch.sites import Site
    from lenshpc.launch.submit import Submission
    from lenshpc.run.paths import RunPaths
    from lenshpc.run.plan import Plan
    from lenshpc.run.recipe import Recipe
    from lenshpc.store import Store


@click.command(short_help="Send a recipe's members to a cluster, and the report after them.")
@click.option(
    "--task",
    shell_complete=tasks,
    help="Use the recipe that ships for a task, such as lens-finding or super-resolution.",
)
@click.option(
    "--recipe", shell_complete=recipes, help="Use a shipped recipe by name, or your own .yaml."
)
@click.option(
    "--data",
    "store",
    required=True,
    envvar="LENSHPC_DATA",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="The store.",
)
@click.option("--name", help="Begin the run's name with this.  [default: the recipe's]")
@click.option("--folds", type=int, help="Number of folds; 1 is a single hold-out.")
@click.option("--models", help="Networks of timm, separated by commas.")
@click.option("--seeds", help="Seeds, separated by commas; an ensemble over them.")
@click.option("--init-from", metavar="RUN", help="Start from the weights of this pre-training.")
@click.option("--nodes", type=int, help="Nodes for one member.")
@click.option("--gpus-per-node", type=int, help="GPUs, and processes, on each of them.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a setting.")
@click.option(
    "--site",
    default="local",
    show_default=True,
    envvar="LENSHPC_SITE",
    show_envvar=True,
    shell_complete=sites,
    help="A site by name, or your .yaml.",
)
@click.option("--runs", default="runs", show_default=True, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show all that would be sent; write nothing.")
@click.option("--wait", is_flag=True, help="Show progress until the report is written.")
@click.option("--json", "as_json", is_flag=True, help="Print the submission for programs.")
def submit(
    task: str | None,
    recipe: str | None,
    store: Path,
    site: str,
    runs: Path,
    dry_run: bool,
    wait: bool,
    as_json: bool,
    assignments: tuple[str, ...],
    **options: Any,
) -> None:
    """Send one job for each model, fold and seed, and an aggregation that runs after them.

    Sending the same again sends only what is not done. Ctrl-C under --wait stops a run of this
    machine; jobs of a cluster go on.

    \b
    Examples:
      lenshpc submit --task lens-finding --data stores/lenses --folds 5 --site ./mycluster.yaml
      lenshpc submit --task multiclass --data stores/slc --models resnet18,resnet34 \\
          --nodes 2 --gpus-per-node 4 --set train.strategy=deepspeed --site ./mycluster.yaml
      lenshpc submit --recipe ./mine.yaml --data stores/slc --dry-run
    """
    if dry_run and (wait or as_json):
        raise click.UsageError("--dry-run goes with neither --wait nor --json")
    if wait and as_json:
        raise click.UsageError("give either --wait or --json")
    from lenshpc.config import parse_assignment
    from lenshpc.launch.sites import check_fits, load_site
    from lenshpc.launch.submit import submit as send
    from lenshpc.run.recipe import load_recipe
    from lenshpc.store import open_store

    changes = [*changed(options), *(parse_assignment(text) for text in assignments)]
    asked = load_recipe(chosen(task, recipe), changes)
    place = load_site(site)
    chain = chained(asked, open_store(store), runs)
    for one in chain:
        check_fits(place, one.plan.recipe)
    if dry_run:
        click.echo("\n\n".join(preview(one.run, one.plan, place) for one in chain))
        return
    from lenshpc.worker import CALLS

    for one in chain:
        sent = send(one.run, one.plan, one.splits, place, CALLS)
        report(one.run, one.plan, sent, as_json=as_json)
    if wait:
        from lenshpc.cli.watch import watch_all

        watch_all([(one.run, one.plan) for one in chain])


class Asked(NamedTuple):
    """A run that is to be sent: where it lies, its Plan and its split manifest."""

    run: RunPaths
    plan: Plan
    splits: pd.DataFrame


def chained(first: Recipe, store: Store, runs: Path) -> list[Asked]:
    """Return the run of a recipe, then those of `then`, which start from its weights."""
    from lenshpc.run.plan import check_unseen
    from lenshpc.run.recipe import load_recipe

    head = planned(first, store, runs)
    origin = [("init_from", str(head.run.root)), ("init_fingerprint", head.plan.fingerprint())]
    later = [planned(load_recipe(name, origin), store, runs) for name in first.then]
    for one in later:
        check_unseen((head.plan, head.splits, store), (one.plan, one.splits, store))
    return [head, *later]


def planned(recipe: Recipe, store: Store, runs: Path) -> Asked:
    """Return the run of a recipe, with all that it names outside of the store found."""
    from lenshpc.launch.submit import run_paths
    from lenshpc.models.names import check_names
    from lenshpc.models.weights import with_weights
    from lenshpc.run.plan import check_unseen, expand, origin_of
    from lenshpc.run.recipe import network_of

    check_names(map(network_of, recipe.models))
    found = with_origin(with_weights(recipe), runs)
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    plan, splits = expand(found, store)
    origin = origin_of(found)
    if origin is not None and recipe.init_fingerprint is None:
        check_unseen(pretraining(origin), (plan, splits, store))
    return Asked(run_paths(plan, runs), plan, splits)


def with_origin(recipe: Recipe, runs: Path) -> Recipe:
    """Return the recipe with the run that it starts from found, and its fingerprint noted."""
    from lenshpc.run.paths import find_run
    from lenshpc.run.plan import load_plan

    if recipe.init_from is None or recipe.init_fingerprint is not None:
        return recipe
    run = find_run(recipe.init_from, runs)
    noted = {"init_from": str(run.root), "init_fingerprint": load_plan(run).fingerprint()}
    return recipe.model_copy(update=noted)


def chosen(task: str | None, recipe: str | None) -> str:
    """Return the recipe that `--task` or `--recipe` names."""
    from lenshpc.run.recipe import recipe_of_task

    if (task is None) == (recipe is None):
        raise click.UsageError("give either --task or --recipe")
    return recipe or recipe_of_task(str(task))


def pretraining(run: RunPaths) -> tuple[Plan, pd.DataFrame, Store]:
    """Return Plan, split manifest and store of the run that another one starts from."""
    from lenshpc.run.plan import load_plan, load_splits, planned_store

    plan = load_plan(run)
    return plan, load_splits(run, plan), planned_store(plan)


def changed(options: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the recipe keys that command-line options set."""
    keys = {
        "name": "name",
        "folds": "folds",
        "models": "models",
        "seeds": "seeds",
        "init_from": "init_from",
        "nodes": "resources.nodes",
        "gpus_per_node": "resources.gpus_per_node",
    }
    given = {key: options[name] for name, key in keys.items() if options[name] is not None}
    lists = {key: given[key].split(",") for key in ("models", "seeds") if key in given}
    return list((given | lists).items())


def preview(run: RunPaths, plan: Plan, site: Site) -> str:
    """Return what `--dry-run` prints: the array's map, the exact scripts, the cost at most."""
    from lenshpc.launch.submit import requests

    size = plan.recipe.resources
    lines = [
        f"run          {run.root}",
        f"data         {plan.store} ({plan.dataset}: {', '.join(plan.classes)})",
        f"site         {site.name} ({site.scheduler})",
        f"a member     {size.nodes} node(s) x {size.gpus_per_node} GPU(s), {plan.recipe.strategy}, "
        f"at most {size.time_min} min",
        f"GPU-hours    {plan.gpu_hours_ceiling:.1f} at most",
        "",
        "element  member",
        *(f"{member.index:>7}  {member.name}" for member in plan.members),
    ]
    if site.scheduler == "slurm":
        parts, aggregate = requests(plan, site, run)
        for number, part in enumerate(parts, 1):
            which = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
            lines += ["", f"--- sbatch: the members{which}", part.script()]
        lines += ["", "--- sbatch: the report", aggregate.script()]
    return "\n".join(lines)


def report(run: RunPaths, plan: Plan, sent: Submission, *, as_json: bool) -> None:
    """Say what was sent and how to follow it."""
    import json

    from lenshpc.run.completion import reference

    jobs = ",".join(sent.job_ids)
    if as_json:
        told = {"members": list(sent.members), "job": jobs, "report": sent.report_job_id}
        click.echo(json.dumps({"run": str(run.root), **told}))
        return
    done = len(plan.members) - len(sent.members)
    click.echo(f"run {run.name}: {len(sent.members)} members sent as job {jobs or '-'}", err=True)
    if done:
        click.echo(f"{done} members are done or under way", err=True)
    click.echo(f"follow it with: lenshpc status {reference(run)} --watch", err=True)
