"""The devices of these tests: the CPU always, a GPU where there is one."""

import pytest
import torch
from device_trainings import Training, train

from lenshpc.store import Store

WAYS = {
    "plain": {},
    "bf16": {"train__precision": "bf16"},
    "fp16": {"train__precision": "fp16"},
    "tf32": {"train__tf32": True},
    "channels_last": {"train__channels_last": True},
}


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Return the kind of device that a test is about."""
    name: str = request.param
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return name


@pytest.fixture(scope="session")
def trained(
    device: str, spots: Store, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Training]:
    """Return a member trained in each way."""
    return train(tmp_path_factory.mktemp(device), spots, device, WAYS)


@pytest.fixture(scope="session")
def on_cpu(device: str, spots: Store, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Return a member that was trained on the CPU, for a GPU to be compared with."""
    if device == "cpu":
        pytest.skip("it is the reference")
    return train(tmp_path_factory.mktemp("reference"), spots, "cpu", {"plain": {}})["plain"]
