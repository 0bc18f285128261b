"""Checkpoints are written while training goes on: what is in them, when, and what goes wrong."""

import json
import re
import signal
import threading
from pathlib import Path

import pytest
import torch
from accelerator import GPU, pretend_gpu
from damage import files_below, files_of_at_most
from ranks import planned, recipe
from safetensors.torch import load_file
from small_training import START, SmallTraining
from torch import nn

from lenshpc.engine.checkpoint import Checkpoints, MemberProgress, PartialEpoch
from lenshpc.engine.lease import Lease
from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals, Stopped
from lenshpc.engine.snapshot import HostMemory, count_bytes
from lenshpc.engine.writer import Order, Writer
from lenshpc.errors import LensHpcError
from lenshpc.files import read_sealed, sha256
from lenshpc.run.attempts import read_events
from lenshpc.run.paths import RunPaths
from lenshpc.store import Store


def begun(steps: int) -> MemberProgress:
    """Return the progress after some steps of the first epoch."""
    return START.model_copy(update={"begun": PartialEpoch(steps=steps, lr=0.1)})


def checkpoints_of(training: SmallTraining, folder: Path, interval_s: float) -> Checkpoints:
    """Return other checkpoints of a training, with an interval."""
    return Checkpoints(folder / "checkpoint", Lease(folder / "owner", "one"), interval_s)


def step(training: SmallTraining) -> None:
    """Take a step on drawn images."""
    batch: dict = {"image": torch.rand(8, 3)}
    training.loss_sum.add_(training.strategy.step(batch))
    training.schedule.after_step()


def test_checkpoint_holds_what_was_when_it_was_asked_for(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path)
    step(training)
    expected = training.digest()
    for steps in (1, 2, 3):
        training.checkpoints.save(
            training.strategy, training.schedule, training.loss_sum, begun(steps)
        )
        expected = training.digest()
        step(training)
    training.checkpoints.finish()
    second = SmallTraining(tmp_path, seed=1)
    assert second.load() == begun(3)
    assert second.digest() == expected


def test_one_checkpoint_at_a_time_is_written_and_told_once_it_is_there(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path)
    told: list[tuple[int, int]] = []
    published, go_on = threading.Event(), threading.Event()

    def hear(progress: MemberProgress) -> None:
        assert (tmp_path / "checkpoint" / "epoch-0000-step-00000001" / "hashes.json").exists()
        told.append(progress.place)
        published.set()
        assert go_on.wait(30)

    checkpoints = Checkpoints(
        tmp_path / "checkpoint", Lease(tmp_path / "owner", "one"), 1e-9, on_save=hear
    )
    checkpoints.save(training.strategy, training.schedule, training.loss_sum, begun(1))
    assert published.wait(30)
    assert not checkpoints.is_due(), "it would be waited for"
    go_on.set()
    checkpoints.finish()
    assert checkpoints.is_due()
    assert told == [(0, 1)]


@pytest.mark.parametrize(
    ("interval_s", "within", "after"), [(0.0, False, True), (1e-9, True, True), (1e9, False, False)]
)
def test_checkpoint_is_due_by_the_clock_or_after_each_epoch(
    tmp_path: Path, interval_s: float, within: bool, after: bool
) -> None:
    checkpoints = checkpoints_of(SmallTraining(tmp_path), tmp_path, interval_s)
    assert (checkpoints.is_due(), checkpoints.is_due(after_epoch=True)) == (within, after)


def test_best_weights_wait_in_memory_for_the_next_checkpoint(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path)
    expected = {}
    progress = START
    for epoch in range(3):
        step(training)
        training.checkpoints.keep_best(training.strategy)
        with training.strategy.weights() as weights:
            expected = {name: value.clone() for name, value in weights.items()}
        history = (*progress.history, {"epoch": 1.0})
        progress = progress.model_copy(update={"history": history, "best_epoch": epoch})
    assert files_below(tmp_path / "checkpoint") == []
    step(training)
    within = progress.model_copy(update={"begun": PartialEpoch(steps=1, lr=0.1)})
    training.save(within)
    found = load_file(training.checkpoints.best(within))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert SmallTraining(tmp_path, seed=1).load() == within


def test_checkpoint_that_cannot_be_written_ends_training_and_leaves_the_one_before(
    tmp_path: Path,
) -> None:
    training = SmallTraining(tmp_path)
    training.save(begun(1))
    before = [(path, sha256(path)) for path in files_below(tmp_path / "checkpoint")]
    step(training)
    with files_of_at_most(2000):
        training.checkpoints.save(training.strategy, training.schedule, training.loss_sum, begun(2))
        with pytest.raises(LensHpcError) as caught:
            training.checkpoints.finish()
    assert str(caught.value) == (
        f"{tmp_path}/checkpoint/epoch-0000-step-00000002 cannot be written: File too large; the "
        "checkpoint before it is kept: check the folder's permissions and the file system, then "
        "resume the run"
    )
    assert [(path, sha256(path)) for path in files_below(tmp_path / "checkpoint")] == before
    assert list((tmp_path / "checkpoint").glob(".*")) == []


def test_failure_is_told_within_the_epoch(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path)
    saved = (training.strategy, training.schedule, training.loss_sum)
    with files_of_at_most(2000):
        training.checkpoints.save(*saved, begun(1))
        while not training.checkpoints.is_due():  # by nothing but the failure: there is no interval
            pass
    with pytest.raises(LensHpcError, match="cannot be written: File too large"):
        training.checkpoints.save(*saved, begun(2))


