"""Show how far something is: on a terminal, below a notebook's cell, or nowhere."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

UPDATE_EVERY_S = 0.05  # a bar drawn for each image would cost more than reading it
UPDATE_NOTEBOOK_EVERY_S = 0.5  # each goes through the kernel's messages


@contextmanager
def progress_bar(label: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (number done, number of all) that moves a bar."""
    draw = _notebook_bar if in_notebook() else _terminal_bar
    with draw(label, unit) as move:
        yield move


@contextmanager
def telling(first: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows what is being done."""
    from rich.console import Console

    console = Console(stderr=True, force_jupyter=False)
    if in_notebook():
        show = _open_display()
        show(text=first)
        yield lambda text: show(text=text)
        show(text="")
    elif console.is_terminal:
        with console.status(first) as status:
            yield status.update
    else:
        yield lambda _: None


def say_or_warn(text: str, say: Callable[[str], None]) -> None:
    """Say what is being done; what begins with `warning: ` is a warning of Python."""
    if text.startswith("warning: "):
        warnings.warn(text.removeprefix("warning: "), stacklevel=4)
    else:
        say(text)


def in_notebook() -> bool:
    """Say whether a notebook's kernel runs this, which shows HTML."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def quieten_tqdm() -> None:
    """Import tqdm, which warns in a notebook without ipywidgets, before others do it.

    Networks come by huggingface_hub, which imports it; of its bars nobody sees any.
    """
    if in_notebook():
        with warnings.catch_warnings(), suppress(ImportError):
            warnings.simplefilter("ignore")
            import_module("tqdm.auto")


@contextmanager
def _terminal_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, {{task.fields[rate]}}/s, left"),
        TimeLeft(),
    )
    console = Console(stderr=True)
    # into a file a bar writes one line at its end, and an error has to be the only line there
    hidden = not console.is_terminal
    with Progress(*columns, console=console, redirect_stdout=False, disable=hidden) as bar:
        started = drawn = time.monotonic()
        task = bar.add_task(label, total=None, rate="?", visible=False)

        def move(done: int, total: int) -> None:
            nonlocal drawn
            now = time.monotonic()
            if now - drawn > UPDATE_EVERY_S or done == total:
                drawn, rate = now, f"{done / (now - started):.0f}"
                bar.update(task, completed=done, total=total, rate=rate, visible=True)

        yield move


@contextmanager
def _notebook_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    # Not rich's: in a notebook its bars need ipywidgets, and warn without them.
    show, drawn = _open_display(), 0.0

    def move(done: int, total: int) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn > UPDATE_NOTEBOOK_EVERY_S or done == total:
            drawn = now
            show(text=f"{label}: {done} of {total} {unit}", done=done, total=total)

    yield move


def _open_display() -> Callable[..., None]:
    """Return a function that draws a view's fields where it has drawn them before."""
    from IPython.display import display

    from lenshpc.report.content import View
    from lenshpc.report.html import render_view

    handles: list[Any] = []

    def show(**fields: Any) -> None:
        view = View(**fields)
        drawn = {"text/html": render_view(view), "text/plain": view.text}
        if handles:
            handles[0].update(drawn, raw=True)
        else:
            handle = display(drawn, raw=True, display_id=True)  # type: ignore[no-untyped-call]
            handles.append(handle)

    return show
