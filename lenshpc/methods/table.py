"""The tasks by name, and what each of them does."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from lenshpc.methods.anomaly import Anomaly
from lenshpc.methods.classification import Classification
from lenshpc.methods.super_resolution import SuperResolution

Methods = Classification | Anomaly | SuperResolution

TASKS: Mapping[str, type[Methods]] = MappingProxyType(
    {
        "lens-finding": Classification,
        "multiclass": Classification,
        "physics-guided": Classification,
        "anomaly": Anomaly,
        "super-resolution": SuperResolution,
    }
)

Method = Annotated[Methods, Field(discriminator="kind")]
