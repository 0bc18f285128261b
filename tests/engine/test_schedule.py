"""Learning rates against their closed forms."""

from math import cos, pi

import pytest
import torch
from ranks import recipe

from lenshpc.engine.schedule import Schedule, factor

LR = 0.1


def made(**train: object) -> Schedule:
    changes = {f"train__{key}": value for key, value in {"lr": LR, **train}.items()}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    schedule = Schedule(optimizer, recipe(**changes).train, steps_per_epoch=4)
    optimizer.step()  # without gradients; torch warns if a schedule goes first
    return schedule


def rates(schedule: Schedule, num_steps: int) -> list[float]:
    """Return the learning rates of the next steps."""
    seen = []
    for _ in range(num_steps):
        seen.append(schedule.lr)
        schedule.after_step()
    return seen


def test_constant_stays() -> None:
    assert rates(made(scheduler="constant"), 8) == [LR] * 8


def test_constant_after_warmup_rises_linearly() -> None:
    seen = rates(made(scheduler="constant", epochs=3, warmup_epochs=1), 8)
    assert seen == pytest.approx([LR / 4, LR / 2, 3 * LR / 4, LR, LR, LR, LR, LR])


def test_cosine_goes_from_all_to_almost_nothing() -> None:
    seen = rates(made(scheduler="cosine", epochs=2), 9)
    assert seen == pytest.approx([LR * (1 + cos(pi * step / 8)) / 2 for step in range(9)])
    assert (seen[0], seen[4]) == pytest.approx((LR, LR / 2))
    assert seen[8] == pytest.approx(0, abs=1e-12)


def test_cosine_begins_after_warmup() -> None:
    seen = rates(made(scheduler="cosine", epochs=3, warmup_epochs=1), 12)
    rising = [LR / 4, LR / 2, 3 * LR / 4, LR]
    assert seen == pytest.approx(rising + [LR * (1 + cos(pi * k / 8)) / 2 for k in range(8)])


def test_factor_never_leaves_zero_to_one() -> None:
    train = recipe(train__epochs=5, train__warmup_epochs=2, train__scheduler="cosine").train
    factors = [factor(step, train, 3) for step in range(15)]
    assert min(factors) > 0
    assert max(factors) == 1


def test_plateau_takes_a_tenth_once_patience_is_over() -> None:
    schedule = made(scheduler="plateau", plateau_patience=2, epochs=9)
    seen = []
    for loss in (1.0, 0.5, 0.6, 0.5, 0.7, 0.4, 0.4, 0.4, 0.4):
        seen.append(schedule.lr)
        assert rates(schedule, 4) == [schedule.lr] * 4
        schedule.after_epoch(loss)
    # the fourth epoch no better than 0.5 comes third after it; 0.4 stands still for three more
    assert seen == pytest.approx([LR] * 5 + [LR / 10] * 4)
    assert schedule.lr == pytest.approx(LR / 100)


@pytest.mark.parametrize("kind", ["constant", "cosine", "plateau"])
def test_schedule_goes_on_from_its_state(kind: str) -> None:
    losses = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    def epochs(schedule: Schedule, some: list[float]) -> list[float]:
        seen = []
        for loss in some:
            seen += rates(schedule, 4)
            schedule.after_epoch(loss)
        return seen

    whole = epochs(made(scheduler=kind, epochs=6), losses)
    first = made(scheduler=kind, epochs=6)
    begun = epochs(first, losses[:3])
    second = made(scheduler=kind, epochs=6)
    second.load_state_dict(first.state_dict())
    assert begun + epochs(second, losses[3:]) == whole


def test_groups_keep_their_own_rates_over_a_state() -> None:
    """Layers of an encoder have rates of their own."""
    train = recipe(train__scheduler="plateau", train__plateau_patience=1).train
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]

    def two() -> torch.optim.Optimizer:
        groups = [{"params": [one], "lr": lr} for one, lr in zip(parameters, (1, 0.5), strict=True)]
        return torch.optim.SGD(groups)

    first, second = two(), two()
    schedule = Schedule(first, train, steps_per_epoch=4)
    for loss in (1.0, 2.0, 2.0):
        schedule.after_epoch(loss)
    Schedule(second, train, steps_per_epoch=4).load_state_dict(schedule.state_dict())
    assert [group["lr"] for group in first.param_groups] == pytest.approx([0.1, 0.05])
    assert [group["lr"] for group in second.param_groups] == pytest.approx([0.1, 0.05])
