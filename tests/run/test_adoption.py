"""Members that other runs have trained are found by what decides them, and taken over."""

import json
import shutil
from pathlib import Path

import pytest
from ranks import planned, recipe

from lenshpc.engine.member import run_member
from lenshpc.engine.pace import MEASURED
from lenshpc.engine.signals import Signals
from lenshpc.errors import ConfigError
from lenshpc.files import sha256
from lenshpc.run.adoption import Offer, adopt_members, check_growth, find_offer
from lenshpc.run.completion import is_done, read_facts
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan
from lenshpc.run.results import gather
from lenshpc.store import Store

Trained = tuple[RunPaths, Plan]
EPOCHS = {"train__epochs": 2, "folds": 2}


def train(folder: Path, store: Store, give_up=None, **changes: object) -> Trained:
    """Return a run all of whose members are trained here."""
    run, plan = planned(folder, store, recipe(**changes))
    for member in plan.members:
        run_member(run, member.index, Signals(), give_up)
    return run, plan


def ask(folder: Path, store: Store, **changes: object) -> tuple[RunPaths, Plan, Offer]:
    """Return a run of a recipe, and what the runs in a folder have of its members."""
    run, plan = planned(folder, store, recipe(**changes))
    return run, plan, find_offer(run, plan, plan.members, folder)


def told(offer: Offer) -> dict[str, tuple[str, str]]:
    return {one.name: (source.state, source.title) for one, source in offer.found.items()}


def files_of(run: RunPaths, member: Member) -> dict[str, str]:
    paths = run.member(member.name)
    outputs = (paths.weights, paths.predictions, paths.metrics)
    return {path.name: sha256(path) for path in outputs}


