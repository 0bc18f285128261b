"""lenshpc: batch jobs on GPU clusters for deep learning on gravitational lenses.

What Python calls is in `lenshpc.api`, and is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lenshpc.inference.hub as hub
    from lenshpc.api import (
        LensHpcError,
        aggregate,
        compare,
        load_ensemble,
        load_recipe,
        open_store,
        plan,
        predict,
        prepare,
        simulate,
        status,
        submit,
    )

__version__ = "0.3.0"
__all__ = [
    "LensHpcError",
    "__version__",
    "aggregate",
    "compare",
    "hub",
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

if not TYPE_CHECKING:  # else a name that is not there would pass for anything

    def __getattr__(name: str) -> object:
        """Return a name of the face."""
        if name == "hub":
            return import_module("lenshpc.inference.hub")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # By its text: every module imports this one, so that an import here would put `api`,
        # and all below it, under each of them.
        return getattr(import_module("lenshpc.api"), name)


def __dir__() -> list[str]:
    """Return the names of the face with those that are there already."""
    return sorted({*globals(), *__all__})
