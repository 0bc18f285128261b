"""Tasks, networks and losses by name, found through entry points and imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from lenshpc.config import unknown
from lenshpc.errors import ConfigError, one_line
from lenshpc.registry.contract import Readout, TaskKind, TaskSettings, TaskSpec
from lenshpc.registry.user_files import is_kept_file, load_file

OURS = "lenshpc"
Group = Literal["networks", "losses"]
WORDS = MappingProxyType({"networks": "network", "losses": "loss"})


def task_names() -> list[str]:
    """Return the names of the installed tasks."""
    return sorted(_entries("tasks"))


def find_task(name: str) -> TaskKind:
    """Return a task by its name; ConfigError where there is none, or it does not import."""
    entries = _entries("tasks")
    if not entries:
        raise ConfigError(
            "the installation of lenshpc is incomplete: it declares no task; install it again "
            "with: pip install -c constraints.txt ."
        )
    if name not in entries:
        raise ConfigError(unknown("task", name, sorted(entries)))
    kind = _load_entry(f"task {name}", entries[name])
    if not isinstance(kind, TaskKind):
        raise ConfigError(f"task {name} of {origin_of(entries[name][0])} is not a lenshpc TaskKind")
    return kind


def find_readout(task: str, owner: str) -> type[Readout]:
    """Return what reads the outputs of a task's members; ConfigError where it has no readout.

    `owner` is the run or the export that is asked.
    """
    kind = find_task(task)
    if kind.readout is not None:
        readout: type[Readout] = load(kind.readout)
        return readout
    advice = "draw images with: lenshpc sample" if kind.generator else "name a run of another task"
    raise ConfigError(f"{owner} is of task {task}, which predicts nothing for new images; {advice}")


def component_names(group: Group, family: str) -> list[str]:
    """Return the names of a family's registered networks or losses."""
    prefix = f"{family}."
    return sorted(n.removeprefix(prefix) for n in _entries(group) if n.startswith(prefix))


def families_of(group: Group, name: str) -> list[str]:
    """Return the families that have a network or loss of that name."""
    return sorted(n.rpartition(".")[0] for n in _entries(group) if n.rpartition(".")[2] == name)


def find_component(
    group: Group, family: str, name: str, code: Path | None = None
) -> Callable[[TaskSpec], Any] | None:
    """Return what builds a registered network or loss, or one of a file; None of another name."""
    if is_kept_file(name):
        return load_file(name, code)
    key = f"{family}.{name}"
    if key not in _entries(group):
        return None
    made: Callable[[TaskSpec], Any] = _load_entry(f"{WORDS[group]} {name}", _entries(group)[key])
    return made


def build_component(group: Group, spec: TaskSpec, name: str) -> Any:
    """Return a network or loss, built; ConfigError where the task's family has none of the name."""
    family = spec.settings.family
    make = find_component(group, family, name, spec.code)
    if make is None:
        known = component_names(group, family)
        raise ConfigError(unknown(f"{WORDS[group]} of {family}", name, known))
    return make(spec) if group == "networks" else _one_a_row(name, make(spec))


def _one_a_row(name: str, loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loss that refuses to give anything but a number for each row of its outputs."""

    def loss_of(outputs: Any, *others: Any) -> Any:
        found = loss(outputs, *others)
        # The mean of a scalar or of (B, K) would train all the same, at another scale.
        if (shape := getattr(found, "shape", None)) != outputs.shape[:1]:
            raise ConfigError(
                f"loss {name} returns {type(found).__name__ if shape is None else tuple(shape)} "
                f"for {len(outputs)} images; expected ({len(outputs)},): one number for each"
            )
        return found

    return loss_of


def load(reference: str) -> Any:
    """Return what `module:name` refers to; ConfigError where the module has no such name."""
    module, _, name = reference.partition(":")
    found = importlib.import_module(module)
    if not hasattr(found, name):
        raise ConfigError(f"{module} has no {name!r}, which its task names; correct the TaskKind")
    return getattr(found, name)


def plugins_of(task: str, settings: TaskSettings, networks: Iterable[str]) -> dict[str, str]:
    """Return distribution → version of all that a recipe uses and that is not ours.

    ConfigError where two packages declare one of the names.
    """
    family = settings.family
    used = [("tasks", "task", "", task)]
    used += [("networks", "network", f"{family}.", name) for name in networks]
    used += [("losses", "loss", f"{family}.", name) for name in settings.losses]
    plugins: dict[str, str] = {}
    for group, word, prefix, name in used:
        entries = _entries(group).get(f"{prefix}{name}", ())
        _check_one(f"{word} {name}", entries)
        plugins |= {
            entry.dist.name: entry.dist.version
            for entry in entries
            if entry.dist is not None and entry.dist.name != OURS
        }
    return plugins


def missing_plugins(plugins: Mapping[str, str]) -> list[str]:
    """Return those of distribution → version that are not installed; another version will do."""
    if not plugins:  # most have none, and to look costs more than all else of reading a Plan
        return []
    installed = {entry.dist.name for entry in plugin_entries() if entry.dist is not None}
    return [f"{name} {version}" for name, version in plugins.items() if name not in installed]


def plugin_entries() -> list[EntryPoint]:
    """Return all entries that other distributions declare."""
    groups = ("tasks", "networks", "losses")
    entries = (entry for group in groups for same in _entries(group).values() for entry in same)
    return [entry for entry in entries if entry.dist is not None and entry.dist.name != OURS]


def origin_of(entry: EntryPoint) -> str:
    """Return who declares an entry: distribution and version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


@cache
def _entries(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Return name → the entries that declare it: one, unless two packages take the same name."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=f"{OURS}.{group}"):
        same = found.get(entry.name, ())
        if entry.value not in {one.value for one in same}:
            found[entry.name] = (*same, entry)
    return found


def _check_one(what: str, entries: tuple[EntryPoint, ...]) -> None:
    """Refuse a name that several packages declare; whoever asks for another is not stopped."""
    if len(entries) > 1:
        both = " and ".join(map(origin_of, entries))
        raise ConfigError(f"{what} is declared by {both}; uninstall one of them")


def _load_entry(what: str, entries: tuple[EntryPoint, ...]) -> Any:
    _check_one(what, entries)
    (entry,) = entries
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        if entry.dist is not None and entry.dist.name == OURS:
            raise
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(
            f"{what} of {origin_of(entry)} cannot be imported ({reason}); update or uninstall it"
        ) from error
