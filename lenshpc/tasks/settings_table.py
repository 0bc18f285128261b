"""The tasks by name, and what each of them does."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from lenshpc.config import unknown
from lenshpc.errors import ConfigError
from lenshpc.tasks.anomaly.settings import Anomaly, normal_class
from lenshpc.tasks.diffusion.settings import Diffusion
from lenshpc.tasks.foundation.settings import Foundation
from lenshpc.tasks.super_resolution.settings import SuperResolution
from lenshpc.tasks.supervised.settings import Classification

Methods = Classification | Anomaly | SuperResolution | Diffusion | Foundation

TASKS: Mapping[str, type[Methods]] = MappingProxyType(
    {
        "lens-finding": Classification,
        "multiclass": Classification,
        "physics-guided": Classification,
        "anomaly": Anomaly,
        "super-resolution": SuperResolution,
        "foundation": Foundation,
        "diffusion": Diffusion,
    }
)

Method = Annotated[Methods, Field(discriminator="kind")]


def learnt_labels(method: Methods, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Return the labels of the classes that a method may train on."""
    match method:
        case Anomaly():
            return (normal_class(method, classes) or 0,)
        case Foundation():
            names = method.classes or classes[:1]
            absent = [name for name in names if name not in classes]
            if absent:
                raise ConfigError(unknown("class in method.classes", absent[0], classes))
            return tuple(classes.index(name) for name in names)
        case _:
            return tuple(range(len(classes)))
