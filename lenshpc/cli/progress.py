"""Show one bar on standard error: how much is done, how fast, how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_UPDATE_EVERY_S = 0.05  # a bar drawn for each image would cost more than reading it


@contextmanager
def progress_bar(label: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (number done, number of all) that moves the bar of a terminal."""
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
            if now - drawn > _UPDATE_EVERY_S or done == total:
                drawn, rate = now, f"{done / (now - started):.0f}"
                bar.update(task, completed=done, total=total, rate=rate, visible=True)

        yield move
