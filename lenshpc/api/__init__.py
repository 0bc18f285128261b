"""The Python face: what `import lenshpc` offers, and the command line calls.

Each function takes names, paths or values. What is imported is imported inside of them, so that
`import lenshpc` costs nothing. An error is a `LensHpcError` of one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

from lenshpc.api.data import open_store, prepare, simulate
from lenshpc.api.ensembles import load_ensemble, predict
from lenshpc.api.runs import aggregate, compare, load_recipe, plan, status, submit
from lenshpc.errors import LensHpcError

if TYPE_CHECKING:
    Location = str | PathLike[str]
    Images = int | Mapping[str, int]

__all__ = [
    "LensHpcError",
    "aggregate",
    "compare",
    "load_ensemble",
    "load_recipe",
    "open_store",
    "plan",
    "predict",
    "prepare",
    "simulate",
    "status",
    "submit",
]
