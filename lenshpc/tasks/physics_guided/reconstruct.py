"""What a trained lens makes of images: the source behind it, and the image drawn again."""

from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from lenshpc.data.order import Rows
from lenshpc.engine.load import load_model, load_task
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.tasks.physics_guided.task import GuidedClassifier
from lenshpc.tasks.supervised.explain import prepare_rows


def reconstruct(
    plan: Plan, run: RunPaths, member: Member, rows: Rows
) -> dict[str, npt.NDArray[np.float32]]:
    """Return `light` and `render` (n, H, W), and `source` (n, S, S), of rows of the store.

    Surface brightness is in the units of the images that the network sees, above the sky.
    """
    model = load_model(run.root, member.index)
    task = cast(GuidedClassifier, load_task(plan, run, member))
    with prepare_rows(plan, run, member, rows) as batches, torch.no_grad():
        found = [task.reconstruct(model, batch) for batch in batches]
    return {name: torch.cat([one[name] for one in found]).numpy() for name in found[0]}
