"""What a run's members have written down about themselves: read in one pass over the folders."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from lenshpc.config import Frozen, validate
from lenshpc.errors import LensHpcError, read_error
from lenshpc.launch.sites import has_gpus, read_site
from lenshpc.run.completion import read_done
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.records import read_lines, read_record


@dataclass(frozen=True, kw_only=True)
class Marks:
    """A member's own word; `seconds` were spent training, over all its processes' GPUs alike.

    `fraction` of the epoch after `epoch` is trained; `left_s` is what training takes from `updated`
    on, as it was estimated then; `curve` has the monitored metric, an epoch each. `adopted` is the
    member of another run that it was taken over from, where this run spent nothing. `fault` says
    which of its files tells nothing, or why its mark does not count.
    """

    is_done: bool = False
    is_trained: bool = False
    epoch: int = 0
    best_metric: float | None = None
    node: str = ""
    device: str = ""
    updated: float = 0.0
    seconds: float = 0.0
    fraction: float = 0.0
    left_s: float | None = None
    curve: tuple[float, ...] = ()
    adopted: str = ""
    fault: str = ""


class Told(Frozen):
    """What is read of state.json and of done.json, which have more."""

    model_config = ConfigDict(extra="ignore")

    epoch: int = 0
    epochs: int = 0
    best_metric: float | None = None
    host: str = ""
    device: str = ""
    updated: float = 0.0
    seconds: float = 0.0
    adopted: str = ""
    step: int = 0
    steps: int = 0
    left_s: float | None = None


def read_marks(run: RunPaths, plan: Plan) -> Mapping[int, Marks]:
    """Return member index → its marks, for the members that have begun."""
    folder = run.root / "members"
    try:
        begun = _names(folder)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise read_error(folder, error) from error
    return {
        member.index: _marks(run, plan, member) for member in plan.members if member.name in begun
    }


def had_gpus(run: RunPaths, plan: Plan, marks: Mapping[int, Marks]) -> bool:
    """Return whether members had GPUs, or are to get some: by those that are done, or the site."""
    # Of one that was taken over, another run's site decided.
    devices = {one.device for one in marks.values() if one.device and not one.adopted}
    if devices:
        return "cpu" not in devices
    try:
        return has_gpus(read_site(run), plan.recipe.resources)
    except (LensHpcError, OSError):  # it was never sent, or tells nothing
        return bool(plan.recipe.resources.gpus_per_node)


def _marks(run: RunPaths, plan: Plan, member: Member) -> Marks:
    paths = run.member(member.name)
    facts, lack = read_done(run, plan, member)
    try:
        history = read_lines(dict[str, float], paths.metrics)
        curve = _curve(history, f"val_{plan.recipe_of(member).monitor[0]}")
        if lack is None:
            return _marks_of_done(validate(Told, facts, str(paths.done)), curve)
        state = read_record(Told, paths.state) if paths.state.exists() else Told()
        has_mark = paths.done.exists()
    except LensHpcError as error:  # of people's interest alone: it stops no command
        return Marks(is_done=lack is None, fault=str(error))
    except OSError as error:
        return Marks(fault=str(read_error(paths.root, error)))
    return Marks(
        is_trained=paths.progress.exists(),
        epoch=state.epoch,
        best_metric=state.best_metric,
        node=state.host,
        updated=state.updated,
        seconds=sum(line.get("seconds", 0.0) for line in history),
        fraction=min(state.step / state.steps, 1.0) if state.steps else 0.0,
        left_s=state.left_s,
        curve=curve,
        fault=str(lack) if has_mark else "",
    )


def _curve(history: list[dict[str, float]], name: str) -> tuple[float, ...]:
    return tuple(line[name] for line in history if math.isfinite(line.get(name, math.nan)))


def _marks_of_done(told: Told, curve: tuple[float, ...]) -> Marks:
    return Marks(
        is_done=True,
        epoch=told.epochs,
        best_metric=told.best_metric,
        node=told.host,
        device=told.device,
        seconds=0.0 if told.adopted else told.seconds,
        adopted=told.adopted,
        curve=curve,
    )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
