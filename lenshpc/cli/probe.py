"""What `lenshpc submit --probe` prints: the batches that fit, how fast they are, what to set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lenshpc.cli.show import echo

if TYPE_CHECKING:
    from lenshpc.launch.sites import Site
    from lenshpc.run.planning import PlannedRun
    from lenshpc.run.probed import ProbedBatch
    from lenshpc.run.recipe import Recipe


def show_probe(planned: PlannedRun, site: Site, *, as_json: bool) -> None:
    """Probe the batches of a run's first member on its site, and print what was found."""
    from lenshpc.api.progress import telling
    from lenshpc.launch.probing import probe_batches
    from lenshpc.worker import probe_batches as call

    with telling("probe") as tell:
        found = probe_batches(planned, site, call, tell)
    recipe = planned.plan.recipe_of(planned.plan.members[0])
    settings = list_settings(recipe, max(one.batch_size for one in found if one.fits))
    if as_json:
        lines = [one.model_dump(mode="json") for one in found]
        echo(json.dumps({"model": recipe.models[0], "batches": lines, "set": settings}, indent=1))
        return
    echo(describe_probe(recipe, found))
    told = " ".join(f"--set {key}={json.dumps(leaf)}" for key, leaf in settings.items())
    echo(f"the largest that fits: {told}")


def list_settings(recipe: Recipe, share: int) -> dict[str, float | None]:
    """Return the keys for a step of so many images at once a process.

    The learning rate grows as the batch does (P. Goyal et al. 2017, arXiv 1706.02677).
    """
    train = recipe.train
    keys = {"train.batch_size": share * recipe.resources.world_size * train.accumulate}
    if train.lr_per_256 is not None:
        return {**keys}
    rate = float(f"{train.rate * 256 / train.batch_size:.3g}")
    return {**keys, "train.lr": None, "train.lr_per_256": rate}


def describe_probe(recipe: Recipe, found: list[ProbedBatch]) -> str:
    """Return a table of what was tried on one process."""
    lines = [f"{recipe.models[0]}, images that a process takes at once"]
    lines += [f"{'images':>8}  {'images/s':>10}  {'memory':>9}"]
    for one in found:
        memory = "" if one.memory_gb is None else f"{one.memory_gb:.2f} GB"
        speed = f"{one.images_per_s:.0f}" if one.images_per_s else ""
        line = f"{one.batch_size:>8}  {speed:>10}  {memory:>9}"
        lines.append(line if one.fits else f"{line}  too large")
    if found[-1].fits:
        lines.append("a larger one would be more than the fold has training rows")
    return "\n".join(lines)
