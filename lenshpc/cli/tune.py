"""`lenshpc tune`: search a recipe's settings by trials that read no test row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lenshpc.cli.completing import sites
from lenshpc.cli.options import runs_option
from lenshpc.cli.show import count, echo, say_withheld
from lenshpc.cli.submit import (
    choose_recipe,
    gpus_option,
    list_changes,
    recipe_option,
    set_option,
    task_option,
)

if TYPE_CHECKING:
    from lenshpc.launch.sites import Site
    from lenshpc.run.planning import PlannedRun
    from lenshpc.run.recipe import Recipe
    from lenshpc.tuning.study import Study
    from lenshpc.tuning.summary import Findings

# Options that change the recipe; with --resume they are compared where a recipe is given, too.
OF_THE_RECIPE = (
    *("assignments", "name", "folds", "models", "seeds", "init_from", "nodes", "gpus_per_node"),
    "round_size",
)


@click.command(short_help="Search a recipe's settings, and write the best recipe.")
@task_option
@recipe_option
@click.option(
    "--data",
    "store",
    envvar="LENSHPC_DATA",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="Store to train on.",
)
@click.option("--name", help="Beginning of the study's name.  [default: the recipe's]")
@click.option("--folds", type=int, help="Number of folds; a trial trains all of them.")
@click.option("--models", help="Network: a name, or FILE.py:NAME.")
@click.option("--seeds", help="Seeds, separated by commas; a trial trains all of them.")
@click.option(
    "--init-from", metavar="RUN|DIR", help="Start from the weights of this run or export."
)
@click.option("--nodes", type=int, help="Nodes for one trial.")
@gpus_option
@set_option
@click.option("--trials", type=click.IntRange(1, 100_000), help="Number of trials.  [default: 30]")
@click.option(
    "--rounds",
    "round_size",
    type=click.IntRange(1),
    metavar="N",
    help="Choose the settings of N trials at a time: the same ones whichever trial ends first.",
)
@click.option(
    "--parallel", type=click.IntRange(1), help="Trials that run at the same time, on a cluster."
)
@click.option(
    "--max-gpu-hours",
    type=click.FloatRange(0),
    help="Start no trial after this many GPU-hours in all; on CPUs, process-hours.",
)
@click.option(
    "--then-submit", is_flag=True, help="Submit the best recipe when the search has ended."
)
@click.option(
    "--site",
    envvar="LENSHPC_SITE",
    show_envvar=True,
    shell_complete=sites,
    help="Site profile: a name, or your .yaml.  [default: local]",
)
@runs_option("runs")
@click.option("--resume", "resumed", metavar="STUDY", help="Continue a study.")
@click.option(
    "--status", "shown", metavar="STUDY", help="Show the trials of a study; submit nothing."
)
@click.option("--dry-run", is_flag=True, help="Show what would be searched; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the study, or its trials, as JSON.")
def tune(
    resumed: str | None, shown: str | None, runs: Path, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Train a recipe many times with other settings, and write the best as a recipe to submit.

    The recipe's `search` says what is searched. A trial trains one network on the recipe's
    folds and seeds, and is judged by validation rows alone; the first one is the recipe itself.
    Ctrl-C on this machine saves the trial that runs, and --resume continues it.

    \b
    Examples:
      lenshpc tune --task lens-finding --data stores/lenses --site ./my.yaml --trials 60
      lenshpc tune --recipe ./mine.yaml --data stores/slc --rounds 8 --max-gpu-hours 100
      lenshpc tune --task multiclass --data stores/slc --then-submit \\
          --set 'search.keys={train.lr: {log: [1e-5, 1e-2]}, models: {choice: [resnet18, d4_net]}}'
      lenshpc tune --status lens_finding-tune-1a2b3c4d
      lenshpc tune --resume lens_finding-tune-1a2b3c4d --trials 90
    """
    from lenshpc.run.extras import require

    require("tune", "lenshpc tune")
    if resumed and shown:
        raise click.UsageError("give either --resume or --status")
    from lenshpc.tuning.study import find_study

    if shown:
        _show(find_study(shown, runs), as_json=as_json)
    elif resumed:
        if dry_run:
            raise click.UsageError(
                "--dry-run is for a new study; for one that was started use --status"
            )
        _resume(find_study(resumed, runs), as_json=as_json, **options)
    else:
        _begin(runs, dry_run=dry_run, as_json=as_json, **options)


