"""No byte of a checkpoint decides on weights once it is another than was written."""

import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
from damage import FULL, QUICK, SEEDS, damaged, files_below
from hypothesis import given
from small_training import START, SmallTraining


@dataclass(frozen=True)
class Saved:
    """A folder with two checkpoints, and the state that each is to bring back."""

    folder: Path
    files: list[Path]
    states: dict[tuple[int, int], str]
    told: list[str]


class _Listener(logging.Handler):
    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told.append(record.getMessage())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Train three epochs, of which the first and the last are the best."""
    folder = tmp_path_factory.mktemp("saved")
    training, progress, states = SmallTraining(folder), START, {}
    for is_best in (True, False, True):
        progress = training.epoch(progress, is_best=is_best)
        states[progress.place] = training.digest()
    told: list[str] = []
    logging.getLogger("lenshpc.engine.checkpoint").addHandler(_Listener(told))
    return Saved(folder, files_below(folder / "checkpoint"), states, told)


def check(saved: Saved, seed: int) -> None:
    """Damage a file and load: the state is that of one of the checkpoints, whole."""
    saved.told.clear()
    training = SmallTraining(saved.folder, seed=7)
    with damaged(saved.files, seed) as path:
        place = training.load().place
    assert training.digest() == saved.states[place]
    if place == (2, 0):
        assert saved.told == [f"{path} is damaged; training continues from epoch-0002"]
        return
    assert (place, saved.told) == ((3, 0), [])
    # What the newest one needs is never passed over, but for blanks between the hashes.
    newest = path.parent.name == "epoch-0003" or path.name == "best-0002.safetensors"
    assert not newest or path.name == "hashes.json", path


@QUICK
@given(seed=SEEDS)
def test_checkpoint_never_brings_other_weights(saved: Saved, seed: int) -> None:
    check(saved, seed)


@pytest.mark.slow
@FULL
@given(seed=SEEDS)
def test_checkpoint_never_brings_other_weights_in_2000_tries(saved: Saved, seed: int) -> None:
    check(saved, seed)
