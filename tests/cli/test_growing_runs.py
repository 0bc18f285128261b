"""What `submit` says of members that other runs have trained."""

import json

import pytest
import yaml
from click.testing import CliRunner
from trained_run import TrainedRun, train_run

from lenshpc.cli.main import main

RECIPE = {
    "task": "multiclass",
    "models": ["d4_net"],
    "folds": 2,
    "train": {"epochs": 1, "batch_size": 16, "lr": 3e-3},
    "resources": {"gpus_per_node": 0},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """Return a run of a tiny network and two folds."""
    folder = tmp_path_factory.mktemp("growing")
    (folder / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    return train_run(folder, models=("d4_net",), train=RECIPE["train"])


def submit(trained: TrainedRun, monkeypatch: pytest.MonkeyPatch, *words: str):
    monkeypatch.chdir(trained.images.parent)
    given = ["submit", "--recipe", "./mine.yaml", "--data", "store", *words]
    return CliRunner().invoke(main, given)


def test_dry_run_says_what_becomes_of_each_member_and_what_differs(trained, monkeypatch):
    told = submit(trained, monkeypatch, "--seeds", "0,1", "--dry-run").stdout.splitlines()
    run = trained.paths.name
    at = next(at for at, line in enumerate(told) if line.startswith("element"))
    assert told[at:] == [
        "element  member                  what happens to it",
        f"      0  000-d4_net-fold0-seed0  done, taken over from {run}/000-d4_net-fold0-seed0",
        "      1  001-d4_net-fold0-seed1  submitted",
        f"      2  002-d4_net-fold1-seed0  done, taken over from {run}/001-d4_net-fold1-seed0",
        "      3  003-d4_net-fold1-seed1  submitted",
        "",
        f"nearest run: {run}, which differs in",
        "key    there  here",
        "seeds  [0]    [0, 1]",
    ]


def test_no_adopt_sends_everything(trained, monkeypatch):
    told = submit(trained, monkeypatch, "--name", "b", "--no-adopt", "--dry-run").stdout
    assert told.count("  submitted\n") + told.endswith("  submitted") == 2


def test_another_ensemble_sends_the_report_alone(trained, monkeypatch):
    done = submit(trained, monkeypatch, "--name", "b", "--set", "ensemble=stacking", "--wait")
    assert done.exit_code == 0, done.stderr
    run = trained.paths.name
    assert f"2 members taken over from {run}, done" in done.stderr
    status = CliRunner().invoke(main, ["status", "b", "--json"])
    lines = json.loads(status.stdout)["members"]
    assert [(one["state"], one["adopted"], one["gpu_hours"]) for one in lines] == [
        ("DONE", f"{run}/000-d4_net-fold0-seed0", 0.0),
        ("DONE", f"{run}/001-d4_net-fold1-seed0", 0.0),
    ]


def test_more_epochs_under_cosine_ask_for_restart(trained, monkeypatch):
    refused = submit(trained, monkeypatch, "--set", "train.epochs=2", "--dry-run")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.endswith("; give --restart to train 2 of 2 members from the beginning\n")
    told = submit(trained, monkeypatch, "--set", "train.epochs=2", "--dry-run", "--restart").stdout
    assert "train.epochs  1      2" in told
