"""The `simulate` section of a dataset file: one of the models."""

from typing import Annotated

from pydantic import Field

from lenshpc.prep.simulation.substructure import DarkMatter
from lenshpc.prep.simulation.survey import Survey

Simulation = Annotated[Survey | DarkMatter, Field(discriminator="model")]
