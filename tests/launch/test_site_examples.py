"""What is sent to each kind of site that slurm/examples describes: the whole dry run.

Written anew, to be read in the difference, with: LENSHPC_WRITE_GOLDEN=1 pytest FILE
"""

import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lenshpc.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "slurm" / "examples"
GOLDEN = Path(__file__).parent / "golden"
KINDS = ["cpu-partition", "elastic-cloud", "gres-only", "mem-per-cpu", "pyxis", "typed-gpus"]
COMMAND = ["submit", "--task", "multiclass", "--models", "resnet18", "--folds", "2", "--dry-run"]


def test_every_example_has_a_dry_run():
    assert sorted(path.stem for path in EXAMPLES.glob("*.yaml")) == KINDS
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_example_is_asked_as_the_site_wants(spots, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SBATCH_QOS", "from-the-shell")
    command = [*COMMAND, "--data", str(spots.path), "--site", str(EXAMPLES / f"{kind}.yaml")]
    shown = CliRunner().invoke(main, command, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    told = shown.stdout
    for words, name in {
        str(tmp_path): "FOLDER",
        str(spots.path): "STORE",
        sys.executable: "PYTHON",
    }.items():
        told = told.replace(words, name)
    told = re.sub(r"multiclass-[0-9a-f]{8}", "multiclass-FINGERPRINT", told)
    told = re.sub(r"code/[0-9a-f]{16}", "code/HASH", told)
    told = "\n".join(line.rstrip() for line in told.split("\n"))
    path = GOLDEN / f"{kind}.txt"
    if os.environ.get("LENSHPC_WRITE_GOLDEN"):
        path.write_text(told)
    assert told == path.read_text()
