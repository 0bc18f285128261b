"""`lenshpc sample`: a trained generative model draws images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from lenshpc.api.progress import progress_bar
from lenshpc.cli.arrays import array_options, load_array_site
from lenshpc.cli.completing import runs
from lenshpc.cli.options import seed_option
from lenshpc.cli.show import echo, say_withheld

if TYPE_CHECKING:
    from lenshpc.run.paths import RunPaths
    from lenshpc.run.plan import Member, Plan


@click.command(short_help="Draw images with a trained diffusion model.")
@click.argument("run", shell_complete=runs)
@click.option(
    "--num",
    type=click.IntRange(1, 10**9),
    default=1000,
    show_default=True,
    help="Number of images.",
)
@click.option(
    "--member", type=click.IntRange(min=0), default=0, help="Number of the member.  [default: 0]"
)
@seed_option("the images")
@array_options("Draw", "each with one GPU")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the samples' path, or the jobs, as JSON."
)
def sample(
    run: str,
    num: int,
    member: int,
    seed: int,
    site: str | None,
    array_size: int | None,
    as_json: bool,
) -> None:
    """Draw images with a finished member of RUN, into samples.zarr in the run's folder.

    Image number i depends on the seed and i alone, not on the number of jobs. After an interruption
    the same command continues where it stopped.

    \b
    Examples:
      lenshpc sample diffusion-9f2c51ab --num 1000
      lenshpc sample diffusion-9f2c51ab --num 999 --site ./my.yaml --array-size 16
    """
    from lenshpc.launch.modes import writing_in
    from lenshpc.launch.sample import send_samples
    from lenshpc.run.samples import check_drawn, start_samples
    from lenshpc.worker import draw_share

    cluster = load_array_site(site, array_size)
    paths, plan, one = _require_finished(run, member)
    with writing_in(paths):
        samples = start_samples(paths, plan, one, num=num, seed=seed)
    if cluster and array_size:
        say_withheld(cluster)
        sent = send_samples(
            paths, plan, one, samples, cluster, seed=seed, array_size=array_size, draw=draw_share
        )
        advice = (
            f"array {sent['job'] or 'none'} of {len(sent['elements'])} jobs draws {samples.path}"
        )
        echo(json.dumps(sent, indent=1) if as_json else advice, err=not as_json)
        return
    with progress_bar("drawing") as progress:
        draw_share(str(paths.root), 0, 1, member, seed, progress)
    check_drawn(samples)
    made = {"samples": str(samples.path), "num": num}
    echo(json.dumps(made, indent=1) if as_json else f"samples: {samples.path}")


def _require_finished(run: str, index: int) -> tuple[RunPaths, Plan, Member]:
    """Return a run's member, or refuse one that cannot draw."""
    from lenshpc.errors import ConfigError, IncompleteError
    from lenshpc.launch.states import standings
    from lenshpc.registry import find_task
    from lenshpc.run.completion import find_lack
    from lenshpc.run.gate import format_incomplete
    from lenshpc.run.ownership import require_own
    from lenshpc.run.paths import find_run
    from lenshpc.run.plan import load_plan

    paths = find_run(run)
    require_own(paths)
    plan = load_plan(paths)
    if find_task(plan.recipe.task).generator is None:
        raise ConfigError(
            f"run {paths.name} is of task {plan.recipe.task}, which generates no images; give a "
            "run of task diffusion"
        )
    if index >= len(plan.members):
        raise ConfigError(
            f"run {paths.name} has members 0 to {len(plan.members) - 1}; give one of them"
        )
    member = plan.members[index]
    lack = find_lack(paths, plan, member)
    if lack:
        told = format_incomplete(paths, {member: lack}, standings(paths, plan))
        raise IncompleteError(told)
    return paths, plan, member
