"""How a training goes: the clock of an epoch, and what its log says. No step asks the GPU."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from lenshpc.engine.checkpoint import MemberProgress, PartialEpoch
from lenshpc.run.durations import format_seconds

TOLD_SHARE, TOLD_S = 0.1, 30.0  # of the steps, and seconds, that lie at least between two words

# what a line of metrics.jsonl has that differs from one training to its repetition
MEASURED = frozenset({"seconds", "images_per_s", "step_s", "waiting", "tflops", "peak_share"})
MEASURED |= {"gpu_busy", "gpu_gb", "host_gb"}

Item = TypeVar("Item")


class Pace:
    """The clock of an epoch, or of what is left of one that was `begun`."""

    def __init__(
        self, begun: PartialEpoch, num_steps: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.begun, self._num_steps, self._now = begun, num_steps, now
        self.waited_s = begun.waited_s
        self._began = self._told_s = now()
        self._told_steps = begun.steps

    @property
    def seconds(self) -> float:
        """Return the seconds since the epoch began, without those between its parts."""
        return self.begun.seconds + self._now() - self._began

    def place(self, steps: int) -> PartialEpoch:
        """Return where the epoch stands after so many of its steps."""
        return PartialEpoch(
            steps=steps, lr=self.begun.lr, seconds=self.seconds, waited_s=self.waited_s
        )

    def wait_for(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Yield each batch; what this process spends until it is there counts as waiting."""
        while True:
            asked = self._now()
            batch = next(batches, None)
            self.waited_s += self._now() - asked
            if batch is None:
                return
            yield batch

    def is_due(self, steps: int) -> bool:
        """Say whether to tell of these steps: a tenth of the epoch and 30 s after the last time."""
        now = self._now()
        enough = steps - self._told_steps >= TOLD_SHARE * self._num_steps
        if not enough or now - self._told_s < TOLD_S or steps == self._num_steps:
            return False
        self._told_steps, self._told_s = steps, now
        return True


def estimate_left_s(progress: MemberProgress, epochs: int, num_steps: int) -> float | None:
    """Return the seconds of training left if it goes on as it did; None before the first step."""
    steps = progress.place[1]
    fraction = steps / num_steps
    if progress.history:
        an_epoch = sum(line["seconds"] for line in progress.history) / progress.epochs_done
    elif progress.begun and steps:
        an_epoch = progress.begun.seconds / fraction
    else:
        return None
    return max(0.0, epochs - progress.epochs_done - fraction) * an_epoch


def describe_epoch(progress: MemberProgress, epochs: int, monitor: str, num_steps: int) -> str:
    """Return a line on the latest epoch; epochs count from 1, as in `status`."""
    line = progress.history[-1]
    shown = dict.fromkeys(["loss", monitor])
    values = [f"val {name} {line[f'val_{name}']:.4g}" for name in shown]
    is_best = line["epoch"] == progress.best_epoch
    best = "" if is_best else f" {progress.best_metric:.4g} of epoch {progress.best_epoch + 1}"
    return (
        f"epoch {progress.epochs_done}/{epochs}: train loss {line['train_loss']:.4g}, "
        f"{', '.join(values)} (best{best}), {line['seconds']:.1f} s, "
        f"{line['images_per_s']:.4g} images/s, "
        + _describe_speed(line["step_s"], line["waiting"])
        + _describe_use(line)
        + _describe_left(estimate_left_s(progress, epochs, num_steps))
    )


def describe_step(progress: MemberProgress, epochs: int, num_steps: int) -> str:
    """Return a line on an epoch that is under way."""
    begun = progress.begun or PartialEpoch(lr=0.0)
    return (
        f"epoch {progress.epochs_done + 1}/{epochs}: step {begun.steps} of {num_steps}, "
        + _describe_speed(begun.seconds / begun.steps, begun.waited_s / begun.seconds)
        + _describe_left(estimate_left_s(progress, epochs, num_steps))
    )


def _describe_speed(step_s: float, waiting: float) -> str:
    return f"{step_s:.3g} s a step, {waiting:.0%} waiting for data"


def _describe_use(line: Mapping[str, float]) -> str:
    """Return what an epoch is known to have computed and used."""
    share = f" ({line['peak_share']:.0%} of the GPU's peak)" if "peak_share" in line else ""
    words = {
        "tflops": f"{{:.3g}} TFLOP/s{share}",
        "gpu_busy": "GPU {:.0%} busy",
        "gpu_gb": "{:.3g} GB of its memory",
        "host_gb": "{:.3g} GB of the host's",
    }
    return "".join(f", {word.format(line[key])}" for key, word in words.items() if key in line)


def _describe_left(seconds: float | None) -> str:
    return f", {format_seconds(seconds)} left" if seconds else ""
