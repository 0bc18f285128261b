"""CurveReader as SVG paths in a square of 100 by 100, which the page stretches to its width."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lenshpc.run.plan import Member
from lenshpc.serving.curves import MemberCurve

NUM_LOOKS = 8  # colours in serve.css
NUM_STEPS = 4  # between the lines of the grid, at most
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """A member's line: `points` as SVG has them, `look` the number of its colour, and its name."""

    points: str
    look: int
    member: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its ticks' labels, which lie at equal distances: `y` from the top down."""

    title: str
    strokes: tuple[Stroke, ...]
    x: tuple[str, ...]
    y: tuple[str, ...]
    grid: tuple[float, ...]


def name_groups(members: Sequence[Member]) -> list[str]:
    """Return what a member's colour stands for: its model, else its fold, else its seed."""
    for kind in ("model", "fold", "seed"):
        names = [f"{kind} {getattr(member, kind)}" for member in members]
        if len(set(names)) > 1:
            return names
    return [f"model {member.model}" for member in members]


def draw_chart(
    title: str, which: str, curves: Sequence[MemberCurve], members: Sequence[Member]
) -> Chart:
    """Return the chart of `train_loss` or `val` of all members."""
    groups = name_groups(members)
    looks = {group: at % NUM_LOOKS for at, group in enumerate(dict.fromkeys(groups))}
    lines = [_pairs(curve.epoch, getattr(curve, which)) for curve in curves]
    last = max((x for line in lines for x, _ in line), default=1)
    low, step, num = choose_ticks([y for line in lines for _, y in line])
    return Chart(
        title=title,
        strokes=tuple(
            Stroke(
                points=place(line, (1, max(last, 2)), (low, low + num * step)),
                look=looks[group],
                member=member.index,
                name=member.name,
            )
            for line, group, member in zip(lines, groups, members, strict=True)
            if line
        ),
        x=tuple(map(str, _epoch_ticks(int(max(last, 2))))),
        y=tuple(_label(low + at * step, step) for at in reversed(range(num + 1))),
        grid=tuple(100 * at / num for at in range(num + 1)),
    )


def draw_spark(values: Sequence[float | None]) -> str:
    """Return the points of a line without axes, from the lowest value to the highest."""
    line = _pairs(range(1, len(values) + 1), values)
    numbers = [y for _, y in line] or [0.0]
    return place(line, (1, max(len(values), 2)), (min(numbers), max(numbers)))


def _pairs(epochs: Iterable[int], values: Iterable[float | None]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(epochs, values, strict=True) if y is not None]


def place(line: Points, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    """Return the points of a line as SVG has them; a lone point twice, which draws a dot."""
    (left, right), (low, high) = x_range, y_range
    wide, tall = right - left, high - low
    places = [
        f"{100 * (x - left) / wide:.2f},{100 * (1 - (y - low) / tall) if tall else 50:.2f}"
        for x, y in line
    ]
    return " ".join(places * 2 if len(places) == 1 else places)


def choose_ticks(values: Sequence[float]) -> tuple[float, float, int]:
    """Return the lowest tick, the step, and how many steps cover the values; steps are round."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low <= 1e-9 * abs(high):  # equal but for rounding: the line lies in the middle
        low, high = low - (abs(low) / 10 or 1.0), high + (abs(high) / 10 or 1.0)
    rough = max((high - low) / NUM_STEPS, 1e-100)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * size for size in (1, 2, 2.5, 5, 10) if unit * size >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    return first * step, step, max(1, math.ceil(high / step - 1e-9) - first)


def _epoch_ticks(last: int) -> list[int]:
    """Return epochs at equal distances from the first to the last."""
    num = next((num for num in (4, 3, 2) if (last - 1) % num == 0), 1)
    return [1 + at * (last - 1) // num for at in range(num + 1)]


def _label(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step)))
    # A step of 2.5 has a digit more than its size tells.
    digits += not math.isclose(step * 10**digits, round(step * 10**digits))
    return f"{value:.{digits}f}" if 1e-4 <= step < 1e5 else f"{value:.3g}"
