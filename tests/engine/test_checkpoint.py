"""A damaged checkpoint is seen before it is loaded, and the one before is gone on from."""

import logging
import os
from pathlib import Path

import pytest
import torch
from damage import files_below, flip
from small_training import START, SmallTraining

from lenshpc.engine.checkpoint import MemberProgress, PartialEpoch
from lenshpc.errors import ConfigError, DataError
from lenshpc.files import read_sealed, sha256, write_sealed

BEST = "best-0002.safetensors"


def test_two_checkpoints_and_the_best_weights_of_either_are_kept(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path)
    training.epochs(START, [True, False, True])
    each = ["hashes.json", "progress.json", "rank-0000.pt"]
    assert [str(path.relative_to(tmp_path)) for path in files_below(tmp_path / "checkpoint")] == [
        "checkpoint/best-0000.safetensors",
        "checkpoint/best-0002.safetensors",
        *(f"checkpoint/epoch-{epoch:04d}/{name}" for epoch in (2, 3) for name in each),
    ]
    # Pickles lie here; what is read of a run by others lies elsewhere.
    assert (tmp_path / "checkpoint").stat().st_mode & 0o777 == 0o700
    training.epochs(MemberProgress(**START.model_dump() | {"history": ({},) * 3}), [True])
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == [
        "best-0002.safetensors",
        "best-0003.safetensors",
        "epoch-0003",
        "epoch-0004",
    ]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_best_weights_are_for_all_to_read_whom_the_umask_lets(
    tmp_path: Path, umask: int, mode: int
) -> None:
    training, weights = SmallTraining(tmp_path), tmp_path / "model.safetensors"
    before = os.umask(umask)
    try:
        training.checkpoints.publish_best(training.epochs(START, [True]), weights, keep=False)
    finally:
        os.umask(before)
    assert weights.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    "name",
    [*(f"epoch-0003/{name}" for name in ("progress.json", "rank-0000.pt", "hashes.json")), BEST],
)
def test_training_goes_on_from_the_checkpoint_before_and_ends_in_the_same_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    first = SmallTraining(tmp_path)
    first.epochs(START, [True, False, True])
    expected, weights = first.digest(), tmp_path / "checkpoint" / "best-0002.safetensors"
    written = weights.read_bytes()
    path = tmp_path / "checkpoint" / name
    flip(path)

    second = SmallTraining(tmp_path, seed=1)
    with caplog.at_level(logging.WARNING, "lenshpc"):
        progress = second.load()
    assert caplog.messages == [f"{path} is damaged; training continues from epoch-0002"]
    assert (progress.place, progress.best_epoch) == ((2, 0), 0)
    # over the damaged one, which has the same name
    second.epoch(progress, is_best=True)
    assert second.digest() == expected
    assert weights.read_bytes() == written
    third = SmallTraining(tmp_path, seed=2)
    assert third.load().place == (3, 0)
    assert third.digest() == expected


def test_training_on_gpus_goes_on_where_there_is_none(tmp_path: Path) -> None:
    SmallTraining(tmp_path).epochs(START, [True])
    folder = tmp_path / "checkpoint" / "epoch-0001"
    rank, hashes = folder / "rank-0000.pt", folder / "hashes.json"
    state = torch.load(rank, weights_only=True)
    torch.save({**state, "cuda": torch.zeros(16, dtype=torch.uint8)}, rank)
    files = read_sealed(hashes)["files"]
    write_sealed(hashes, {"files": {**files, "epoch-0001/rank-0000.pt": sha256(rank)}})
    assert SmallTraining(tmp_path, seed=1).load().place == (1, 0)


def test_training_begins_anew_where_every_checkpoint_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    SmallTraining(tmp_path).epochs(START, [True, False])
    second = SmallTraining(tmp_path, seed=1)
    fresh = second.digest()
    path = tmp_path / "checkpoint" / "best-0000.safetensors"
    path.unlink()
    assert second.load() == START
    assert second.digest() == fresh
    assert caplog.messages == [f"{path} is damaged; training continues from epoch 0"] * 2
    # Stopped before there are best weights, it names none.
    second.save(START.model_copy(update={"begun": PartialEpoch(steps=1, lr=0.1)}))
    third = SmallTraining(tmp_path, seed=2)
    assert third.load().place == (0, 1)
    assert third.epoch(START, is_best=True).place == (1, 0)
    assert SmallTraining(tmp_path, seed=3).load().place == (1, 0)


def test_checkpoints_are_sorted_by_number(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path)
    late = MemberProgress(**START.model_dump() | {"history": ({"epoch": 1.0},) * 9998})
    training.epochs(late, [True, True])
    folders = sorted(path.name for path in (tmp_path / "checkpoint").glob("epoch-*"))
    assert folders == ["epoch-10000", "epoch-9999"]
    assert SmallTraining(tmp_path).load().place == (10_000, 0)


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path)
    training.epochs(MemberProgress(fingerprint="e" * 64, world_size=1), [True])
    with pytest.raises(ConfigError) as caught:
        training.load()
    assert str(caught.value) == (
        f"{tmp_path}/checkpoint/epoch-0001 belongs to training eeeeeeee, not ffffffff; move it away"
    )


def test_checkpoint_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path)
    training.epochs(START, [True])
    path = tmp_path / "checkpoint" / "epoch-0001" / "hashes.json"
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(DataError, match=r"hashes\.json cannot be read: Too many levels"):
        training.load()
