"""What is known of a cluster: SLURM's description of itself, and its nodes' word."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, str]

NAMED = re.compile(r"\s*(NodeName|PartitionName)=\S")
SETTING = re.compile(r"([A-Za-z]\w*(?:\[[0-9]+\])?) += ?(.*)", re.DOTALL)
KEY = re.compile(r"(?:^|(?<=\s))([A-Z][\w/]*)=")
COUNT = re.compile("[0-9]{1,4}")
MIG = re.compile(r"(?:^|[._-])[0-9]g\.[0-9]{1,3}gb")
UNUSABLE = {"DOWN", "DRAIN", "DRAINED", "DRAINING", "ERROR", "FAIL", "FAILED", "FAILING"}
UNUSABLE |= {"FUTURE", "INVAL", "INVALID", "MAINT", "NOT_RESPONDING", "UNKNOWN", "*"}
BOOTING = {"POWERING_UP", "POWER_UP", "#"}
ASLEEP = BOOTING | {"POWER_SAVE", "POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN", "POWER"}
ASLEEP |= {"~", "%", "!"}


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
class Limit:
    """What a user, an account or a QOS may have at a time; None where there is no limit."""

    of: str
    jobs: int | None = None
    submitted: int | None = None
    minutes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """What the accounting knows of this user: accounts, the one charged by default, limits."""

    error: str = ""
    accounts: tuple[str, ...] = ()
    default: str = ""
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How sbatch takes jobs: the profile's `keys` where another way than the usual is needed.

    `cpu_refused` says why a job without a GPU is not taken in the partition.
    """

    keys: Mapping[str, Any] = field(default_factory=dict)
    cpu_refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a cluster; speeds of --preflight are empty where it was not asked for.

    `cpu_partitions` may take jobs without a GPU, the likeliest first; `unexamined` are nodes that
    got no probe since they are switched off; `settled` are keys that the profile has already.
    `unmeasured` are nodes whose measurement was killed, with the line that says so.
    `nodes` are those that may be used; `gpu_types` those of all that fit the constraint.
    """

    config: Record
    partition: Record
    nodes: tuple[Record, ...]
    gpu_types: Mapping[str, int] = field(default_factory=dict)
    cpu_partitions: tuple[str, ...] = ()
    accounting: Accounting = Accounting()
    asking: Asking = Asking()
    unexamined: tuple[str, ...] = ()
    settled: frozenset[str] = frozenset()
    token: str = ""
    reports: Mapping[str, NodeReport] = field(default_factory=dict)
    num_cpus: int = 2
    with_gpu: bool = False
    product_tflops: Mapping[str, float] = field(default_factory=dict)
    all_reduce_gb_per_s: Mapping[str, float] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)


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
    """Return the nodes of a partition that take jobs, those that are switched on for one too."""
    mine = (node for node in nodes if partition in node.get("Partitions", "").split(","))
    return tuple(node for node in mine if is_usable(node))


def is_usable(node: Record) -> bool:
    """Return whether a node takes jobs, at once or after it was switched on."""
    flags = _flags(node)
    # A node that boots does not respond yet.
    return not flags & (UNUSABLE - {"NOT_RESPONDING"} if flags & BOOTING else UNUSABLE)


def is_asleep(node: Record) -> bool:
    """Return whether a node is switched off to save power or money, or is on its way."""
    return bool(_flags(node) & ASLEEP)


def _flags(node: Record) -> frozenset[str]:
    """Return the words of `IDLE+CLOUD+POWERED_DOWN`, and the sign in the short form `IDLE~`."""
    return frozenset(re.findall(r"[A-Z_]+|[*~#%!]", node.get("State", "UNKNOWN")))


def count_gpus(node: Record) -> dict[str, int]:
    """Return type → number of the GPUs in `gpu:4` or `gpu:2080ti:8(S:0-1),gpu:1g.5gb:7`.

    A type is free text, "" where none is told; the count is the last word of an entry.
    """
    counts: dict[str, int] = {}
    for entry in re.sub(r"\([^()]*(?:\)|$)", "", node.get("Gres", "")).split(","):
        name, *kinds, count = entry.strip().split(":") if ":" in entry else ("", "")
        if name == "gpu" and COUNT.fullmatch(count):
            kind = ":".join(word for word in kinds if word != "no_consume")
            counts[kind] = counts.get(kind, 0) + int(count)
    return counts


def count_types(nodes: Iterable[Record]) -> dict[str, int]:
    """Return type → number of the GPUs that nodes have together."""
    counts = Counter[str]()
    for node in nodes:
        counts.update(count_gpus(node))
    return dict(sorted(counts.items()))


def num_gpus(node: Record) -> int:
    """Return the number of GPUs, or of slices of them, that a node has."""
    return sum(count_gpus(node).values())


def keep_type(nodes: Iterable[Record], kind: str | None) -> tuple[Record, ...]:
    """Return the nodes that have GPUs of a type, as if they had no others; None is any type."""
    if kind is None:
        return tuple(nodes)
    counts = ((node, count_gpus(node).get(kind, 0)) for node in nodes)
    return tuple({**node, "Gres": f"gpu:{kind}:{count}"} for node, count in counts if count)


def is_slice(kind: str) -> bool:
    """Return whether a type of GPU is a slice of one (MIG), such as `1g.5gb`."""
    return MIG.search(kind) is not None


def parse_minutes(limit: str) -> int | None:
    """Return the minutes in `2-00:00:00` or `04:30:00`; None of `UNLIMITED`, `INFINITE`, …."""
    found = re.fullmatch("(?:([0-9]{1,6})-)?([0-9]{1,6}):([0-9]{2}):([0-9]{2})", limit)
    if found is None:
        return None
    return int(found[1] or 0) * 1440 + int(found[2]) * 60 + int(found[3])
