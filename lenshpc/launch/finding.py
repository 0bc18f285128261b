"""What is unusual about a cluster, in three parts: what was seen, what it means, what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["error", "warning", "note"]

LEVELS: tuple[Level, ...] = ("error", "warning", "note")  # in this order they are shown
NUM_NAMED = 4  # nodes of equal value


@dataclass(frozen=True, kw_only=True)
class ClusterFinding:
    """What was seen, what it means for a run, and what to do; `nodes` are those to be excluded."""

    level: Level
    what: str
    meaning: str = ""
    advice: str = ""
    nodes: tuple[str, ...] = ()


def format_values(values: Mapping[str, Any]) -> str:
    """Return `node1, node2 (value), node3 (another)`: nodes of equal value stand together."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(str(value) if value else "", []).append(name)
    return "; ".join(
        f"{format_names(nodes)} ({value})" if value else format_names(nodes)
        for value, nodes in names.items()
    )


def format_names(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
