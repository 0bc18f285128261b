"""Batches on a device hold what the store does, also while the device is busy."""

import numpy as np
import pytest
import torch
from ranks import planned, recipe

from lenshpc.data.fold import open_fold
from lenshpc.run.plan import load_splits
from lenshpc.store import Store


@pytest.mark.parametrize("loading", ["resident", "stream"])
@pytest.mark.parametrize("is_busy", [False, True])
def test_batches_are_normalised_pixels_of_the_store(
    device: str, spots: Store, tmp_path, loading: str, is_busy: bool
) -> None:
    run, plan = planned(tmp_path, spots, recipe(data={"augment": [], "loading": loading}))
    splits, where = load_splits(run, plan), torch.device(device)
    busy = torch.ones(4096, 4096, device=where) if device == "cuda" else torch.ones(64, 64)
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with open_fold(plan, plan.members[0], splits, spots, where) as data:
        for batch in data.training_batches(0, rank=0, world_size=1, done=0):
            assert {value.device.type for value in batch.values()} == {device}
            if is_busy:  # on a GPU the next batch is prepared while this is computed
                for _ in range(20):
                    busy = (busy @ busy).clamp(max=1.0)
            # As a step does: the values are used later than they are handed over.
            kept = batch["image"] * 1, batch["label"] * 1, batch["row"] * 1
            seen.append(tuple(one.cpu().numpy() for one in kept))
        preparation = data.source.preparation
        expected_rows = np.concatenate(data.training.batches(0, rank=0, world_size=1))
    images, labels, rows = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(labels, spots.rows["label"].to_numpy()[rows])
    mean, std = (part[:, None, None] for part in (preparation.mean, preparation.std))
    expected = (spots.read(slice(None))[rows] - mean) / std
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-6)
