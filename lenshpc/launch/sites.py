"""Site profiles: how a cluster is asked for work, strictly validated before anything reaches it."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, field_validator

from lenshpc.config import Count, Frozen, locate, read_yaml, validate
from lenshpc.errors import ConfigError, LensHpcError
from lenshpc.launch.slots import local_slots
from lenshpc.run.extras import require
from lenshpc.run.paths import RunPaths
from lenshpc.run.recipe import Recipe
from lenshpc.run.records import read_record
from lenshpc.run.sections import Memory, Minutes, Resources


def _single_line(text: str) -> str:
    if "\n" in text or "\r" in text or text.lstrip().startswith("#"):
        raise ValueError("must be one line that does not begin with '#'")
    return text


def _whole_line(text: str) -> str:
    # the shell would join it with the line that checks it, and a failure be lost
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise ValueError("must be a complete command, not continued after a backslash")
    return text


def _as_digits(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _not_schedulers(name: str) -> str:
    if name in SECRETS:
        raise ValueError(
            f"{name} would be written into every run; export it in your shell, or log in with the "
            "tracker's own command"
        )
    if name.startswith(("SLURM_", "SBATCH_", "SRUN_")):
        raise ValueError(
            f"{name} is set by SLURM; use a key of the profile, or sbatch and srun_args"
        )
    return name


SECRETS = {"WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"}
# What lenshpc sets from the recipe or a key of the profile, and what keeps sbatch from sending.
RESERVED = {"account", "array", "clusters", "comment", "constraint", "cpus-per-gpu"}
RESERVED |= {"cpus-per-task", "dependency", "error", "exclusive", "gpus", "gpus-per-node"}
RESERVED |= {"gpus-per-socket", "gpus-per-task", "gres", "help", "input", "job-name", "mem"}
RESERVED |= {"mem-per-cpu", "mem-per-gpu", "nodes", "no-requeue", "ntasks", "ntasks-per-gpu"}
RESERVED |= {"ntasks-per-node", "open-mode", "output", "parsable", "partition", "qos", "requeue"}
RESERVED |= {"reservation", "signal", "test-only", "time", "usage", "version", "wait", "wckey"}
RESERVED |= {"wrap"}
# These values reach #SBATCH lines and the shell of a batch script unquoted: no space, quote, `$`,
# `;`, backtick or new line may be added here. `Value` may have brackets, as in node[1-3].
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:@&|*+/=-]+$", max_length=200)]
Value = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:@&|*+/=\[\]-]+$", max_length=200)]
# Unquoted too: `#`, as in `registry.example.org#image`, begins no comment within a word.
Image = Annotated[str, Field(pattern=r"^[A-Za-z0-9_./][A-Za-z0-9_.,:@+=/#-]*$", max_length=200)]
# Quoted wherever it stands: `[rack1|rack2]`, `(a100|h100)&ib`.
Constraint = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:@&|*+/=()\[\]-]+$", max_length=200)]
# One line, and no comment: `#SBATCH` in it would be an option that no check has seen.
Line = Annotated[str, AfterValidator(_single_line)]
Command = Annotated[Line, AfterValidator(_whole_line)]
Variable = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_not_schedulers)
]
# 0027 without quotes is the number 27 to YAML, whose digits are the mask's all the same
Mask = Annotated[str, BeforeValidator(_as_digits), Field(pattern=r"^0{0,2}[2367][2367]$")]
Mount = Annotated[str, Field(pattern=r"^/[A-Za-z0-9_.+/-]*(:/[A-Za-z0-9_.+/-]*(:r[ow])?)?$")]
Tracking = Literal["tensorboard", "mlflow", "wandb"]
# keys that sbatch's own variables fill where the profile has none
VARIABLES = {
    key: f"SBATCH_{key.upper()}"
    for key in ("partition", "account", "qos", "constraint", "reservation", "wckey")
}
DEFAULTS = ("cpus_per_gpu", "mem_gb_per_gpu", "time_min")  # of `resources`, that a profile may set


class CpuJobs(Frozen):
    """Where jobs go that need no GPU: the report, a conversion, the joining of its shards.

    What is absent is the profile's. Where another partition is named, qos, constraint and
    reservation are not taken over, since they belong to the first.
    """

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Constraint | None = None
    mem_gb: Memory | None = Field(default=None, description="of a process")
    time_min: Minutes | None = None
    gpus: Literal[0, 1] = Field(default=0, description="1 where the site takes no job without")


class Site(Frozen):
    """Where a run goes: `local` queues over this machine's slots, `slurm` submits arrays."""

    name: str
    scheduler: Literal["local", "slurm"]
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Constraint | None = None
    reservation: Word | None = None
    wckey: Word | None = Field(default=None, description="workload key")
    max_nodes: Count | None = Field(default=None, description="nodes that a member may ask")
    gpus_per_node: Count | None = Field(default=None, description="GPUs that a node has")
    cpus_per_gpu: Count | None = Field(default=None, description="instead of the recipe's")
    mem_gb_per_gpu: Memory | None = Field(default=None, description="instead of the recipe's")
    time_min: Minutes | None = Field(default=None, description="instead of the recipe's")
    max_parallel: Count = Field(default=256, description="members that run at the same time")
    max_array_size: Count | None = Field(
        default=None, description="elements of one array; asked of the cluster if absent"
    )
    gpu_request: Literal["gpus-per-node", "gres", "none"] = Field(
        default="gpus-per-node", description="none: GPUs come with the node, unasked"
    )
    gpu_type: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=64)] | None = Field(
        default=None, description="of the GPU or MIG slice, as in a100:4"
    )
    mem_request: Literal["mem", "mem-per-cpu", "mem-per-gpu", "none"] = "mem"
    exclusive: bool = Field(default=False, description="members get whole nodes")
    cpu_jobs: CpuJobs = CpuJobs()
    env: dict[Variable, StrictInt | Line] = Field(default={}, description="exported before setup")
    interface: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$", max_length=64)] | None = Field(
        default=None, description="the network over which members on several nodes talk"
    )
    setup: tuple[Command, ...] = Field(
        default=(), description="shell commands before srun; one that fails ends the job"
    )
    umask: Mask | None = Field(
        default=None,
        description="of what jobs and commands write in a run; the command's if absent",
    )
    python: Word | None = Field(default=None, description="the interpreter on the nodes")
    container: Image | None = Field(
        default=None, description="an Apptainer image (.sif), or an image for srun's pyxis"
    )
    container_gpu: Literal["nv", "rocm", "none"] = "nv"
    bind: tuple[Mount, ...] = Field(default=(), description="what the container sees: A or A:B")
    srun_args: tuple[Word, ...] = ()
    sbatch: dict[str, Value | StrictInt | Literal[True]] = Field(
        default={}, description="further sbatch options; true gives one without a value"
    )
    tracking: tuple[Tracking, ...] = Field(
        default=(), description="what follows trainings: tensorboard, mlflow, wandb"
    )
    slots: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="local: how many GPUs, or cores, members take at a time"
    )

    @property
    def interpreter(self) -> str | None:
        """Return the command that starts Python on the nodes, if the profile says one."""
        if self.container is None or not self.container.endswith(".sif"):
            return self.python
        gpu = () if self.container_gpu == "none" else (f"--{self.container_gpu}",)
        binds = (f"--bind={mount}" for mount in self.bind)
        words = ("apptainer", "exec", *gpu, *binds, self.container, self.python or "python3")
        return " ".join(words)

    @property
    def step_args(self) -> tuple[str, ...]:
        """Return the further options of every srun."""
        if self.container is None or self.container.endswith(".sif"):
            return self.srun_args
        mounts = ",".join(one if ":" in one else f"{one}:{one}" for one in self.bind)
        more = (f"--container-mounts={mounts}",) if mounts else ()
        return (f"--container-image={self.container}", *more, *self.srun_args)

    @property
    def exports(self) -> dict[str, str]:
        """Return the variables that members get."""
        given = {name: str(value) for name, value in self.env.items()}
        if self.interface is None:
            return given
        # NCCL takes a name for the beginning of one, unless = stands before it
        return {
            "GLOO_SOCKET_IFNAME": self.interface,
            "NCCL_SOCKET_IFNAME": f"={self.interface}",
            **given,
        }

    @property
    def defaults(self) -> list[tuple[str, Any]]:
        """Return the recipe's keys that the profile sets, before those of the command line."""
        given = ((key, getattr(self, key)) for key in DEFAULTS)
        return [(f"resources.{key}", value) for key, value in given if value is not None]

    def without_gpu(self) -> "Site":
        """Return the site as a job is sent there that needs no GPU."""
        block = self.cpu_jobs
        own = block.model_dump(include={"partition", "account", "qos", "constraint"})
        given: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
        if block.partition is not None:
            given = dict.fromkeys(("qos", "constraint", "reservation")) | given
        if block.mem_gb is not None and self.mem_request == "none":
            given["mem_request"] = "mem"  # a node is shared there
        # nodes that are named for members of several nodes are too many for one process
        given["sbatch"] = {key: self.sbatch[key] for key in self.sbatch if key != "nodelist"}
        return self.model_copy(update={**given, "exclusive": False})

    @field_validator("sbatch")
    @classmethod
    def _option_names(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(
                    f"{name!r} is not an sbatch option; write it without the dashes of --{name}"
                )
            # A second value would win over ours in silence: a longer time limit, another array.
            if name in RESERVED:
                raise ValueError(f"{name!r} is set by lenshpc, from the recipe or a key of its own")
        return options


def load_site(name: str) -> Site:
    """Return a shipped site profile, or the one at a path.

    sbatch's own variables, such as SBATCH_ACCOUNT, fill what it leaves open.
    """
    path = locate("slurm", name)
    keys = read_yaml(path)
    return validate(Site, {"name": path.stem, **keys, **read_variables(keys)}, f"site {name}")


def profile_keys(name: str) -> dict[str, Any]:
    """Return what stands in a profile itself."""
    return read_yaml(locate("slurm", name))


def read_variables(keys: Mapping[str, Any]) -> dict[str, str]:
    """Return what sbatch's own variables say of the keys that a profile leaves open."""
    if keys.get("scheduler") != "slurm":
        return {}
    told = {key: os.environ.get(name) for key, name in VARIABLES.items() if key not in keys}
    return {key: value for key, value in told.items() if value}


def read_site(run: RunPaths) -> Site:
    """Return the site that a run was sent to last."""
    return read_record(Site, run.site)


def read_tracking(run: RunPaths) -> tuple[str, ...]:
    """Return what follows the trainings of a run; nothing where no site can be read."""
    try:
        return read_site(run).tracking
    except (LensHpcError, OSError):  # no reason for a member not to train
        return ()


def has_gpus(site: Site, size: Resources) -> bool:
    """Return whether members get GPUs: they ask for some, and this machine's queue has some."""
    on_gpus = bool(size.gpus_per_node)
    if site.scheduler == "local":
        return local_slots(1, on_gpus=on_gpus)[0].kind == "gpu"
    return on_gpus


def check_fits(site: Site, recipe: Recipe) -> None:
    """Refuse a recipe that asks for more than the site has, and trackers that are not installed."""
    for name in site.tracking:
        require(name, f"tracking by {name}")
    size = recipe.resources
    on_gpus = has_gpus(site, size)
    what = "GPUs a node" if on_gpus else "processes a node"
    limits = {
        "nodes": (size.nodes, 1 if site.scheduler == "local" else site.max_nodes),
        what: (size.processes_per_node, _most_processes(site, on_gpus=on_gpus)),
    }
    for what, (asked, limit) in limits.items():
        if limit is not None and asked > limit:
            raise ConfigError(
                f"a member asks for {asked} {what}, site {site.name} has {limit}; "
                f"lower resources or choose another --site"
            )


def _most_processes(site: Site, *, on_gpus: bool) -> int | None:
    """Return how many processes of a member fit on a node, None where that is not known."""
    limit = site.gpus_per_node if on_gpus else None
    if limit is None and site.scheduler == "local":
        return len(local_slots(site.slots, on_gpus=on_gpus))
    return limit
