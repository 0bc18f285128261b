"""`lenshpc submit`: a recipe and a store become a run on a cluster or on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lenshpc.cli.completing import find_task_names, recipes, sites, tasks
from lenshpc.cli.meant import SettingType
from lenshpc.cli.options import runs_option
from lenshpc.cli.probe import show_probe
from lenshpc.cli.show import count, echo, say_withheld

if TYPE_CHECKING:
    from lenshpc.launch.sites import Site, Tracking
    from lenshpc.launch.submit import Submission
    from lenshpc.run.adoption import Offer, Source
    from lenshpc.run.paths import RunPaths
    from lenshpc.run.plan import Member, Plan
    from lenshpc.run.planning import PlannedRun


class TaskOption(click.Option):
    """`--task`, whose help names the installed tasks, ours and those of plugins."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option's line of the help; packages are searched for tasks here alone."""
        self.help = f"Use the recipe of a task: {', '.join(find_task_names())}."
        return super().get_help_record(ctx)


task_option = click.option("--task", cls=TaskOption, metavar="TASK", shell_complete=tasks)
recipe_option = click.option(
    "--recipe", shell_complete=recipes, help="Use a recipe that ships, by name, or your .yaml."
)
gpus_option = click.option(
    "--gpus-per-node", type=int, help="GPUs on each node, with one process each; 0 for CPUs."
)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    type=SettingType(),
    help="Change a setting, such as train.epochs=30; may be repeated.",
)


@click.command(short_help="Submit a recipe's members, and the report after them.")
@task_option
@recipe_option
@click.option(
    "--data",
    "store",
    required=True,
    envvar="LENSHPC_DATA",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="Store to train on.",
)
@click.option("--name", help="Beginning of the run's name.  [default: the recipe's]")
@click.option("--folds", type=int, help="Number of folds; 1 is a single holdout.")
@click.option("--models", help="Networks, separated by commas: names, or FILE.py:NAME.")
@click.option("--seeds", help="Seeds, separated by commas; each trains all models and folds.")
@click.option(
    "--init-from", metavar="RUN|DIR", help="Start from the weights of this run or export."
)
@click.option("--nodes", type=int, help="Nodes for one member.")
@gpus_option
@set_option
@click.option(
    "--site",
    default="local",
    show_default=True,
    envvar="LENSHPC_SITE",
    show_envvar=True,
    shell_complete=sites,
    help="Site profile: a name, or your .yaml.",
)
@click.option(
    "--track",
    multiple=True,
    type=click.Choice(["tensorboard", "mlflow", "wandb"]),
    help="Log the trainings there; may be repeated.  [default: the site's tracking]",
)
@runs_option("runs")
@click.option("--no-adopt", is_flag=True, help="Also train what other runs have trained.")
@click.option(
    "--restart", is_flag=True, help="Train from the beginning what cannot continue to more epochs."
)
@click.option("--dry-run", is_flag=True, help="Show what would be submitted; write nothing.")
@click.option(
    "--probe",
    is_flag=True,
    help="Find the largest batch on a node of the site; submit nothing else.",
)
@click.option("--wait", is_flag=True, help="Show the progress until the run has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print the run and its jobs as JSON.")
def submit(
    task: str | None,
    recipe: str | None,
    store: Path,
    site: str,
    track: tuple[Tracking, ...],
    runs: Path,
    dry_run: bool,
    probe: bool,
    wait: bool,
    as_json: bool,
    assignments: tuple[str, ...],
    **options: Any,
) -> None:
    """Submit one job for each model, fold and seed, and a report after them.

    The same command again submits only what is not done. What another run in --runs has trained
    with the same data, fold, seed and settings is taken over. Ctrl-C under --wait stops a run on
    this machine; jobs on a cluster continue.

    \b
    Examples:
      lenshpc submit --task lens-finding --data stores/lenses --site ./my.yaml
      lenshpc submit --task multiclass --data stores/slc --site ./my.yaml \\
          --models resnet18,resnet34 --nodes 2 --gpus-per-node 4 \\
          --set train.strategy=deepspeed
      lenshpc submit --recipe ./mine.yaml --data stores/slc --dry-run
    """
    check_one_of({"--dry-run": dry_run, "--wait": wait, "--json": as_json})
    check_one_of({"--dry-run": dry_run, "--wait": wait, "--probe": probe})
    from lenshpc.config import parse_assignment
    from lenshpc.launch.sites import load_site
    from lenshpc.run.planning import plan_chain
    from lenshpc.run.recipe import load_recipe
    from lenshpc.store import open_store

    changes = [*list_changes(options), *(parse_assignment(text) for text in assignments)]
    source, place = choose_recipe(task, recipe), load_site(site)
    place = place.model_copy(update={"tracking": track}) if track else place
    asked = load_recipe(source, changes)
    chain = plan_chain(asked, open_store(store), runs, place.defaults)
    check_chain(chain, place)
    if probe:
        show_probe(chain[0], place, as_json=as_json)
        return
    offers = find_offers(chain, **options)
    if dry_run:
        from lenshpc.cli.preview import preview_chain

        recipes = [source, *asked.then]
        echo(preview_chain(chain, offers, place, site, recipes, dict(changes)))
        return
    for one, offer in zip(chain, offers, strict=True):
        send_run(one, place, offer, as_json=as_json)
    if wait:
        from lenshpc.cli.watch import watch_all

        watch_all([(one.paths, one.plan) for one in chain])


