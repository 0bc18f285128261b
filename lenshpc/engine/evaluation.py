"""How many images a process predicts at once: as many as memory takes, the same on all ranks."""

import torch

from lenshpc.engine import distributed
from lenshpc.engine.distributed import Process
from lenshpc.run.sections import Train

USUAL, MOST = 128, 4096
FREE_SHARE = 0.5  # predictions are kept until the last batch, and another process may take some


def choose_batch(train: Train, process: Process, step_bytes: int) -> int:
    """Return the recipe's number of images, else one by the memory; collective.

    On a GPU an image is taken to need what it needed in training, where a step took `step_bytes` (0
    where none was taken): less, as there are no gradients. With `train.deterministic` the memory
    that happens to be free decides nothing.
    """
    if train.evaluation_batch:
        return train.evaluation_batch
    if process.device.type != "cuda" or train.deterministic:
        return USUAL
    free_bytes, _ = torch.cuda.mem_get_info(process.device)
    images = max(1, train.batch_size // process.world_size)
    return distributed.minimum_over_ranks(fit_batch(step_bytes / images, free_bytes))


def fit_batch(image_bytes: float, free_bytes: float) -> int:
    """Return the power of two that fits, of 128 to 4096; 128 where an image's need is unknown."""
    if image_bytes <= 0:
        return USUAL
    fitting = FREE_SHARE * free_bytes / image_bytes
    return min(MOST, max(USUAL, 1 << int(fitting).bit_length() >> 1))
