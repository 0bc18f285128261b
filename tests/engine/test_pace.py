"""The clock of an epoch and what the log says of it, with a clock that is set by hand."""

from collections.abc import Iterator

import pytest

from lenshpc.engine.checkpoint import MemberProgress, PartialEpoch
from lenshpc.engine.pace import Pace, describe_epoch, describe_step, estimate_left_s

LINE = {"train_loss": 0.5, "val_loss": 0.25, "seconds": 90.0, "step_s": 0.75, "waiting": 0.125}
LINE |= {"images_per_s": 42.7, "tflops": 12.25, "host_gb": 3.5}
ON_GPU = {"peak_share": 0.0785, "gpu_busy": 0.93, "gpu_gb": 11.0}


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def progress(*aucs: float, best: int, begun: PartialEpoch | None = None) -> MemberProgress:
    history = tuple({**LINE, "epoch": at, "val_auc": auc} for at, auc in enumerate(aucs))
    best_metric = aucs[best] if aucs else None
    return MemberProgress(
        fingerprint="f", world_size=1, history=history, best_epoch=best, best_metric=best_metric
    ).model_copy(update={"begun": begun})


def test_waiting_is_what_the_batches_take_and_goes_on_after_a_stop() -> None:
    clock = Clock()
    begun = PartialEpoch(steps=2, lr=0.1, seconds=50.0, waited_s=10.0)

    def batches() -> Iterator[str]:
        for batch in "abc":
            clock.now += 3.0
            yield batch
        clock.now += 0.5

    pace = Pace(begun, 5, clock)
    seen = []
    for batch in pace.wait_for(batches()):
        clock.now += 7.0
        seen.append(batch)
    assert seen == ["a", "b", "c"]
    assert pace.place(5) == PartialEpoch(steps=5, lr=0.1, seconds=80.5, waited_s=19.5)


@pytest.mark.parametrize(
    ("step_s", "told"),
    [
        (0.5, [60, 120, 180]),  # a tenth is 20 steps; 30 s are more
        (2.0, [20, 40, 60, 80, 100, 120, 140, 160, 180]),  # 30 s are 15 steps; a tenth is more
        (0.1, []),
    ],
)
def test_progress_is_told_after_a_tenth_and_half_a_minute(step_s: float, told: list[int]) -> None:
    clock = Clock()
    pace, found = Pace(PartialEpoch(lr=0.1), 200, clock), []
    for steps in range(1, 201):
        clock.now += step_s
        found += [steps] if pace.is_due(steps) else []
    assert found == told


def test_epoch_is_a_line_with_the_best_so_far_and_the_time_left() -> None:
    assert describe_epoch(progress(0.5, 0.75, best=1), 4, "auc", 9) == (
        "epoch 2/4: train loss 0.5, val loss 0.25, val auc 0.75 (best), 90.0 s, "
        "42.7 images/s, 0.75 s a step, 12% waiting for data, 12.2 TFLOP/s, 3.5 GB of the host's, "
        "3 min 00 s left"
    )
    assert describe_epoch(progress(0.5, 0.75, 0.625, best=1), 3, "auc", 9) == (
        "epoch 3/3: train loss 0.5, val loss 0.25, val auc 0.625 (best 0.75 of epoch 2), 90.0 s, "
        "42.7 images/s, 0.75 s a step, 12% waiting for data, 12.2 TFLOP/s, 3.5 GB of the host's"
    )
    assert describe_epoch(progress(0.5, best=0), 1, "loss", 9) == (
        "epoch 1/1: train loss 0.5, val loss 0.25 (best), 90.0 s, "
        "42.7 images/s, 0.75 s a step, 12% waiting for data, 12.2 TFLOP/s, 3.5 GB of the host's"
    )


def test_epoch_on_a_gpu_says_what_it_made_of_it() -> None:
    told = progress(0.5, best=0)
    line = {**told.history[0], **ON_GPU}
    assert describe_epoch(told.model_copy(update={"history": (line,)}), 1, "loss", 9) == (
        "epoch 1/1: train loss 0.5, val loss 0.25 (best), 90.0 s, 42.7 images/s, 0.75 s a step, "
        "12% waiting for data, 12.2 TFLOP/s (8% of the GPU's peak), GPU 93% busy, "
        "11 GB of its memory, 3.5 GB of the host's"
    )


def test_step_is_a_line_with_the_time_left() -> None:
    begun = PartialEpoch(steps=30, lr=0.1, seconds=60.0, waited_s=15.0)
    assert describe_step(progress(best=-1, begun=begun), 2, 120) == (
        "epoch 1/2: step 30 of 120, 2 s a step, 25% waiting for data, 7 min 00 s left"
    )
    # of the epochs before, which were validated too
    assert describe_step(progress(0.5, 0.75, best=1, begun=begun), 3, 120) == (
        "epoch 3/3: step 30 of 120, 2 s a step, 25% waiting for data, 1 min 08 s left"
    )


def test_time_left_is_unknown_before_the_first_step() -> None:
    assert estimate_left_s(progress(best=-1), 3, 120) is None
    assert estimate_left_s(progress(0.5, best=0), 3, 120) == 180.0
    assert estimate_left_s(progress(0.5, 0.5, 0.5, best=0), 2, 120) == 0.0  # grown and cut again
