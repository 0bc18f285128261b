"""The tasks by name, and what each of them does."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from lenshpc.config import Frozen
from lenshpc.methods.anomaly import Anomaly
from lenshpc.methods.classification import Classification
from lenshpc.methods.super_resolution import SuperResolution

TASKS: Mapping[str, type[Frozen]] = MappingProxyType(
    {
        "lens-finding": Classification,
        "multiclass": Classification,
        "anomaly": Anomaly,
        "super-resolution": SuperResolution,
    }
)

Method = Annotated[Classification | Anomaly | SuperResolution, Field(discriminator="kind")]
