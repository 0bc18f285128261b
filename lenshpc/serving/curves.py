"""How members' metrics went, epoch by epoch, as far as they have written them down."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenshpc.errors import LensHpcError
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan
from lenshpc.run.records import read_lines

LARGEST = 1e100
Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class MemberCurve:
    """The metrics of a member: epoch (from 1), training loss, and the validation's `monitor`.

    A value that is not there, or no number of a usual size, is None.
    """

    member: int
    monitor: str
    epoch: tuple[int, ...] = ()
    train_loss: tuple[float | None, ...] = ()
    val: tuple[float | None, ...] = ()


class CurveReader:
    """Reads the curves of runs; a file that has not changed is not read again."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[Stamp, MemberCurve]] = {}

    def read(self, run: RunPaths, plan: Plan) -> tuple[MemberCurve, ...]:
        """Return a curve a member, in the order of the Plan; an empty one before its first epoch.

        What is wrong with a file is told by the member's status.
        """
        found = []
        for member in plan.members:
            path, monitor = run.member(member.name).metrics, plan.recipe_of(member).monitor[0]
            stamp = stamp_of([path])
            if self._read.get(path, (None,))[0] != stamp:
                self._read[path] = (stamp, _read_curve(path, member.index, monitor))
            found.append(self._read[path][1])
        return tuple(found)


def _read_curve(path: Path, member: int, monitor: str) -> MemberCurve:
    try:
        lines = read_lines(dict[str, Any], path)
    except (LensHpcError, OSError):
        lines = []
    # A member that went on has written its earlier epochs again, as 0.0, 1.0, ...
    lines = [line for line in lines if _number(line.get("epoch")) is not None]
    return MemberCurve(
        member=member,
        monitor=monitor,
        epoch=tuple(int(line["epoch"]) + 1 for line in lines),
        train_loss=tuple(_number(line.get("train_loss")) for line in lines),
        val=tuple(_number(line.get(f"val_{monitor}")) for line in lines),
    )


def _number(value: object) -> float | None:
    # A NaN is not smaller than anything.
    if isinstance(value, int | float) and abs(value) < LARGEST:
        return float(value)
    return None


def mean_over_members(curves: Sequence[MemberCurve]) -> list[float | None]:
    """Return the mean of the monitored metric for each epoch, over the members that have it."""
    values: dict[int, list[float]] = {}
    for curve in curves:
        for epoch, value in zip(curve.epoch, curve.val, strict=True):
            if value is not None:
                values.setdefault(epoch, []).append(value)
    last = max(values, default=0)
    means = {epoch: sum(some) / len(some) for epoch, some in values.items()}
    return [means.get(epoch) for epoch in range(1, last + 1)]


def stamp_of(paths: Sequence[Path]) -> Stamp:
    """Return what changes when a file is written or replaced, or a folder's names change."""
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, for thousands of files
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
