"""What a run's members have written down about themselves: read in one pass over the folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from lenshpc.config import Frozen, validate
from lenshpc.errors import LensHpcError, read_error
from lenshpc.run.completion import read_done
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.records import read_lines, read_record


@dataclass(frozen=True, kw_only=True)
class Marks:
    """A member's own word; `seconds` were spent training, over all its processes' GPUs alike.

    `adopted` is the member of another run that it was taken over from, where this run spent
    nothing. `fault` says which of its files tells nothing, or why its mark does not count.
    """

    is_done: bool = False
    epoch: int = 0
    best_metric: float | None = None
    node: str = ""
    device: str = ""
    updated: float = 0.0
    seconds: float = 0.0
    seconds_per_epoch: float = 0.0
    adopted: str = ""
    fault: str = ""


class Told(Frozen):
    """What is read of state.json, of done.json and of a line of metrics.jsonl, which have more."""

    model_config = ConfigDict(extra="ignore")

    epoch: int = 0
    epochs: int = 0
    best_metric: float | None = None
    host: str = ""
    device: str = ""
    updated: float = 0.0
    seconds: float = 0.0
    adopted: str = ""


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


def _marks(run: RunPaths, plan: Plan, member: Member) -> Marks:
    paths = run.member(member.name)
    facts, lack = read_done(run, plan, member)
    try:
        if lack is None:
            return _marks_of_done(validate(Told, facts, str(paths.done)))
        state = read_record(Told, paths.state) if paths.state.exists() else Told()
        seconds = [line.seconds for line in read_lines(Told, paths.metrics)]
        has_mark = paths.done.exists()
    except LensHpcError as error:  # of people's interest alone: it stops no command
        return Marks(is_done=lack is None, fault=str(error))
    except OSError as error:
        return Marks(fault=str(read_error(paths.root, error)))
    return Marks(
        epoch=state.epoch,
        best_metric=state.best_metric,
        node=state.host,
        updated=state.updated,
        seconds=sum(seconds),
        seconds_per_epoch=sum(seconds) / len(seconds) if seconds else 0.0,
        fault=str(lack) if has_mark else "",
    )


def _marks_of_done(told: Told) -> Marks:
    return Marks(
        is_done=True,
        epoch=told.epochs,
        best_metric=told.best_metric,
        node=told.host,
        device=told.device,
        seconds=0.0 if told.adopted else told.seconds,
        adopted=told.adopted,
    )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