@pytest.fixture(scope="module")
def first(spots: Store, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a run of two folds with a constant learning rate."""
    folder = tmp_path_factory.mktemp("first")
    return train(folder, spots, **EPOCHS, train__scheduler="constant")


@pytest.fixture
def runs(first: Trained, tmp_path: Path) -> Path:
    """Return a folder with a copy of it."""
    shutil.copytree(first[0].root, tmp_path / first[0].name)
    return tmp_path


def test_run_with_another_seed_name_and_ensemble_takes_over_what_is_done(
    first: Trained, runs: Path, spots: Store
) -> None:
    before = first[0]
    run, plan, offer = ask(
        runs, spots, **EPOCHS, train__scheduler="constant", seeds=[0, 1], name="grown"
    )
    old = [one for one in plan.members if one.seed == 0]
    assert told(offer) == {
        "000-test_resnet-fold0-seed0": ("done", f"{before.name}/000-test_resnet-fold0-seed0"),
        "002-test_resnet-fold1-seed0": ("done", f"{before.name}/001-test_resnet-fold1-seed0"),
    }
    assert adopt_members(run, plan, offer.found) == offer.found
    assert [one for one in plan.members if is_done(run, plan, one, verify=True)] == old
    there = RunPaths(runs / before.name)
    for mine, other in zip(old, first[1].members, strict=True):
        assert files_of(run, mine) == files_of(there, other)
        weights = run.member(mine.name).weights
        assert weights.samefile(there.member(other.name).weights), "linked, not copied"
        assert read_facts(run, mine)["adopted"] == f"{before.name}/{other.name}"
    for member in plan.members:
        run_member(run, member.index, Signals())
    results = gather(run, plan, {}, allow_partial=False)
    assert sorted(set(results.predictions()["model"])) == ["test_resnet"]


def test_adopted_member_outlives_the_run_that_it_came_from(
    first: Trained, runs: Path, spots: Store
) -> None:
    run, plan, offer = ask(runs, spots, **EPOCHS, train__scheduler="constant", ensemble="stacking")
    adopt_members(run, plan, offer.found)
    shutil.rmtree(runs / first[0].name)
    again = planned(runs, spots, recipe(**EPOCHS, train__scheduler="constant", name="third"))
    offer = find_offer(*again, again[1].members, runs)
    adopt_members(*again, offer.found)
    assert all(is_done(*again, one, verify=True) for one in again[1].members)
    titles = {read_facts(again[0], one)["adopted"] for one in again[1].members}
    assert titles == {f"{first[0].name}/{one.name}" for one in first[1].members}


@pytest.mark.parametrize(
    "changes",
    [
        {"train__lr": 2e-3},
        {"split_seed": 1},
        {"seeds": [5]},
        {"models": ["d4_net"]},
        {"resources__gpus_per_node": 2},
    ],
)
def test_what_decides_a_training_is_found_nowhere_else(
    runs: Path, spots: Store, changes: dict[str, object]
) -> None:
    asked = {**EPOCHS, "train__scheduler": "constant", **changes}
    assert told(ask(runs, spots, **asked)[2]) == {}


def test_altered_member_is_not_taken_over(first: Trained, runs: Path, spots: Store) -> None:
    weights = RunPaths(runs / first[0].name).member(first[1].members[1].name).weights
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    run, plan, offer = ask(runs, spots, **EPOCHS, train__scheduler="constant", name="other")
    taken = adopt_members(run, plan, offer.found)
    assert [one.fold for one in taken] == [0]
    assert [is_done(run, plan, one) for one in plan.members] == [True, False]


def test_run_that_others_may_write_gives_nothing(first: Trained, runs: Path, spots: Store) -> None:
    (runs / first[0].name / "plan.json").chmod(0o666)
    assert told(ask(runs, spots, **EPOCHS, train__scheduler="constant", name="b")[2]) == {}


def test_more_epochs_go_on_from_the_last_and_end_as_if_never_interrupted(
    first: Trained, runs: Path, spots: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    longer = {**EPOCHS, "train__epochs": 3, "train__scheduler": "constant"}
    run, plan, offer = ask(runs, spots, **longer)
    assert {state for state, _ in told(offer).values()} == {"begun"}
    check_growth(run, plan, offer.shorter)
    adopt_members(run, plan, offer.found)
    assert not any(is_done(run, plan, one) for one in plan.members)
    run_member(run, 0, Signals())
    alone, again = planned(tmp_path_factory.mktemp("alone"), spots, recipe(**longer))
    run_member(alone, 0, Signals())
    mine, other = (
        [
            json.loads(line)
            for line in one.member(plan.members[0].name).metrics.read_text().splitlines()
        ]
        for one in (run, alone)
    )
    untimed = [
        [{k: v for k, v in line.items() if k not in MEASURED} for line in some]
        for some in (mine, other)
    ]
    assert untimed[0] == untimed[1]
    assert len(mine) == 3
    weights = [one.member(plan.members[0].name).weights.read_bytes() for one in (run, alone)]
    assert weights[0] == weights[1]
    source = RunPaths(runs / first[0].name)
    assert is_done(source, first[1], first[1].members[0], verify=True), "the origin is as it was"
    assert again == plan


def test_checkpoint_is_taken_over_whole_or_not_at_all(
    first: Trained, runs: Path, spots: Store
) -> None:
    more = EPOCHS | {"train__epochs": 3, "train__scheduler": "constant"}
    run, plan, offer = ask(runs, spots, **more)
    found = RunPaths(runs / first[0].name).member(plan.members[0].name).checkpoint
    (lost,) = found.glob("epoch-*/rank-0000.pt")
    kept = lost.read_bytes()
    lost.unlink()
    assert set(adopt_members(run, plan, offer.found)) == {plan.members[1]}
    paths = run.member(plan.members[0].name)
    assert [path.name for path in paths.root.iterdir()] == []
    lost.write_bytes(kept)
    assert set(adopt_members(run, plan, offer.found)) == {plan.members[0]}, "the other has it"
    adopted = paths.checkpoint.glob("epoch-*/rank-0000.pt")
    assert {sha256(path) for path in adopted} == {sha256(lost)}


def test_adopted_member_goes_on_to_more_epochs_when_its_first_run_is_gone(
    first: Trained, runs: Path, spots: Store
) -> None:
    constant = EPOCHS | {"train__scheduler": "constant"}
    run, _, offer = ask(runs, spots, **constant, name="second")
    assert len(adopt_members(run, first[1], offer.found)) == 2
    shutil.rmtree(runs / first[0].name)
    _, _, offer = ask(runs, spots, **constant | {"train__epochs": 3})
    names = [member.name for member in first[1].members]
    assert told(offer) == {name: ("begun", f"{run.name}/{name}") for name in names}


def test_more_epochs_under_cosine_need_restart_and_say_why(spots: Store, tmp_path: Path) -> None:
    before, _ = train(tmp_path, spots, train__epochs=1, folds=1)
    run, plan, offer = ask(tmp_path, spots, train__epochs=2, folds=1)
    assert told(offer) == {}
    with pytest.raises(ConfigError) as refused:
        check_growth(run, plan, offer.shorter)
    assert str(refused.value) == (
        f"member 0 (test_resnet fold 0 seed 0) of run {run.name} is done with 1 epochs in "
        f"{before.name}, and training cannot continue from there to 2: its steps would differ "
        "from the first one on, as train.scheduler cosine falls over 2 train.schedule_epochs; "
        "give --restart to train 1 of 1 members from the beginning"
    )


def test_cosine_over_a_schedule_that_was_said_goes_on(spots: Store, tmp_path: Path) -> None:
    train(tmp_path, spots, train__epochs=1, train__schedule_epochs=2, folds=1)
    _, plan, offer = ask(tmp_path, spots, train__epochs=2, folds=1)
    assert [source.state for source in offer.found.values()] == ["begun"]
    said = planned(tmp_path, spots, recipe(train__epochs=2, train__schedule_epochs=2, folds=1))[1]
    assert said.member_fingerprint(said.members[0]) == plan.member_fingerprint(plan.members[0])


def test_member_with_a_checkpoint_of_its_own_is_not_told_as_taken_over(
    runs: Path, spots: Store
) -> None:
    longer = {**EPOCHS, "train__epochs": 3, "train__scheduler": "constant"}
    run, plan, offer = ask(runs, spots, **longer)
    first = plan.members[0]
    run.member(first.name).checkpoint.mkdir(parents=True)
    assert list(adopt_members(run, plan, offer.found)) == [plan.members[1]]


def test_removed_checkpoint_is_the_reason_that_is_told(spots: Store, tmp_path: Path) -> None:
    train(tmp_path, spots, train__epochs=1, folds=1)
    able, plan = train(tmp_path, spots, train__epochs=1, train__schedule_epochs=2, folds=1)
    shutil.rmtree(able.member(plan.members[0].name).checkpoint)
    run, plan, offer = ask(tmp_path, spots, train__epochs=2, folds=1)
    with pytest.raises(ConfigError, match=rf"{able.name}, .*: its last checkpoint was removed; "):
        check_growth(run, plan, offer.shorter)


def test_trial_is_taken_over_and_left_to_predict(spots: Store, tmp_path: Path) -> None:
    trials = tmp_path / "study" / "trials"
    there, _ = train(trials, spots, lambda _: False, train__epochs=1, folds=1)
    run, plan, offer = ask(tmp_path, spots, train__epochs=1, folds=1, name="best")
    member = plan.members[0]
    assert told(offer) == {member.name: ("trained", f"{there.name}/{member.name}")}
    adopt_members(run, plan, offer.found)
    weights = run.member(member.name).weights.stat().st_ino
    run_member(run, 0, Signals())
    assert is_done(run, plan, member, verify=True)
    assert run.member(member.name).weights.stat().st_ino == weights, "nothing was trained again"


def test_nearest_run_says_what_differs(first: Trained, runs: Path, spots: Store) -> None:
    offer = ask(runs, spots, **EPOCHS, train__scheduler="constant", train__lr=5e-3)[2]
    assert offer.nearest == RunPaths(runs / first[0].name)
    assert offer.differences == {"train.lr": (1e-3, 5e-3)}


def test_only_some_folds_are_members_and_the_others_are_added_later(
    spots: Store, tmp_path: Path
) -> None:
    some = {"train__epochs": 1, "folds": 3}
    train(tmp_path, spots, **some, only_folds=[1])
    _, plan, offer = ask(tmp_path, spots, **some)
    assert [one.fold for one in offer.found] == [1]
    assert [one.fold for one in plan.members] == [0, 1, 2]
