"""How a site is asked: options of sbatch, and what scripts say for a profile."""

import math
import shlex
import sys
from typing import Any

from lenshpc.launch.sites import VARIABLES, Site

Options = dict[str, Any]  # of sbatch without dashes; True is an option without a value

MB = 1024  # in a GB, as SLURM counts


def ask_place(site: Site) -> Options:
    """Return where a job goes, and the profile's further options."""
    given = {key: getattr(site, key) for key in VARIABLES}
    own = {key: value for key, value in given.items() if value is not None}
    return {**own, **({"exclusive": True} if site.exclusive else {}), **site.sbatch}


def ask_gpus(site: Site, count: int) -> Options:
    """Return how `count` GPUs of a node are asked for, none where they come unasked."""
    if not count or site.gpu_request == "none":
        return {}
    typed = f"{site.gpu_type}:{count}" if site.gpu_type else str(count)
    return {"gres": f"gpu:{typed}"} if site.gpu_request == "gres" else {"gpus-per-node": typed}


def ask_memory(site: Site, mem_gb: float, *, cpus: int, gpus: int) -> Options:
    """Return how the memory of a node is asked for, where a job has so many CPUs and GPUs on it.

    Memory a GPU is memory a node for a job without GPUs, and where they come unasked.
    """
    if site.mem_request == "none":
        return {}
    gpus = 0 if site.gpu_request == "none" else gpus
    shares = {"mem-per-cpu": cpus, "mem-per-gpu": gpus}.get(site.mem_request, 0)
    if not shares:
        return {"mem": f"{_whole(mem_gb * MB)}M"}
    return {site.mem_request: f"{_whole(mem_gb * MB / shares)}M"}


def _whole(megabytes: float) -> int:
    # Never 0, which stands for all memory of a node; up, but not for what a float leaves over.
    return max(1, math.ceil(round(megabytes, 3)))


def format_options(options: Options) -> list[str]:
    """Return options as sbatch's arguments."""
    given = options.items()
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in given]


def format_exports(site: Site) -> list[str]:
    """Return the lines of a script that set the profile's variables."""
    return [f"export {name}={shlex.quote(value)}" for name, value in site.exports.items()]


def choose_python(site: Site) -> str:
    """Return the command that starts Python on the nodes: the one here if the profile has none."""
    return site.interpreter or shlex.quote(sys.executable)
