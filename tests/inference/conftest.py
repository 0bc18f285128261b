"""One trained run for all tests of what is done with it."""

import pytest
from trained_run import TrainedRun, train_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """Return a run of two networks and two folds whose images are cropped and resized."""
    return train_run(
        tmp_path_factory.mktemp("trained"),
        data={"crop": 20, "image_size": 16, "stretch": "asinh"},
        method={"tta": "d4"},
        ensemble="stacking",
    )