def _begin(
    runs: Path,
    *,
    site: str | None,
    parallel: int | None,
    max_gpu_hours: float | None,
    then_submit: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    from lenshpc.store import open_store
    from lenshpc.tuning.send import begin_study
    from lenshpc.tuning.study import StudySettings, plan_study
    from lenshpc.worker import TUNE_CALLS

    if options["store"] is None:
        raise click.UsageError("Missing option '--data'.")
    place = _load_site(site or "local", parallel)
    recipe = _load_recipe(**options)
    study, planned = plan_study(
        recipe.with_defaults(place.defaults), open_store(options["store"]), runs
    )
    if dry_run:
        echo(_preview(study, recipe, planned, place))
        return
    say_withheld(place)
    settings = StudySettings(
        recipe=recipe,
        base=planned.plan.fingerprint(),
        runs=runs.resolve(),
        max_gpu_hours=max_gpu_hours,
        then_submit=then_submit,
    )
    sent = begin_study(study, planned, settings, place, TUNE_CALLS, _say)
    _report(study, sent, as_json=as_json)


def _resume(
    study: Study,
    *,
    site: str | None,
    parallel: int | None,
    max_gpu_hours: float | None,
    then_submit: bool,
    as_json: bool,
    **options: Any,
) -> None:
    from lenshpc.launch.sites import read_site
    from lenshpc.run.ownership import require_own
    from lenshpc.tuning.send import carry_on
    from lenshpc.tuning.study import check_same
    from lenshpc.worker import TUNE_CALLS

    require_own(study.base)
    if options["task"] or options["recipe"]:
        check_same(study, _load_recipe(**options))
    elif given := [key for key in OF_THE_RECIPE if options[key] not in (None, ())]:
        flags = {"assignments": "set", "round_size": "rounds"}
        flag = flags.get(given[0], given[0].replace("_", "-"))
        raise click.UsageError(
            f"--{flag} changes the recipe, and a study continues with its own; leave it out, or "
            "start another study without --resume"
        )
    place = _load_site(site, parallel) if site else read_site(study.base)
    changes: dict[str, Any] = {"then_submit": then_submit or study.settings.then_submit}
    if max_gpu_hours is not None:
        changes["max_gpu_hours"] = max_gpu_hours
    if options["trials"]:
        search = study.search.model_copy(update={"trials": options["trials"]})
        changes["recipe"] = study.settings.recipe.model_copy(update={"search": search})
    _report(study, carry_on(study.update(**changes), place, TUNE_CALLS, _say), as_json=as_json)


def _load_site(name: str, parallel: int | None) -> Site:
    from lenshpc.launch.sites import load_site

    site = load_site(name)
    if parallel is None:
        return site
    if site.scheduler != "slurm":
        raise click.UsageError(
            f"--parallel is for clusters; site {site.name} runs one trial at a time"
        )
    return site.model_copy(update={"max_parallel": parallel})


def _load_recipe(
    *,
    task: str | None,
    recipe: str | None,
    assignments: tuple[str, ...],
    trials: int | None,
    round_size: int | None,
    **options: Any,
) -> Recipe:
    from lenshpc.config import parse_assignment
    from lenshpc.run.recipe import load_recipe

    search = {"search.trials": trials, "search.round_size": round_size}
    given = [(key, leaf) for key, leaf in search.items() if leaf is not None]
    changes = [*list_changes(options), *(parse_assignment(text) for text in assignments), *given]
    return load_recipe(choose_recipe(task, recipe), changes)


def _say(text: str) -> None:
    echo(text, err=True)


def _preview(study: Study, recipe: Recipe, planned: PlannedRun, site: Site) -> str:
    """Return what a dry run prints: the study, what is searched, the cost at most."""
    from lenshpc.launch.executor import member_request
    from lenshpc.launch.sites import has_gpus
    from lenshpc.tuning.points import objective_of, own_values
    from lenshpc.tuning.summary import format_value

    search, own = recipe.search, own_values(recipe)
    plan, size = planned.plan, planned.plan.recipe.resources
    unit, ceiling = (
        ("GPU-hours", plan.gpu_hours_ceiling)
        if has_gpus(site, size)
        else ("core-hours", plan.core_hours_ceiling)
    )
    trainings, hours = count(len(plan.members), "training"), ceiling / len(plan.members)
    lines = [
        f"study        {study.root}",
        f"data         {plan.store} ({plan.dataset})",
        f"site         {site.name} ({site.scheduler})",
        f"trials       {search.trials} of {trainings}, chosen {search.round_size or 1} at a time",
        f"objective    validation {objective_of(recipe)[0]}; {search.sampler}, {search.pruner}",
        *(
            [f"{unit:<12} {hours * search.trials:.1f} at most, with one job per trial"]
            if site.scheduler == "slurm"
            else []
        ),
        "",
        *(
            f"{key}: {span.kind} {', '.join(map(format_value, span.tried))}"
            f" (the recipe: {format_value(own.get(key, '-'))})"
            for key, span in search.keys.items()
        ),
    ]
    if site.scheduler == "slurm":
        script = member_request(plan, site, study.base.slurm, search.trials).script()
        lines += ["", "--- sbatch: the trials", script]
    return "\n".join(lines)


def _report(study: Study, sent: dict[str, Any], *, as_json: bool) -> None:
    """Say what was sent, or what was found here."""
    if not sent:
        _show(study, as_json=as_json)
        echo(f"report: {study.report / 'report.html'}", err=as_json)
        return
    if as_json:
        echo(json.dumps({"study": str(study.root), **sent}))
        return
    arrays = ",".join(sent["arrays"])
    echo(
        f"study {study.root.name}: trials submitted as job {arrays}, the report as "
        f"{sent['report']}",
        err=True,
    )
    echo(f"follow it with: lenshpc tune --status {study.root}", err=True)


def _show(study: Study, *, as_json: bool) -> None:
    """Print the trials of a study, and the best of them."""
    from lenshpc.launch.marks import had_gpus
    from lenshpc.tuning.summary import find

    findings = find(study)
    if as_json:
        echo(json.dumps(findings.as_json(), indent=1))
        return
    _draw_trials(findings)
    states = ", ".join(f"{number} {state}" for state, number in findings.counts.items())
    unit = "GPU-hours" if had_gpus(study.base, study.plan, {}) else "process-hours"
    echo(f"trials: {states}; {sum(findings.hours.values()):.2f} {unit}")
    best, own = findings.best, findings.own
    if best:
        own_value = f"{own.value:.6g}" if own and own.value is not None else "not known"
        echo(
            f"best: trial {best.number}, validation {study.objective[0]} {best.value:.6g} "
            f"(the recipe itself: {own_value})"
        )
    if (study.report / "best.yaml").is_file():
        echo(f"recipe: {study.report / 'best.yaml'}")


def _draw_trials(findings: Findings) -> None:
    from rich.console import Console

    from lenshpc.cli.show import draw
    from lenshpc.cli.table import Heading, Line, draw_table, find_width
    from lenshpc.tuning.summary import describe_values

    console = Console()
    columns = [Heading(word=word) for word in ("trial", "state", "value", "hours")]
    rows = [
        Line(
            words=(
                str(one.number),
                one.state if one.same_as is None else f"{one.state} (as {one.same_as})",
                "" if one.value is None else f"{one.value:.6g}",
                f"{findings.hours.get(one.number, 0.0):.3f}",
            ),
            # Below its trial, for which a terminal has room however many keys are searched.
            note=describe_values(one) + (f": {one.reason}" if one.state == "FAIL" else ""),
        )
        for one in findings.trials
    ]
    draw(console, draw_table(columns, rows, find_width(console)))
