"""Load a trained ensemble as a module of torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lenshpc.inference.trained import open_trained
from lenshpc.registry import Request
from lenshpc.run.trained import TrainedEnsemble

if TYPE_CHECKING:
    import torch

    from lenshpc.engine.ensemble import Ensemble


def load_ensemble(
    source: str | os.PathLike[str],
    *,
    models: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    trust_code: bool = False,
) -> Ensemble:
    """Return the trained ensemble of a run or an export, on a GPU where there is one.

    It takes pixels as the store has them and returns the task's answer, such as probabilities;
    `.predict(images)` does so for numpy arrays. An export with networks in files of its own runs
    their code, and is refused without `trust_code`.
    """
    trained = open_trained(source, models)
    return place_ensemble(trained, Request(), device, trust_code=trust_code)


def place_ensemble(
    trained: TrainedEnsemble,
    request: Request,
    device: str | torch.device | None = None,
    *,
    trust_code: bool,
) -> Ensemble:
    """Return the module of an ensemble, on a GPU where there is one, or on a device."""
    import torch

    from lenshpc.engine.ensemble import Ensemble

    ensemble = Ensemble(trained, request=request, trust_code=trust_code)
    return ensemble.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
