"""Show one bar on standard error: how much is done, how fast, how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_UPDATE_EVERY = 64  # a bar drawn for each image would cost more than reading it


@contextmanager
def progress_bar(label: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (number done, number of all) that moves the bar."""
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
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        started = time.monotonic()
        task = bar.add_task(label, total=None, rate="?", visible=False)

        def move(done: int, total: int) -> None:
            if done % _UPDATE_EVERY == 0 or done == total:
                rate = f"{done / (time.monotonic() - started):.0f}"
                bar.update(task, completed=done, total=total, rate=rate, visible=True)

        yield move