def test_checkpoint_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path)
    training.save(begun(1))
    before = files_below(tmp_path / "checkpoint")
    vast = torch.zeros((), dtype=torch.float64).expand(10**14)
    with pytest.raises(LensHpcError) as caught:
        training.checkpoints.save(training.strategy, training.schedule, vast, begun(2))
    assert re.fullmatch(
        f"{tmp_path}/checkpoint cannot be written: No space left on device "
        r"\(\d+ MB are free\); a checkpoint needs 800000000 MB, and earlier ones are kept: "
        "free as much, or have your quota raised, then resume the run",
        str(caught.value),
    )
    assert files_below(tmp_path / "checkpoint") == before


def test_state_on_a_gpu_is_copied_without_a_read_and_into_the_same_memory() -> None:
    torch.manual_seed(0)
    memory = HostMemory()
    with pretend_gpu() as traffic:
        model = nn.Linear(3, 2).to(GPU)
        state = {"model": model.state_dict(), "steps": [1, 2.5], "none": None}
        traffic.clear()
        first = memory.copy(state)
        assert (traffic.sent, traffic.fetched, traffic.reads) == (0, 2, 0), traffic.where
        expected = {name: value.cpu() for name, value in state["model"].items()}
        with torch.no_grad():
            model.weight.add_(1)
        assert count_bytes(state) == 4 * (6 + 2)
    assert (first["steps"], first["none"]) == ([1, 2.5], None)
    assert all(torch.equal(first["model"][name], expected[name]) for name in expected)
    again = memory.copy(first)
    assert again["model"]["weight"].data_ptr() == first["model"]["weight"].data_ptr()


def test_rank_0_publishes_when_each_rank_has_written_and_not_once_it_gave_up(
    tmp_path: Path,
) -> None:
    (tmp_path / "owner").write_text("one", encoding="utf-8")
    writers = [Writer(Lease(tmp_path / "owner", "one"), rank, num_ranks=2) for rank in (0, 1)]
    told = []

    def order(name: str) -> Order:
        draft, final = tmp_path / f".{name}", tmp_path / name
        draft.mkdir()
        return Order(
            state={"number": torch.ones(3)},
            arrived=lambda: None,
            best={},
            best_path=tmp_path / "best",
            best_sha256="",
            progress={},
            draft=draft,
            final=final,
            kept=frozenset({final, tmp_path / "owner"}),
            size=12,
            published=lambda: told.append(name),
        )

    writers[0].start(order("first"))
    writers[0].parts[0].result()
    assert not writers[0].is_idle
    writers[0].give_up()  # the other rank has failed
    assert writers[0].has_failed
    assert [path.name for path in tmp_path.iterdir()] == ["owner"]
    second = order("second")
    for writer in writers:
        writer.start(second)
    for writer in writers:
        assert [part.result() for part in writer.parts] == ["", ""]
    assert told == ["second"]
    files = read_sealed(tmp_path / "second" / "hashes.json")["files"]
    assert sorted(files) == [
        f"second/{name}" for name in ("progress.json", "rank-0000.pt", "rank-0001.pt")
    ]
    assert all(sha256(tmp_path / name) == digest for name, digest in files.items())


def places_of(run: RunPaths) -> list[tuple[int, int]]:
    """Return where each checkpoint of a run's only job was."""
    (path,) = run.slurm.glob("*_attempts.jsonl")
    return [event.place for event in read_events(path) if event.what == "saved"]


def test_interval_decides_when_a_member_saves_and_not_what_it_learns(
    spots: Store, tmp_path: Path
) -> None:
    outcomes, epochs = [], 2
    for minutes, places in ((0, [(0, 0), (1, 0), (2, 0)]), (1000, [(0, 0), (2, 0)])):
        asked = recipe(folds=2, train={"epochs": epochs, "lr": 1e-3, "checkpoint_min": minutes})
        run, plan = planned(tmp_path / str(minutes), spots, asked)
        run_member(run, 0, Signals())
        assert places_of(run) == places
        paths = run.member(plan.members[0].name)
        assert len(paths.metrics.read_text().splitlines()) == epochs
        outcomes.append((plan.member_fingerprint(plan.members[0]), sha256(paths.weights)))
    asked = recipe(folds=2, train={"epochs": epochs, "lr": 1e-3, "checkpoint_min": 1e-9})
    run, plan = planned(tmp_path / "often", spots, asked)
    run_member(run, 0, Signals())
    assert any(step for _, step in places_of(run))
    weights = sha256(run.member(plan.members[0].name).weights)
    assert {*outcomes, (plan.member_fingerprint(plan.members[0]), weights)} == {outcomes[0]}


def test_history_is_cut_to_the_checkpoint_that_is_gone_on_from(
    spots: Store, tmp_path: Path
) -> None:
    run, plan = planned(tmp_path, spots, recipe(folds=2, train__epochs=1))
    signals = Signals()
    signals.received = signal.SIGUSR2
    with pytest.raises(Stopped):
        run_member(run, 0, signals)
    metrics = run.member(plan.members[0].name).metrics
    metrics.write_text('{"epoch": 0}\n{"epoch": 1}\n', encoding="utf-8")  # of epochs not saved
    with pytest.raises(Stopped):
        run_member(run, 0, signals)
    assert metrics.read_text() == ""
    run_member(run, 0, Signals())
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == [0]
