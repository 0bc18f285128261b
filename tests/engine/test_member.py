"""A member whose files were damaged ends with the files of one that was left alone."""

import json
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
from damage import flip
from ranks import planned, recipe

from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals, Stopped
from lenshpc.files import read_json, sha256
from lenshpc.run.completion import is_done, missing_members
from lenshpc.run.durations import format_seconds
from lenshpc.run.paths import MemberPaths, RunPaths
from lenshpc.run.plan import Plan
from lenshpc.store import Store


def stop_after_a_step(run: RunPaths) -> None:
    """Run the first member with a signal that has come before it began."""
    signals = Signals()
    signals.received = signal.SIGUSR2
    with pytest.raises(Stopped):
        run_member(run, 0, signals)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was warned of."""
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def outcome(paths: MemberPaths) -> list[str]:
    """Return the hashes of what a report reads, but for the seconds in metrics.jsonl."""
    arrays = sorted(path for path in paths.arrays.rglob("*") if path.is_file())
    return [sha256(path) for path in (paths.weights, paths.predictions, *arrays)]


@pytest.fixture(scope="module")
def undisturbed(spots: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunPaths, Plan]:
    """Return a run whose first member is done."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run, plan = planned(folder, spots, recipe(folds=2, train__epochs=2))
    run_member(run, 0, Signals())
    return run, plan


@pytest.fixture
def run(undisturbed: tuple[RunPaths, Plan], tmp_path: Path) -> RunPaths:
    """Return a copy of it to damage."""
    return RunPaths(shutil.copytree(undisturbed[0].root, tmp_path / undisturbed[0].name))


def test_member_leaves_no_variables_to_jobs_that_this_process_sends_later(
    run: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "7")
    before = dict(os.environ)
    run_member(run, 0, Signals())
    assert dict(os.environ) == before


def test_training_writes_a_line_an_epoch_to_its_log(
    run: RunPaths, undisturbed: tuple[RunPaths, Plan], caplog: pytest.LogCaptureFixture
) -> None:
    paths = run.member(undisturbed[1].members[0].name)
    shutil.rmtree(paths.root)
    stop_after_a_step(run)
    run_member(run, 0, Signals())
    epochs = [json.loads(line) for line in paths.metrics.read_text().splitlines()]
    monitor = undisturbed[1].recipe.monitor[0]
    best = read_json(paths.done)["best_epoch"]
    told = [one.getMessage() for one in caplog.records if one.name == "lenshpc.engine.loop"]

    def tell_best(number: int) -> str:
        if best + 1 >= number:
            return "best"
        return f"best {epochs[best][f'val_{monitor}']:.4g} of epoch {best + 1}"

    def tell_left(number: int) -> str:
        return f", {format_seconds(epochs[0]['seconds'])} left" if number == 1 else ""

    assert told == [
        f"epoch {number}/2: train loss {epoch['train_loss']:.4g}, "
        f"val loss {epoch['val_loss']:.4g}, val {monitor} {epoch[f'val_{monitor}']:.4g} "
        f"({tell_best(number)}), {epoch['seconds']:.1f} s, {epoch['images_per_s']:.4g} images/s, "
        f"{epoch['step_s']:.3g} s a step, {epoch['waiting']:.0%} waiting for data, "
        f"{epoch['tflops']:.3g} TFLOP/s, {epoch['host_gb']:.3g} GB of the host's{tell_left(number)}"
        for number, epoch in enumerate(epochs, start=1)
    ]


def test_damaged_checkpoint_costs_what_came_after_the_one_before(
    run: RunPaths, undisturbed: tuple[RunPaths, Plan], caplog: pytest.LogCaptureFixture
) -> None:
    original, plan = undisturbed
    name = plan.members[0].name
    shutil.rmtree(run.member(name).root)
    for _ in range(3):
        stop_after_a_step(run)
    newest = run.member(name).checkpoint / "epoch-0000-step-00000003"
    flip(newest / "rank-0000.pt")
    caplog.clear()
    run_member(run, 0, Signals())
    assert warnings_in(caplog) == [
        f"{newest / 'rank-0000.pt'} is damaged; training continues from epoch-0000-step-00000002"
    ]
    assert outcome(run.member(name)) == outcome(original.member(name))
    assert is_done(run, plan, plan.members[0], verify=True)


def test_damaged_weights_are_trained_anew_and_nobody_takes_the_old_mark_for_the_new(
    run: RunPaths, undisturbed: tuple[RunPaths, Plan], caplog: pytest.LogCaptureFixture
) -> None:
    original, plan = undisturbed
    paths = run.member(plan.members[0].name)
    flip(paths.weights)
    told = "has a model.safetensors that was altered after it finished"
    assert missing_members(run, plan)[plan.members[0]] == told
    stop_after_a_step(run)
    assert warnings_in(caplog) == [f"{paths.weights} is damaged or gone; it is made again"]
    assert not paths.done.exists()
    assert not paths.progress.exists()
    run_member(run, 0, Signals())
    assert outcome(paths) == outcome(original.member(paths.root.name))
    assert is_done(run, plan, plan.members[0], verify=True)


def test_best_weights_are_not_published_once_they_were_damaged(
    run: RunPaths, undisturbed: tuple[RunPaths, Plan], caplog: pytest.LogCaptureFixture
) -> None:
    # As it is where a member is killed between the end of training and the rename.
    original, plan = undisturbed
    paths = run.member(plan.members[0].name)
    paths.done.unlink()
    paths.checkpoint.mkdir()
    best = paths.checkpoint / f"best-{read_json(paths.progress)['best_epoch']:04d}.safetensors"
    paths.weights.rename(best)
    flip(best)
    run_member(run, 0, Signals())
    assert warnings_in(caplog) == [f"{best} is damaged or gone; it is made again"]
    assert outcome(paths) == outcome(original.member(paths.root.name))


@pytest.mark.parametrize("content", ["null", '{"history": [], "sha256": "0"}'])
def test_damaged_progress_is_trained_again(
    run: RunPaths,
    undisturbed: tuple[RunPaths, Plan],
    caplog: pytest.LogCaptureFixture,
    content: str,
) -> None:
    original, plan = undisturbed
    paths = run.member(plan.members[0].name)
    paths.done.unlink()
    paths.progress.write_text(content, encoding="utf-8")
    run_member(run, 0, Signals())
    assert [one.partition(" is ")[0] for one in warnings_in(caplog)] == [str(paths.progress)]
    assert outcome(paths) == outcome(original.member(paths.root.name))
