"""What a shell completes: runs, tasks, recipes, sites, datasets; imports nothing heavy."""

from importlib import resources
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from lenshpc.run.paths import RUNS


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the runs in `--runs` or ./runs, and folders for a path."""
    del param
    folder = Path(ctx.params.get("folder") or RUNS)
    names = [path.parent.name for path in sorted(folder.glob("*/plan.json"))]
    return _complete(names, incomplete) or [CompletionItem(incomplete, type="dir")]


def recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the recipes that ship, and files for one's own."""
    del ctx, param
    return _complete_shipped("jobs", incomplete)


def tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the installed tasks, ours and those of plugins."""
    del ctx, param
    return _complete(find_task_names(), incomplete)


def find_task_names() -> list[str]:
    """Return the tasks that installed packages declare; the registry itself costs a second."""
    from importlib.metadata import entry_points

    return sorted({entry.name for entry in entry_points(group="lenshpc.tasks")})


def sites(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the sites that ship, and files for one's own."""
    del ctx, param
    return _complete_shipped("slurm", incomplete)


def datasets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the datasets that ship, and files for one's own."""
    del ctx, param
    return _complete_shipped("data_prep", incomplete)


def _names(folder: str) -> list[str]:
    names = (Path(entry.name) for entry in resources.files(f"lenshpc.{folder}").iterdir())
    return sorted(name.stem for name in names if name.suffix == ".yaml")


def _complete_shipped(folder: str, incomplete: str) -> list[CompletionItem]:
    return _complete(_names(folder), incomplete) or [CompletionItem(incomplete, type="file")]


def _complete(names: list[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
