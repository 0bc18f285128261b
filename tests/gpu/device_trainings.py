"""Members trained on a device, all in one process of its own: CUDA is chosen once a process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ranks import planned, recipe

from lenshpc.run.completion import is_done, read_facts
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan
from lenshpc.store import Store

SCRIPT = """
import sys
from lenshpc.worker import run_member
for root in sys.argv[1:]:
    run_member(root, 0)
"""


@dataclass(frozen=True)
class Training:
    """A run whose only member was trained, and what its process wrote."""

    run: RunPaths
    plan: Plan
    output: str

    @property
    def losses(self) -> list[float]:
        """Return training and validation loss of each epoch."""
        self.require()
        lines = self.run.member(self.plan.members[0].name).metrics.read_text().splitlines()
        return [json.loads(line)[key] for line in lines for key in ("train_loss", "val_loss")]

    @property
    def facts(self) -> dict[str, Any]:
        """Return what the member noted of itself."""
        self.require()
        return read_facts(self.run, self.plan.members[0])

    @property
    def predictions(self) -> pd.DataFrame:
        """Return the table of what it predicted."""
        self.require()
        return pd.read_parquet(self.run.member(self.plan.members[0].name).predictions)

    def require(self) -> None:
        """Fail with what the process wrote, unless the member is done."""
        assert is_done(self.run, self.plan, self.plan.members[0]), self.output


def start(
    roots: list[Path], device: str, rank: int = 0, world_size: int = 1
) -> subprocess.Popen[str]:
    """Start a rank of the first member of some runs, one run after the other."""
    environment = {
        **os.environ,
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "1",
        "SUBMITIT_LOCAL_NTASKS": str(world_size),
        "SUBMITIT_LOCAL_GLOBALID": str(rank),
        "SUBMITIT_LOCAL_LOCALID": str(rank),
    }
    visible = environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, roots)],
        env={**environment, "CUDA_VISIBLE_DEVICES": visible if device == "cuda" else ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(
    folder: Path, store: Store, device: str, ways: Mapping[str, Mapping[str, Any]]
) -> dict[str, Training]:
    """Train a member in each of the ways: keys of the recipe, as `ranks.recipe` takes them."""
    # As a CPU computes, unless a way says otherwise: so the losses can be compared.
    plain = {"folds": 1, "train__tf32": False, "train__channels_last": False}
    gpus = {"resources__gpus_per_node": int(device == "cuda")}
    runs = {}
    for name, changes in ways.items():
        (folder / name).mkdir()
        runs[name] = planned(folder / name, store, recipe(**{**plain, **gpus, **changes}))
    output, _ = start([run.root for run, _ in runs.values()], device).communicate(timeout=600)
    return {name: Training(*one, output) for name, one in runs.items()}
