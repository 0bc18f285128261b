"""A run of two networks and two folds that were trained, in seconds, with its report."""

from pathlib import Path

from ranks import planned, recipe
from spots import write_store

from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.files import write_json
from lenshpc.run.paths import RunPaths
from lenshpc.store import Store

NUM_DEV, NUM_TEST = 40, 12
SUBMISSION = {
    "command": "lenshpc submit --runs /home/somebody/runs",
    "folder": "/home/somebody/work",
    "user": "somebody",
    "host": "login-7",
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "timm": "1.0.31"},
    "git": {"commit": "0123abcd" * 5, "clean": True, "diff": None},
}


def make_trained_run(folder: Path, **changes: object) -> tuple[RunPaths, Store]:
    """Return a run in `folder`/runs that is done, and the store that it was trained on."""
    import numpy as np

    labels = np.arange(NUM_DEV + NUM_TEST) % 2
    splits = ["train"] * NUM_DEV + ["test"] * NUM_TEST
    store = write_store(folder / "store", labels, splits)
    asked = {
        "task": "lens-finding",
        "models": ["test_resnet", "d4_net"],
        "folds": 2,
        "train__epochs": 1,
        "resources__gpus_per_node": 0,
        **changes,
    }
    (folder / "runs").mkdir()
    run, plan = planned(folder / "runs", store, recipe(**asked))
    write_json(run.provenance, {"submission 1": SUBMISSION})
    for member in plan.members:
        run_member(run, member.index, Signals())
    return run, store