def send_run(planned: PlannedRun, place: Site, offer: Offer, *, as_json: bool) -> None:
    """Send a run and say what was sent, and what keeps the terms of an earlier submission."""
    from lenshpc.launch.submit import submit as send
    from lenshpc.launch.terms import describe_kept, read_terms
    from lenshpc.worker import CALLS

    before = read_terms(planned.paths)
    sent = send(planned, place, CALLS, offer)
    kept = describe_kept(planned.paths, before, sent)
    if kept:
        echo(kept, err=True)
    report(planned.paths, planned.plan, sent, as_json=as_json)


def check_one_of(flags: Mapping[str, bool]) -> None:
    """Refuse two flags of which each says what is printed."""
    given = [name for name, is_given in flags.items() if is_given]
    if len(given) > 1:
        raise click.UsageError(f"give either {given[0]} or {given[1]}")


def check_chain(chain: Iterable[PlannedRun], site: Site) -> None:
    """Say what is seldom meant, and refuse what a site has not."""
    from lenshpc.launch.sites import check_fits

    for one in chain:
        for warning in one.plan.recipe.warnings:
            echo(f"warning: {warning}", err=True)
        check_fits(site, one.plan.recipe)
    say_withheld(site)


def find_offers(
    chain: Iterable[PlannedRun], *, no_adopt: bool, restart: bool, **_: Any
) -> list[Offer]:
    """Return what other runs have of the members of each run."""
    from lenshpc.launch.submit import NOTHING, search

    return [NOTHING if no_adopt else search(one, restart=restart) for one in chain]


def choose_recipe(task: str | None, recipe: str | None) -> str:
    """Return the recipe that `--task` or `--recipe` names."""
    from lenshpc.run.recipe import recipe_of_task

    if (task is None) == (recipe is None):
        raise click.UsageError("give either --task or --recipe")
    return recipe or recipe_of_task(str(task))


def list_changes(options: dict[str, Any]) -> list[tuple[str, Any]]:
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
    lists = {
        key: [one.strip() for one in given[key].split(",")]
        for key in ("models", "seeds")
        if key in given
    }
    return list((given | lists).items())


def report(run: RunPaths, plan: Plan, sent: Submission, *, as_json: bool) -> None:
    """Say what was sent and how to follow it."""
    import json

    from lenshpc.run.completion import reference

    jobs = ",".join(sent.job_ids)
    if as_json:
        taken = {one.index: {"from": it.title, "is": it.state} for one, it in sent.taken.items()}
        told = {"members": list(sent.members), "job": jobs, "report": sent.report_job_id}
        echo(json.dumps({"run": str(run.root), **told, "taken": taken}))
        return
    done = len(plan.members) - len(sent.members)
    word = "nothing to submit"
    if sent.members:
        word = f"{count(len(sent.members), 'member')} submitted as job {jobs}"
    elif sent.report_job_id:
        word = f"only the report is submitted, as job {sent.report_job_id}"
    echo(f"run {run.name}: {word}", err=True)
    for line in describe_taken(sent.taken):
        echo(line, err=True)
    done -= sum(one.state == "done" for one in sent.taken.values())
    if done:
        verb = "is" if done == 1 else "are"
        echo(f"{count(done, 'member')} {verb} done or under way", err=True)
    echo(f"follow it with: lenshpc status {reference(run)} --watch", err=True)


def describe_taken(taken: Mapping[Member, Source]) -> Iterator[str]:
    """Yield a line for each run that members were taken over from, and what is left to do."""
    told = {
        "done": "{members} taken over from {run}, done",
        "trained": "{members} of {run} {verb} already trained, and left to predict",
        "begun": "{members} {go} from epoch {epochs} of {run}",
    }
    groups = Counter((one.state, one.run.name, one.epochs) for one in taken.values())
    for (state, run, epochs), number in groups.items():
        verb, go = ("is", "continues") if number == 1 else ("are", "continue")
        members = count(number, "member")
        yield told[state].format(members=members, run=run, verb=verb, go=go, epochs=epochs)
