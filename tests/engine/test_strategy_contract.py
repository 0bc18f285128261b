"""Every task under every strategy, precision and way of computing: the same steps.

Draws of a step are seeded alike, so that strategies on two ranks can be compared number by number.
"""

from itertools import product

import pytest
from contract import TASKS, run_cases, write_stores

PRECISIONS = ("fp32", "bf16")
MODES = {"plain": {}, "compiled": {"compile": "default"}, "accumulated": {"accumulate": 2}}
ON_TWO = ("ddp", "zero1", "zero2", "zero3")
# Their loss is a mean over rows, and draws nothing: so parts of a share give its step.
ROW_BY_ROW = ("multiclass", "lens-finding", "super-resolution")
TO_FP32 = {"fp32": 1e-5, "bf16": 2e-2}
AMONG_STRATEGIES = {"fp32": 1e-5, "bf16": 1e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the stores of all tasks."""
    made = tmp_path_factory.mktemp("contract")
    write_stores(made)
    return made


def measured(folder, tasks, strategies, precisions, modes):
    """Return what each case gives, by task, strategy, precision and mode."""
    keys = list(product(tasks, strategies, precisions, modes))
    cases = [(task, one, {"precision": bits, **MODES[mode]}) for task, one, bits, mode in keys]
    return dict(zip(keys, run_cases(folder, cases), strict=True))


def numbers(case):
    return [*case["losses"], *case["predicted"]]


def check_resumption(found):
    for key, case in found.items():
        assert len(case["losses"]) >= 3, key
        assert case["resumed"] == case["losses"][2:], key
        assert case["resumed_predicted"] == case["predicted"], key
        assert case["same_names"], key


def check_agreement(found):
    """Compare each case with DDP, with float32, and with the plain way."""
    for (task, strategy, bits, mode), case in found.items():
        near = {"abs": 1e-5 if bits == "fp32" else 2e-2}
        if strategy != "single":
            like = found[task, "ddp", bits, mode]
            assert numbers(case) == pytest.approx(
                numbers(like), rel=AMONG_STRATEGIES[bits], **near
            ), (task, strategy, bits, mode)
        like = found[task, strategy, "fp32", mode]
        assert numbers(case) == pytest.approx(numbers(like), rel=TO_FP32[bits], **near), (
            task,
            strategy,
            bits,
            mode,
        )


@pytest.mark.parametrize("bits", [("fp32",), pytest.param(PRECISIONS, marks=pytest.mark.slow)])
def test_each_task_takes_the_same_steps_on_one_process_however_it_computes(folder, bits):
    found = measured(folder, TASKS, ("single",), bits, ("plain", "accumulated"))
    check_resumption(found)
    check_agreement(found)
    for task in ROW_BY_ROW:
        whole, parts = (found[task, "single", "fp32", mode] for mode in ("plain", "accumulated"))
        assert numbers(parts) == pytest.approx(numbers(whole), rel=1e-5, abs=1e-6), task


def test_two_ranks_take_the_same_steps_under_every_strategy(folder):
    found = measured(folder, ("lens-finding",), ON_TWO, ("fp32",), ("plain", "accumulated"))
    check_resumption(found)
    check_agreement(found)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_each_task_takes_the_same_steps_under_every_strategy(folder, task):
    found = measured(folder, (task,), ON_TWO, PRECISIONS, ("plain", "accumulated"))
    check_resumption(found)
    check_agreement(found)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["single", *ON_TWO])
@pytest.mark.parametrize("task", TASKS)
def test_each_task_takes_the_same_steps_when_it_is_compiled(folder, task, strategy):
    both = ("plain", "compiled")
    found = measured(folder, (task,), (strategy,), PRECISIONS, both)
    check_resumption(found)
    for bits, near in TO_FP32.items():
        plain, made = (found[task, strategy, bits, mode] for mode in both)
        assert numbers(made) == pytest.approx(numbers(plain), rel=near, abs=near), bits
