"""The journal, from several processes, and after some of them were killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import recipe
from studies import began, formula, searching

from lenshpc.engine.signals import Signals
from lenshpc.errors import DataError
from lenshpc.store import Store
from lenshpc.tuning.boards import list_due, open_journal, read_trials, release
from lenshpc.tuning.element import run_element

ASK = """
import sys
from pathlib import Path
from lenshpc.tuning.boards import Journal
from lenshpc.tuning.study import Study
for element in map(int, sys.argv[2:]):
    board = Journal(Study(Path(sys.argv[1])), element)
    trial = board.take()
    steps = {step: trial.values["train.lr"] for step in range(3)}
    board.report(steps)
    told = {"state": "COMPLETE", "value": trial.values["train.lr"], "steps": steps}
    board.tell(trial.model_copy(update=told))
"""
RANK = """
import sys
from lenshpc.worker import run_trial
run_trial(sys.argv[1], int(sys.argv[2]))
"""


def test_processes_that_ask_at_once_get_trials_of_their_own(spots: Store, tmp_path: Path) -> None:
    study = began(tmp_path, spots, searching({"trials": 12, "pruner": "none"}))
    shares = [[str(element) for element in range(first, 12, 3)] for first in range(3)]
    asking = [
        subprocess.Popen([sys.executable, "-c", ASK, str(study.root), *share]) for share in shares
    ]
    assert [process.wait(timeout=120) for process in asking] == [0, 0, 0]
    trials = read_trials(study)
    assert [one.number for one in trials] == list(range(12))
    assert all(one.state == "COMPLETE" and len(one.steps) == 3 for one in trials)
    assert all(one.value == one.values["train.lr"] for one in trials)
    assert len({one.value for one in trials}) == 12
    assert list_due(study) == ()
    assert [path.name for path in study.root.iterdir() if "lock" in path.name] == []


def test_journal_that_a_lost_node_has_cut_off_is_mended(spots: Store, tmp_path: Path) -> None:
    study = began(tmp_path, spots, searching({"trials": 3, "pruner": "none"}))
    run_element(study, 0, Signals(), formula())
    open_journal(study).ask()  # by a job that was killed before it said whose trial it is
    whole = study.journal.read_bytes()
    study.journal.write_bytes(whole + b'{"op_code":5,"wor')
    release(study)
    assert study.journal.read_bytes().startswith(whole)
    assert [one.state for one in read_trials(study)] == ["COMPLETE", "FAIL"]
    assert list_due(study) == (1, 2)
    run_element(study, 1, Signals(), formula())
    assert [one.state for one in read_trials(study)] == ["COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.slow
def test_journal_with_a_damaged_line_is_refused_in_words(spots: Store, tmp_path: Path) -> None:
    study = began(tmp_path, spots, searching({"trials": 1}))
    lines = study.journal.read_text().splitlines()
    study.journal.write_text("\n".join([lines[0], lines[1][:9], *lines[2:]]) + "\n")
    for look in (read_trials, list_due, release):
        with pytest.raises(DataError, match=r"journal.log is damaged.*--set search.seed=1$"):
            look(study)


def test_ranks_of_a_trial_go_from_fold_to_fold_together(spots: Store, tmp_path: Path) -> None:
    cpus = {"gpus_per_node": 0, "tasks_per_node": 2}
    asked = recipe(folds=3, resources=cpus, train__epochs=1, search={"trials": 1})
    study = began(tmp_path, spots, asked)
    shared = {
        "CUDA_VISIBLE_DEVICES": "",
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "1",
        "SUBMITIT_LOCAL_NTASKS": "2",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(study.base.root), "0"],
            env={
                **os.environ,
                **shared,
                "SUBMITIT_LOCAL_GLOBALID": str(rank),
                "SUBMITIT_LOCAL_LOCALID": str(rank),
            },
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    (trial,) = read_trials(study)
    assert trial.state == "COMPLETE"
    assert sorted(trial.steps) == [0, 1, 2]
    assert list((study.base.slurm / "talk").iterdir()) == []
