"""Site profiles: how a cluster is asked for work, strictly validated before anything reaches it."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictInt, field_validator

from lenshpc.config import Count, Frozen, locate, read_yaml, validate
from lenshpc.errors import ConfigError
from lenshpc.run.paths import RunPaths
from lenshpc.run.recipe import Recipe
from lenshpc.run.records import read_record
from lenshpc.run.sections import Memory


def _single_line(text: str) -> str:
    if "\n" in text or "\r" in text or text.lstrip().startswith("#"):
        raise ValueError("must be one line that does not begin with '#'")
    return text


RESERVED = {"account", "array", "comment", "constraint", "cpus-per-task", "dependency", "error"}
RESERVED |= {"gpus-per-node", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode"}
RESERVED |= {"no-requeue", "output", "partition", "qos", "requeue", "reservation", "signal"}
RESERVED |= {"time", "wckey", "wrap"}
# These values reach #SBATCH lines and the shell of a batch script unquoted: no space, quote, `$`,
# `;`, backtick or new line may be added here. `Value` may have brackets, as in node[1-3].
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:@&|*+/=-]+$", max_length=200)]
Value = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:@&|*+/=\[\]-]+$", max_length=200)]
# One line, and no comment: `#SBATCH` in it would be an option that no check has seen.
Line = Annotated[str, AfterValidator(_single_line)]


class Site(Frozen):
    """Where a run goes: `local` queues over this machine's slots, `slurm` submits arrays."""

    name: str
    scheduler: Literal["local", "slurm"]
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    reservation: Word | None = None
    max_nodes: Count | None = Field(default=None, description="nodes that a member may ask")
    gpus_per_node: Count | None = Field(default=None, description="GPUs that a node has")
    cpus_per_gpu: Count | None = Field(default=None, description="instead of the recipe's")
    mem_gb_per_gpu: Memory | None = Field(default=None, description="instead of the recipe's")
    max_parallel: Count = Field(default=256, description="members that run at the same time")
    max_array_size: Count | None = Field(
        default=None, description="elements of one array; asked of the cluster if absent"
    )
    setup: tuple[Line, ...] = Field(default=(), description="shell lines before srun")
    python: Word | None = Field(default=None, description="the interpreter on the nodes")
    container: Word | None = Field(
        default=None, description="an Apptainer image (.sif), or an image for srun's pyxis"
    )
    srun_args: tuple[Word, ...] = ()
    sbatch: dict[str, Value | StrictInt | Literal[True]] = Field(
        default={}, description="further sbatch options; true gives one without a value"
    )
    slots: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="local: members' GPUs at a time"
    )

    @property
    def interpreter(self) -> str | None:
        """Return the command that starts Python on the nodes, if the profile says one."""
        if self.container is None or not self.container.endswith(".sif"):
            return self.python
        return f"apptainer exec --nv {self.container} {self.python or 'python3'}"

    @property
    def step_args(self) -> tuple[str, ...]:
        """Return the further options of every srun."""
        if self.container is None or self.container.endswith(".sif"):
            return self.srun_args
        return (f"--container-image={self.container}", *self.srun_args)

    @property
    def options(self) -> dict[str, str | int]:
        """Return the further options of sbatch."""
        return {**({"reservation": self.reservation} if self.reservation else {}), **self.sbatch}

    @field_validator("sbatch")
    @classmethod
    def _option_names(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(
                    f"{name!r} is no sbatch option; write it as in --{name}, no dashes"
                )
            # A second value would win over ours in silence: a longer time limit, another array.
            if name in RESERVED:
                raise ValueError(f"{name!r} is set by lenshpc, from the recipe or a key of its own")
        return options


def load_site(name: str) -> Site:
    """Return a shipped site profile, or the one at a path."""
    path = locate("slurm", name)
    return validate(Site, {"name": path.stem, **read_yaml(path)}, f"site {name}")


def read_site(run: RunPaths) -> Site:
    """Return the site that a run was sent to last."""
    return read_record(Site, run.site)


def check_fits(site: Site, recipe: Recipe) -> None:
    """Refuse a recipe that asks for more than the site has."""
    size = recipe.resources
    limits = {
        "nodes": (size.nodes, 1 if site.scheduler == "local" else site.max_nodes),
        "GPUs a node": (size.gpus_per_node, site.gpus_per_node or _local_slots(site)),
    }
    for what, (asked, limit) in limits.items():
        if limit is not None and asked > limit:
            raise ConfigError(
                f"a member asks for {asked} {what}, site {site.name} has {limit}; "
                f"lower resources or choose another --site"
            )


def _local_slots(site: Site) -> int | None:
    return len(local_slots(site)) if site.scheduler == "local" else None


def local_slots(site: Site) -> list[int]:
    """Return the numbers of this machine's GPUs, or of its processor cores where it has none."""
    gpus = local_gpus()
    slots = gpus or list(range(len(os.sched_getaffinity(0))))
    return slots[: site.slots] if gpus or site.slots is None else list(range(site.slots))


def local_gpus() -> list[int]:
    """Return the numbers of the NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = sorted(int(path.name[6:]) for path in Path("/dev").glob("nvidia[0-9]*"))
    if visible is None:
        return found
    return [int(text) for text in visible.split(",") if text.strip().isdigit()]
