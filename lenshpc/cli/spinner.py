"""Say that a command works, until it says something itself."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

DELAY_S, TURN_S = 0.4, 0.1
FRAMES = "|/-\\"
CLEAR = "\r\x1b[K"


class _Spinner:
    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._ended, self._is_shown = threading.Event(), False

    def turn(self) -> None:
        self._ended.wait(DELAY_S)
        for frame in itertools.cycle(FRAMES):
            with self._lock:
                if self._ended.is_set():
                    return
                self._stream.write(f"\r{frame} working")
                self._stream.flush()
                self._is_shown = True
            self._ended.wait(TURN_S)

    def end(self) -> None:
        with self._lock:
            if self._is_shown:
                self._stream.write(CLEAR)
                self._stream.flush()
            self._ended.set()
            self._is_shown = False


class _Watched:
    """A stream that calls `begin` before whatever is written to it."""

    def __init__(self, stream: TextIO, begin: Callable[[], None]) -> None:
        self._stream, self._begin = stream, begin

    def write(self, text: str) -> int:
        self._begin()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def spinning() -> Iterator[None]:
    """Turn a spinner on the terminal until the block writes anything, or ends."""
    stream = sys.stderr
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    spinner = _Spinner(stream)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Watched(one, spinner.end) for one in before)
    threading.Thread(target=spinner.turn, daemon=True).start()
    try:
        yield
    finally:
        spinner.end()
        sys.stdout, sys.stderr = before
