"""What a step computes is counted without one, and set beside what a GPU does at most."""

from typing import Any

import pytest
import torch
from ranks import recipe
from torch import Tensor, nn

from lenshpc.engine.evaluation import fit_batch
from lenshpc.engine.throughput import StepCounter, find_peak

CPU = torch.device("cpu")


class Sorting:
    """A task of two phases, of which the second one looks at the network alone."""

    num_phases = 2

    def training_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return a loss."""
        return {"loss": model(batch["image"]).square().mean() * (1 - batch["progress"])}


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(128, 5),
    )


def counter(model: nn.Module, **changes: Any) -> StepCounter:
    task: Any = Sorting()
    return StepCounter(task, model, recipe(**changes).train, CPU)


def batch() -> Any:
    return {"image": torch.rand(2, 3, 4, 4)}


def test_operations_are_those_of_the_products_forwards_and_backwards() -> None:
    convolution, linear = 2 * 2 * 8 * 4 * 4 * 3 * 3 * 3, 2 * 2 * 128 * 5
    # Backwards by weights and by inputs, of which the images are none. Two phases.
    assert counter(network()).count(batch()) == 2 * (2 * convolution + 3 * linear)


def test_parts_that_do_not_learn_are_not_counted_backwards() -> None:
    convolution, linear = 2 * 2 * 8 * 4 * 4 * 3 * 3 * 3, 2 * 2 * 128 * 5
    counted = counter(network(), train__freeze=["0", "1"]).count(batch())
    assert counted == 2 * (convolution + 2 * linear)


def test_nothing_changes_where_operations_are_counted() -> None:
    torch.manual_seed(3)
    model, images = network(), batch()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    counter(model).count(images)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [one.grad for one in model.parameters()] == [None] * 6
    assert all(one.requires_grad for one in model.parameters())


@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        # fp32, in TF32, in 16 bits
        ("Tesla V100-SXM2-32GB", [15.7, 15.7, 125.0]),
        ("Tesla V100-PCIE-16GB", [14.0, 14.0, 112.0]),
        ("Tesla T4", [8.1, 8.1, 65.0]),
        ("NVIDIA A100-SXM4-80GB", [19.5, 156.0, 312.0]),
        ("NVIDIA A100 80GB PCIe", [19.5, 156.0, 312.0]),
        ("A100-PCIE-40GB", [19.5, 156.0, 312.0]),
        ("NVIDIA A40", [37.4, 74.8, 149.7]),
        ("NVIDIA L4", [30.3, 60.0, 121.0]),
        ("NVIDIA L40S", [91.6, 183.0, 362.0]),
        ("NVIDIA H100 80GB HBM3", [67.0, 494.7, 989.4]),
        ("NVIDIA H100 PCIe", [51.0, 378.0, 756.0]),
        ("NVIDIA H200", [67.0, 494.7, 989.4]),
        ("NVIDIA GeForce RTX 3090", [35.6, 35.6, 71.0]),
        ("NVIDIA GeForce RTX 4090", [82.6, 82.6, 165.2]),
        ("NVIDIA RTX A6000", [38.7, 77.4, 154.8]),
        ("AMD Instinct MI250X", [47.9, 47.9, 191.5]),
        ("AMD Instinct MI300X", [163.4, 163.4, 1307.4]),
        # slices, relatives with other clocks, and what nobody knows
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", [None] * 3),
        ("NVIDIA H100 NVL", [None] * 3),
        ("NVIDIA GH200 480GB", [None] * 3),
        ("NVIDIA L40", [None] * 3),
        ("NVIDIA GeForce RTX 3090 Ti", [None] * 3),
        ("cpu", [None] * 3),
    ],
)
def test_peak_is_that_of_the_whole_card_in_the_recipes_precision(
    name: str, peaks: list[float | None]
) -> None:
    asked = [{"train__tf32": False}, {}, {"train__precision": "bf16"}]
    assert [find_peak(name, recipe(**one).train) for one in asked] == peaks


@pytest.mark.parametrize(
    ("image_mb", "free_gb", "images"),
    [(0, 80, 128), (9, 80, 4096), (1, 80, 4096), (10, 80, 2048), (10, 10, 256), (99, 10, 128)],
)
def test_images_predicted_at_once_fit_into_half_of_what_is_free(
    image_mb: float, free_gb: float, images: int
) -> None:
    assert fit_batch(image_mb * 1e6, free_gb * 1e9) == images
