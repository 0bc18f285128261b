"""A member that is trained to be measured only."""

from pathlib import Path

import pytest
from ranks import planned, recipe

from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.loop import GivenUp
from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.files import read_sealed
from lenshpc.launch.states import run_status
from lenshpc.run.completion import is_done
from lenshpc.store import Store


def test_trial_is_trained_and_predicts_nothing_and_may_be_predicted_later(
    spots: Store, tmp_path: Path
) -> None:
    run, plan = planned(tmp_path, spots, recipe(train__epochs=2))
    member = plan.members[0]
    paths, seen = run.member(member.name), list[int]()

    def never(progress: MemberProgress) -> bool:
        seen.append(progress.epochs_done)
        return False

    run_member(run, 0, Signals(), never)
    assert seen == [1, 2]
    ended = MemberProgress.model_validate(read_sealed(paths.progress))
    assert ended.epochs_done == 2
    assert not paths.predictions.exists()
    assert not paths.done.exists()
    states = [line.state for line in run_status(run, plan).members]
    assert states == ["TRAINED", "NOT SUBMITTED", "NOT SUBMITTED"]
    weights = paths.weights.read_bytes()
    run_member(run, 0, Signals(), never)
    assert seen == [1, 2], "what is trained is not trained again"
    run_member(run, 0, Signals())
    assert paths.weights.read_bytes() == weights
    assert is_done(run, plan, member, verify=True)


def test_trial_that_promises_nothing_is_ended_after_an_epoch(spots: Store, tmp_path: Path) -> None:
    run, plan = planned(tmp_path, spots, recipe(train__epochs=3))
    with pytest.raises(GivenUp, match=r"^epoch 2/3: "):
        run_member(run, 0, Signals(), lambda progress: progress.epochs_done == 2)
    paths = run.member(plan.members[0].name)
    assert len(paths.metrics.read_text().splitlines()) == 2
    assert not paths.progress.exists()
