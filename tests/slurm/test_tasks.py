"""Every task beside classification on two nodes of the real cluster, under DDP and under ZeRO-2."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pairs_run import write_pairs
from test_runs import call
from zarr import open_array

from lenshpc.store import Store

TIMEOUT_S = 1800
SMALL_VIT = {"patch": 8, "width": 16, "depth": 1, "heads": 2}
SETTINGS = {
    "anomaly": {"data.crop": 32, "data.image_size": 16, "method.normal": "class0"},
    "super_resolution": {"method.width": 4, "method.blocks": 1},
    "diffusion": {
        "data.image_size": 16,
        "method.width": 8,
        "method.multipliers": "[1, 2]",
        "method.num_samples": 8,
        "method.sampling_steps": 4,
        "train.precision": "fp32",
    },
    "physics_guided": {
        "data.crop": 32,
        "data.image_size": 32,
        "method.physics.pixel_scale_arcsec": 0.15,
    },
    "foundation": {"method.vit": json.dumps(SMALL_VIT), "method.classes": "[class0]", "then": "[]"},
}
MODELS = {
    "anomaly": "conv_ae",
    "physics_guided": "test_resnet,test_resnet+plain",
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SETTINGS)
def test_two_nodes_train_alike_under_both_strategies_and_end_in_a_report(
    cluster, recipe: str, spots: Store, tmp_path: Path
):
    store = spots.path
    if recipe == "super_resolution":
        store = tmp_path / "store"
        write_pairs(store)
    runs = {kind: submitted(tmp_path, recipe, store, kind) for kind in ("ddp", "deepspeed")}
    jobs = [one[key] for one in runs.values() for key in ("job", "report")]
    cluster.wait(jobs, timeout_s=TIMEOUT_S)
    losses = {kind: reported_losses(Path(one["run"])) for kind, one in runs.items()}
    assert losses["deepspeed"] == pytest.approx(losses["ddp"], rel=1e-3)


def submitted(folder: Path, recipe: str, store: Path, strategy: str) -> dict:
    settings = {
        "train.strategy": strategy,
        "train.epochs": 2,
        "train.warmup_epochs": 1,
        "train.batch_size": 8,
        **SETTINGS[recipe],
    }
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    size = ["--folds", "1", "--seeds", "0", "--nodes", "2", "--gpus-per-node", "1"]
    chosen = ["--models", MODELS[recipe]] if recipe in MODELS else []
    source = ["--recipe", recipe, "--data", str(store), "--name", strategy, "--site", "rehearsal"]
    done = call(folder, "submit", *source, *size, *chosen, *changes, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def reported_losses(run: Path) -> list[float]:
    report = json.loads((run / "report" / "report.json").read_text())
    assert report["missing"] == []
    assert {one["num_processes"] for one in report["members"]} == {2}
    return [one["val_loss"] for one in report["members"]]


@pytest.mark.slow
def test_array_draws_the_samples_that_this_machine_draws(cluster, spots: Store, tmp_path: Path):
    sent = submitted(tmp_path, "diffusion", spots.path, "ddp")
    cluster.wait([sent["job"], sent["report"]], timeout_s=TIMEOUT_S)
    run, name = Path(sent["run"]), "member0_seed0"
    asked = ["sample", str(run), "--num", "300", "--json"]
    assert call(tmp_path, *asked).returncode == 0
    alone = open_array(run / "samples.zarr" / name)[:]
    shutil.rmtree(run / "samples.zarr")
    done = call(tmp_path, *asked, "--site", "rehearsal", "--array-size", "2")
    assert done.returncode == 0, done.stderr
    cluster.wait(json.loads(done.stdout)["job"], timeout_s=TIMEOUT_S)
    assert np.array_equal(open_array(run / "samples.zarr" / name)[:], alone)


@pytest.mark.slow
def test_chain_waits_for_the_weights_that_it_starts_from(cluster, spots: Store, tmp_path: Path):
    after = {"task": "multiclass", "models": ["mae_vit"], "folds": 1, "method": {"vit": SMALL_VIT}}
    train = {"epochs": 1, "batch_size": 8}
    first = {"task": "foundation", "models": ["mae_vit"], "folds": 1, "then": ["./after.yaml"]}
    first |= {"method": {"vit": SMALL_VIT, "classes": ["class0"]}}
    for name, recipe in {"first": first, "after": after}.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps({**recipe, "train": train}))
    source = ["--recipe", "./first.yaml", "--data", str(spots.path), "--site", "rehearsal"]
    done = call(tmp_path, "submit", *source, "--json")
    assert done.returncode == 0, done.stderr
    before, later = map(json.loads, done.stdout.splitlines())
    (waiting,) = [row for row in cluster.squeue() if row[0] == later["job"]]
    assert waiting[1:] == ("PENDING", "Dependency")
    jobs = [one[key] for one in (before, later) for key in ("job", "report")]
    cluster.wait(jobs, timeout_s=TIMEOUT_S)
    assert json.loads((Path(later["run"]) / "report/report.json").read_text())["missing"] == []
