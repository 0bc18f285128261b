"""Images drawn by a trained diffusion model: a walk through its noise, and samples by the thousand.

Shapes: F frames, C channels, H by W pixels.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.engine.load import load_model, load_task
from lenshpc.engine.precision import autocast
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.sections import Train
from lenshpc.tasks.diffusion.sampling import SeededNoise, slerp
from lenshpc.tasks.diffusion.task import SAMPLES, Denoising

NUM_STOPS, FRAMES_A_LEG = 3, 5
MOST_STEPS = 25  # of a frame: reports are written without a GPU, and 15 frames take minutes
BATCH_ROWS = 64

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Generator:
    """A member's network, and the task that draws with it."""

    task: Denoising
    model: nn.Module
    device: torch.device
    train: Train

    def draw(self, rows: range, seed: int) -> Floats:
        """Return the images (n, C, H, W) of some indices: functions of seed and index.

        With classes, the classes take turns.
        """
        size = self.train.evaluation_batch or BATCH_ROWS
        blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
        # The precision of training, as in the members' own predictions, or the images would be
        # others.
        with torch.no_grad(), autocast(self.train, self.device):
            drawn = [
                self.task.draw(self.model, SAMPLES, seed, self._rows(block), self._labels(block))
                for block in blocks
            ]
        return torch.cat(drawn).cpu().numpy()

    def walk(self) -> Floats:
        """Return frames (F, C, H, W) from one draw to the next by slerp, and back to the first.

        The frames 0, 5, 10, … are the draws themselves, by 25 DDIM steps at most. With classes, all
        are of the first.
        """
        stops = SeededNoise((SAMPLES, 0), self._rows(range(NUM_STOPS))).draw(self.task.shape)
        legs = pairwise([*stops, stops[0]])
        starts = [slerp(*leg, at / FRAMES_A_LEG) for leg in legs for at in range(FRAMES_A_LEG)]
        label = self._labels(range(1))
        with torch.no_grad(), autocast(self.train, self.device):
            frames = [
                self.task.decode(self.model, start[None], label, most_steps=MOST_STEPS)
                for start in starts
            ]
        return torch.cat(frames).cpu().numpy()

    def _labels(self, rows: range) -> Tensor | None:
        if not self.task.num_classes:
            return None
        return self._rows(rows) % self.task.num_classes

    def _rows(self, rows: range) -> Tensor:
        return torch.arange(rows.start, rows.stop, device=self.device)


def open_generator(plan: Plan, run: RunPaths, member: Member) -> Generator:
    """Return a finished member of a diffusion run, on a GPU if it asked for one and one is here."""
    on_gpu = plan.recipe.resources.gpus_per_node and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    model = load_model(run.root, member.index).to(device)
    task = cast(Denoising, load_task(plan, run, member))
    return Generator(task, model, device, plan.recipe_of(member).train)


def walk(plan: Plan, run: RunPaths, member: Member) -> Floats:
    """Return frames (F, C, H, W) between images that a finished member draws."""
    return open_generator(plan, run, member).walk()
