"""What a run's members have written down about themselves: read in one pass over the folders."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenshpc.files import read_json
from lenshpc.run.completion import read_done
from lenshpc.run.paths import MemberPaths, RunPaths
from lenshpc.run.plan import Member, Plan


@dataclass(frozen=True, kw_only=True)
class Marks:
    """A member's own word; `seconds` were spent training, over all its processes' GPUs alike."""

    is_done: bool = False
    epoch: int = 0
    best_metric: float | None = None
    node: str = ""
    updated: float = 0.0
    seconds: float = 0.0
    seconds_per_epoch: float = 0.0


def read_marks(run: RunPaths, plan: Plan) -> Mapping[int, Marks]:
    """Return member index → its marks, for the members that have begun."""
    folder = run.root / "members"
    begun = _names(folder) if folder.is_dir() else set()
    return {
        member.index: _marks(run, plan, member) for member in plan.members if member.name in begun
    }


def _marks(run: RunPaths, plan: Plan, member: Member) -> Marks:
    paths = run.member(member.name)
    facts, lack = read_done(run, plan, member)
    if lack is None:
        return Marks(
            is_done=True,
            epoch=facts.get("epochs", 0),
            best_metric=facts.get("best_metric"),
            node=facts.get("host", ""),
            seconds=facts.get("seconds", 0.0),
        )
    names = _names(paths.root)
    state = read_json(paths.state) if paths.state.name in names else {}
    seconds = _epoch_seconds(paths) if paths.metrics.name in names else []
    return Marks(
        epoch=state.get("epoch", 0),
        best_metric=state.get("best_metric"),
        node=state.get("host", ""),
        updated=state.get("updated", 0.0),
        seconds=sum(seconds),
        seconds_per_epoch=sum(seconds) / len(seconds) if seconds else 0.0,
    )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _epoch_seconds(paths: MemberPaths) -> list[float]:
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in paths.metrics.read_text(encoding="utf-8").splitlines()
    ]
    return [line["seconds"] for line in lines]
