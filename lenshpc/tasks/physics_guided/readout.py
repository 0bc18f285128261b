"""What physics-guided classifiers say of new images: classes, and the lens of each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lenshpc.tasks.physics_guided.lens_parameters import PARAMETERS
from lenshpc.tasks.supervised.readout import ProbabilityReadout


class LensReadout(ProbabilityReadout):
    """The classification's readout, with the mean lens over the members that find one."""

    def table(self, outputs: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return the classification's columns, each parameter, and `<parameter>_std` over members.

        Angle and axis ratio have no mean, as in the report: half a turn makes an angle another one.
        """
        return {**super().table(outputs), **_average([one for one in outputs if _has_lens(one)])}


def _has_lens(output: Mapping[str, Any]) -> bool:
    return PARAMETERS[0] in output


def _average(lenses: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[np.float64]]:
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for name in PARAMETERS if lenses else ():
        values = np.array([one[name] for one in lenses], np.float64)
        columns |= {name: values.mean(axis=0), f"{name}_std": values.std(axis=0)}
    return columns
