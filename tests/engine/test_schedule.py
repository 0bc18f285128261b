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


@pytest.mark.parametrize("kind", ["constant", "cosine", "one_cycle", "plateau", "step"])
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


def of_torch(make: type, num_steps: int, **options: object) -> list[float]:
    """Return the rates of one of torch's schedulers, advanced once a step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(optimizer, **options)
    seen = []
    for _ in range(num_steps):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


def test_cycles_are_torchs_warm_restarts() -> None:
    seen = rates(made(scheduler="cosine", epochs=6, cycles=3), 24)
    expected = of_torch(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, 24, T_0=8)
    assert seen == pytest.approx(expected)
    # of a length that they do not divide each begins at the first step that is due to it
    uneven = rates(made(scheduler="cosine", epochs=5, cycles=3), 20)
    assert [step for step in range(1, 20) if uneven[step] > uneven[step - 1]] == [7, 14]
    warm = rates(made(scheduler="cosine", epochs=5, warmup_epochs=1, cycles=2), 20)
    assert warm[4:12] == pytest.approx(expected[:8])
    assert warm[12:] == warm[4:12]


def test_one_cycle_is_torchs() -> None:
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    for epochs in (1, 2, 5, 20):
        num_steps = 4 * epochs
        options = {"max_lr": LR, "total_steps": num_steps, "cycle_momentum": False}
        seen = rates(made(scheduler="one_cycle", epochs=epochs), num_steps)
        assert seen == pytest.approx(of_torch(one_cycle, num_steps, **options), abs=1e-12)


def test_steps_are_torchs() -> None:
    seen = rates(made(scheduler="step", epochs=9, step_epochs=2, step_factor=0.5), 36)
    step_lr = torch.optim.lr_scheduler.StepLR
    assert seen == pytest.approx(of_torch(step_lr, 36, step_size=8, gamma=0.5))
    # the first of them is counted from the end of the warm-up
    warm = rates(made(scheduler="step", epochs=9, step_epochs=2, warmup_epochs=1), 16)
    assert warm[:4] == pytest.approx([LR / 4, LR / 2, 3 * LR / 4, LR])
    assert warm[4:] == pytest.approx([LR] * 8 + [LR / 10] * 4)


def test_shorter_training_takes_the_first_steps_of_a_longer_one_unless_it_knows_its_length() -> (
    None
):
    for scheduler, knows in {
        "constant": False,
        "step": False,
        "plateau": False,
        "cosine": True,
        "one_cycle": True,
    }.items():
        short, long = (rates(made(scheduler=scheduler, epochs=epochs), 12) for epochs in (3, 6))
        assert (short != long) == knows
        asked = recipe(train__scheduler=scheduler)
        assert (asked.knows_length, asked.can_grow) == (knows, not knows)
        planned = recipe(train__scheduler=scheduler, train__epochs=3, train__schedule_epochs=6)
        assert planned.can_grow
        part = made(scheduler=scheduler, epochs=3, schedule_epochs=6)
        assert rates(part, 12) == long


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scheduler": "step", "cycles": 2}, "train.cycles 2 belongs to scheduler cosine"),
        (
            {"step_epochs": 3},
            "train.step_epochs 3 belongs to scheduler step, and train.scheduler is",
        ),
        (
            {"scheduler": "one_cycle", "warmup_epochs": 1},
            "one_cycle warms up by itself, and train.warmup_epochs is 1",
        ),
        (
            {"scheduler": "plateau", "warmup_epochs": 1},
            "plateau has no warm-up, and train.warmup_epochs is 1",
        ),
    ],
)
def test_keys_of_another_scheduler_are_refused(changes: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made(**changes)


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
