"""What is known of a cluster: SLURM's description of itself, and its nodes' word."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, str]

UNUSABLE = re.compile(r"DOWN|DRAIN|FAIL|MAINT|NOT_RESPONDING|POWER|INVAL|UNKNOWN|\*")


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node's probe told: `bare` from a plain srun, `asked` from one with --cpus-per-task.

    Both are empty where it did not come back; `log` is then what its job printed. The probe ran
    between `began` and `ended` by this machine's clock.
    """

    bare: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""
    has_ended: bool = True
    began: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a cluster; speeds of --preflight are empty where it was not asked for."""

    config: Record
    partition: Record
    nodes: tuple[Record, ...]
    accounting_error: str = ""
    token: str = ""
    reports: Mapping[str, NodeReport] = field(default_factory=dict)
    num_cpus: int = 2
    with_gpu: bool = False
    product_tflops: Mapping[str, float] = field(default_factory=dict)
    all_reduce_gb_per_s: Mapping[str, float] = field(default_factory=dict)


def parse_config(text: str) -> dict[str, str]:
    """Return the keys of `scontrol show config`."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def parse_records(text: str) -> tuple[dict[str, str], ...]:
    """Return the lines of `scontrol -o show node` or `partition` as keys and values."""
    pattern = re.compile(r"(?:^|\s)([A-Z]\w*)=(.*?)(?=\s+[A-Z][\w/]*=|\s*$)")
    return tuple(dict(pattern.findall(line)) for line in text.splitlines() if "=" in line)


def usable(nodes: Iterable[Record], partition: str) -> tuple[Record, ...]:
    """Return the nodes of a partition that can take jobs."""
    return tuple(
        node
        for node in nodes
        if partition in node.get("Partitions", "").split(",") and not UNUSABLE.search(node["State"])
    )


def fits(node: Record, constraint: str | None) -> bool:
    """Return whether a node has the features of a constraint, such as `a100&ib|h100` or `ib*2`."""
    if constraint is None:
        return True
    features = set(node.get("AvailableFeatures", "").split(","))
    choices = (re.split("[&,]", choice) for choice in constraint.split("|"))
    return any({word.partition("*")[0] for word in words} <= features for words in choices)


def num_gpus(node: Record) -> int:
    """Return the number of GPUs in `gpu:4`, `gpu:a100:4(S:0-1)` or `gpu:a:2,gpu:b:2`."""
    counts = re.findall(r"(?:^|,)gpu(?::[A-Za-z][\w.-]*)?:(\d+)", node.get("Gres", ""))
    return sum(map(int, counts))
