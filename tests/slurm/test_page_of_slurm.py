"""The page docs/start/slurm.md on the real cluster: its commands, one after the other, small."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from shown import LEFT_OPEN, ROOT, list_commands, words_of
from test_runs import call
from test_tasks import SETTINGS, TIMEOUT_S

PAGE = ROOT / "docs" / "start" / "slurm.md"
SMALLER = {
    r"--partition gpu": "--partition batch",
    r"my-project": "root",
    r"--folds 5": "--folds 2",
    r"resnet18,resnet34": "test_resnet,d4_net",
    r"--gpus-per-node 4": "--gpus-per-node 1",
}
QUICK = ("--set=train.epochs=2", "--set=train.warmup_epochs=0", "--set=train.batch_size=4")
TINY_UNET = ("--folds=1", *(f"--set={key}={value}" for key, value in SETTINGS["diffusion"].items()))


def page_commands() -> list[list[str]]:
    """Return the arguments of the page's commands, at a size that this machine can train."""
    shown = [one for one, alone in list_commands(PAGE.read_text("utf-8")) if alone]
    for pattern, smaller in SMALLER.items():
        shown = [re.sub(pattern, smaller, one) for one in shown if not LEFT_OPEN.search(one)]
    return [words_of(one) for one in shown]


def succeeded(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = call(folder, *arguments)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done


@pytest.mark.slow
def test_page_is_followed_from_the_doctor_to_a_report(cluster, tmp_path: Path, monkeypatch):
    doctor, prepare, planned, diffusion, status, logs, cancel = page_commands()
    images = ("--train", "lens=16,nonlens=32", "--test", "lens=8,nonlens=16")
    succeeded(tmp_path, "simulate", "lens_finding", "images", *images)
    succeeded(tmp_path, *doctor)
    succeeded(tmp_path, *prepare)
    assert [path.name for path in (tmp_path / "slurm").iterdir()] == ["mycluster.yaml"]

    shown = succeeded(tmp_path, *planned, *QUICK).stdout
    assert re.findall(r"^ *\d+  \S+ +submitted$", shown, re.MULTILINE) != []
    assert "#SBATCH --array=0-3%" in shown
    planned.remove("--dry-run")
    sent = json.loads(succeeded(tmp_path, *planned, *QUICK, "--json").stdout)
    name = Path(sent["run"]).name
    assert sent["members"] == [0, 1, 2, 3]

    monkeypatch.setenv("LENSHPC_SITE", "./slurm/mycluster.yaml")
    monkeypatch.setenv("LENSHPC_DATA", "stores/lenses")
    drawn = json.loads(succeeded(tmp_path, *diffusion, *QUICK, *TINY_UNET, "--json").stdout)

    for command in (cancel, status, logs):
        command[command.index("lens_finding-9f2c51ab")] = name
    succeeded(tmp_path, *cancel)
    watched = call(tmp_path, *status)
    states = re.findall(r"^\d{3}-\S+ +([A-Z]+)", watched.stderr, re.MULTILINE)
    assert (watched.returncode, states) == (1, ["DONE", "DONE", "DONE", "CANCELLED"]), watched
    succeeded(tmp_path, "resume", name)
    cluster.wait([sent["job"]], ("COMPLETED", "CANCELLED"), timeout_s=TIMEOUT_S)
    assert "epoch 2/2" in succeeded(tmp_path, *logs).stdout
    assert call(tmp_path, *status).returncode == 0
    assert (Path(sent["run"]) / "report" / "report.html").is_file()

    cluster.wait([drawn["job"], drawn["report"]], timeout_s=TIMEOUT_S)
    report = json.loads((Path(drawn["run"]) / "report" / "report.json").read_text())
    assert {one["num_processes"] for one in report["members"]} == {4}
