"""What is known of a cluster: SLURM's description of itself, and its nodes' word."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, str]

NAMED = re.compile(r"\s*(NodeName|PartitionName)=\S")
SETTING = re.compile(r"([A-Za-z]\w*(?:\[[0-9]+\])?) += ?(.*)", re.DOTALL)
KEY = re.compile(r"(?:^|(?<=\s))([A-Z][\w/]*)=")
GPUS = re.compile(r"(?:^|,)gpu(?::[A-Za-z][\w.-]*)?:([0-9]{1,4})(?=[,(]|$)")
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
    pairs = (SETTING.fullmatch(line.rstrip()) for line in text.split("\n"))
    return {pair[1]: pair[2] for pair in pairs if pair}


def parse_records(text: str) -> tuple[dict[str, str], ...]:
    """Return the lines of `scontrol -o show node` or `partition` as keys and values.

    A line that does not begin with the name of one is passed over.
    """
    lines = (line for line in text.split("\n") if NAMED.match(line))
    return tuple(dict(_read_pairs(line)) for line in lines)


def _read_pairs(line: str) -> Iterator[tuple[str, str]]:
    """Yield the keys of a line, each with all up to the next one: a reason has blanks in it."""
    first: dict[str, re.Match[str]] = {}
    for key in KEY.finditer(line):
        first.setdefault(key[1], key)  # an admin's reason may tell of `State=IDLE` too
    keys = list(first.values())
    ends = [*(key.start() for key in keys[1:]), len(line)]
    for key, end in zip(keys, ends, strict=True):
        yield key[1], line[key.end() : end].strip()


def usable(nodes: Iterable[Record], partition: str) -> tuple[Record, ...]:
    """Return the nodes of a partition that can take jobs."""
    mine = (node for node in nodes if partition in node.get("Partitions", "").split(","))
    return tuple(node for node in mine if not UNUSABLE.search(node.get("State", "UNKNOWN")))


def fits(node: Record, constraint: str | None) -> bool:
    """Return whether a node has the features of a constraint, such as `a100&ib|h100` or `ib*2`."""
    if constraint is None:
        return True
    features = set(node.get("AvailableFeatures", "").split(","))
    choices = (re.split("[&,]", choice) for choice in constraint.split("|"))
    return any({word.partition("*")[0] for word in words} <= features for words in choices)


def num_gpus(node: Record) -> int:
    """Return the number of GPUs in `gpu:4`, `gpu:a100:4(S:0-1)` or `gpu:a:2,gpu:b:2`."""
    counts = re.findall(GPUS, node.get("Gres", ""))
    return sum(map(int, counts))


def parse_minutes(limit: str) -> int | None:
    """Return the minutes in `2-00:00:00` or `04:30:00`; None of `UNLIMITED` and the like."""
    found = re.fullmatch("(?:([0-9]{1,6})-)?([0-9]{1,6}):([0-9]{2}):([0-9]{2})", limit)
    if found is None:
        return None
    return int(found[1] or 0) * 1440 + int(found[2]) * 60 + int(found[3])
