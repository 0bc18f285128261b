"""A member on one device: it trains there, in each way of computing, and predicts there."""

import numpy as np
import pytest
import torch
from device_trainings import Training, start, train
from ranks import planned, recipe

from lenshpc.engine.load import load_model
from lenshpc.store import Store

ZERO = {"train__strategy": "deepspeed"}


def test_member_trains_where_it_should_and_the_loss_falls(
    trained: dict[str, Training], device: str
) -> None:
    plain = trained["plain"]
    expected = "cpu" if device == "cpu" else torch.cuda.get_device_name(0)
    assert (plain.facts["device"], plain.facts["epochs"]) == (expected, 2)
    assert np.isfinite(plain.losses).all()
    assert plain.losses[2] < plain.losses[0]  # of training, in the two epochs


def test_losses_on_a_gpu_are_those_on_the_cpu(
    on_cpu: Training, trained: dict[str, Training]
) -> None:
    assert trained["plain"].losses == pytest.approx(on_cpu.losses, rel=1e-3)


@pytest.mark.parametrize(
    ("way", "tolerance"),
    [("bf16", 0.05), ("fp16", 0.05), ("tf32", 0.01), ("channels_last", 1e-3)],
)
def test_each_way_of_computing_gives_the_losses_of_the_plain_one(
    trained: dict[str, Training], way: str, tolerance: float
) -> None:
    assert trained[way].losses == pytest.approx(trained["plain"].losses, rel=tolerance)


@pytest.mark.parametrize("way", ["bf16", "fp16"])
def test_reduced_precision_is_in_the_products_and_in_no_file(
    trained: dict[str, Training], way: str
) -> None:
    assert trained[way].losses != pytest.approx(trained["plain"].losses, rel=1e-6)
    columns = trained[way].predictions.filter(like="logp")
    assert {str(dtype) for dtype in columns.dtypes} == {"float32"}


def test_predictions_are_those_of_the_weights_on_the_cpu(
    trained: dict[str, Training], spots: Store
) -> None:
    plain = trained["plain"]
    mean, std = (np.float32(plain.facts[key][0]) for key in ("mean", "std"))
    table = plain.predictions
    pixels = spots.read(slice(None))[table["row"]]
    with torch.no_grad():
        logits = load_model(plain.run.root, 0)(torch.from_numpy((pixels - mean) / std))
    expected = logits.log_softmax(dim=1).numpy()
    np.testing.assert_allclose(table[["logp_0", "logp_1"]], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param({"compiled": {"train__compile": "default"}}, id="compile"),
        pytest.param({"graphs": {"train__compile": "reduce-overhead"}}, id="graphs"),
        pytest.param({"zero1": {**ZERO, "train__zero_stage": 1}}, id="zero1"),
        pytest.param({"zero2": {**ZERO, "train__zero_stage": 2}}, id="zero2"),
        pytest.param({"zero3": {**ZERO, "train__zero_stage": 3}}, id="zero3"),
        pytest.param({"offloaded": {**ZERO, "train__offload": "optimizer"}}, id="offload"),
    ],
)
@pytest.mark.slow  # each imports DeepSpeed or compiles
def test_what_takes_long_to_start_gives_the_losses_of_the_plain_way(
    trained: dict[str, Training], ways: dict, device: str, spots: Store, tmp_path
) -> None:
    (found,) = train(tmp_path, spots, device, ways).values()
    assert found.losses == pytest.approx(trained["plain"].losses, rel=1e-3)


@pytest.mark.gpu
def test_two_processes_on_one_gpu_are_refused_at_once(spots: Store, tmp_path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    run, _ = planned(tmp_path, spots, recipe(folds=1, resources__gpus_per_node=2))
    ranks = [start([run.root], "cuda", rank, world_size=2) for rank in range(2)]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert all(rank.returncode for rank in ranks), outputs
    assert all("ranks 0 and 1 have the same GPU" in one for one in outputs), outputs
